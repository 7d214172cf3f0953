"""Costs worked out before step 0, against a real forward; those of the released networks are in test_unet.py."""

import pytest
import torch
from command_line import ROOT

from guided_diffusion import create_model, load_config, parallel
from guided_diffusion.errors import InputError
from guided_diffusion.networks.estimate import describe, estimate, forward_bytes
from guided_diffusion.parallel import check_memory

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
    batch = 2 * 6 * 32 * 32 * 4  # x_start and noise
    assert three - one == pytest.approx(2 * (activations + batch), rel=0.02) and one - again > 0.5 * activations
    assert one - activations - batch == pytest.approx(20 * sum(p.numel() for p in model.parameters()), rel=0.02)


def test_attention_takes_a_matrix_on_the_cpu_alone():
    target = "models.unet.openaiunet.UNetModel"
    params = {"image_size": 64, "model_channels": 32, "channel_mult": [1, 2], "num_res_blocks": 1}
    config = load_config(
        {"model": {"target": target, **params, "attention_downsample": [2]}, "data": {"bs_per_gpu": 1}}, 2
    )
    cpu, gpu = (estimate(config, device).training_bytes for device in ("cpu", "cuda"))
    assert cpu - gpu == 4 * 4 * 32**4  # float32, of four blocks: of 32 x 32 pixels, each with each


@pytest.mark.parametrize(
    "name, mib", [("large_recep", 390.8), ("small_recep", 740.8), ("demo_large", 8.11), ("demo_small", 5.13)]
)
def test_memory_of_a_forward_pass_without_gradients(name, mib):
    """mib: the most bytes that its tensors hold at once, by a TorchDispatchMode that counts storages."""
    config = load_config(str(ROOT / "configs" / f"{name}.yml"), 3)
    assert forward_bytes(config.model, config.data.resolution) / 2**20 == pytest.approx(mib, rel=0.15)


def test_what_is_larger_than_the_memory_is_refused(monkeypatch):
    monkeypatch.setattr(parallel, "cpu_memory", lambda: 2**29)
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    check_memory(2**28, "a step", "")
    with pytest.raises(InputError, match=r"^a step takes about 1\.0 GiB, but cpu has 0\.2 for a process; lower it$"):
        check_memory(2**30, "a step", "lower it", torch.device("cpu"))
    config = small_config(**{"data.resolution": 65536, "model.target": "models.unet.openaiunet.UNetModel"})
    with pytest.raises(InputError, match="65536 x 65536 pixels take more memory than any machine has"):
        estimate(config)


def test_warnings_for_networks_that_will_disappoint():
    assert "receptive field    17 px (image 32 x 32)" in (lines := describe(small_config()))
    assert "warning: at width 32 each norm group is a single channel" in lines
    assert "warning" not in describe(small_config(**{"model.norm_groups": 8}))
    wide = {"model.norm_groups": 8, "model.channel_mult": [1, 1], "data.resolution": 64}
    assert "warning: the patch network sees 45 px, 70% of the image" in describe(small_config(**wide))
    assert "warning" not in describe(small_config(**wide | {"data.resolution": 80}))
