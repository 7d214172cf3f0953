"""Costs worked out before step 0, against a real forward; those of the released networks are in test_unet.py."""

import pytest
import torch

from guided_diffusion import create_model, load_config
from guided_diffusion.networks.estimate import describe, estimate

PATCH = "models.unet.unet_receptive.UNetModel"


def small_config(**overrides):
    params = {"image_size": 32, "model_channels": 32, "channel_mult": [1], "num_res_blocks": 1}
    return load_config({"model": {"target": PATCH, "params": params}}, 2, overrides)


def test_memory_is_weights_and_kept_activations():
    """The activations are those which a real forward keeps; everything but them does not grow with the batch."""
    model, kept = create_model(small_config()), {}

    def keep(tensor):
        kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        model(torch.zeros(1, 6, 32, 32), torch.zeros(1))
    weights = {p.untyped_storage().data_ptr() for p in model.parameters()}
    activations = sum(s.nbytes() for pointer, s in kept.items() if pointer not in weights)
    changes = ({}, {"data.bs_per_gpu": 3}, {"train.activation_checkpointing": True})
    one, three, again = (estimate(small_config(**{"data.bs_per_gpu": 1, **c})).training_bytes for c in changes)
    assert three - one == pytest.approx(2 * activations, rel=0.02) and one - again > 0.5 * activations
    assert one - activations == pytest.approx(20 * sum(p.numel() for p in model.parameters()), rel=0.02)


def test_warnings_for_networks_that_will_disappoint():
    assert "receptive field    17 px (image 32 x 32)" in (lines := describe(small_config()))
    assert "warning: at width 32 each norm group is a single channel" in lines
    assert "warning" not in describe(small_config(**{"model.norm_groups": 8}))
    wide = {"model.norm_groups": 8, "model.channel_mult": [1, 1], "data.resolution": 64}
    assert "warning: the patch network sees 45 px, 70% of the image" in describe(small_config(**wide))
    assert "warning" not in describe(small_config(**wide | {"data.resolution": 80}))
