"""Costs worked out before step 0, against counted figures."""

import json

import pytest
import torch

from guided_diffusion import create_model, load_config
from guided_diffusion.networks.estimate import describe, estimate, warnings

PATCH = "models.unet.unet_receptive.UNetModel"


@pytest.mark.parametrize("name, gflop", [("large", 502), ("small", 2112)])
def test_flops_of_the_released_networks(shared_dir, name, gflop):
    """Counted figures for one forward at 256 x 256, 2 per multiply-add; ours include the attention products."""
    released = json.loads((shared_dir / "fixtures" / f"released_{name}.json").read_text())
    target = PATCH if name == "small" else "models.unet.openaiunet.UNetModel"
    config = load_config({"model": {"target": target, "params": released["config"]}})
    cost = estimate(config)
    assert cost.flops_per_image == pytest.approx(gflop * 1e9, rel=0.02)
    assert cost.parameters == released["parameters"]
    assert warnings(config, cost) == []


def small_config(**overrides):
    model = {
        "target": PATCH,
        "params": {"image_size": 32, "model_channels": 32, "channel_mult": [1], "num_res_blocks": 1},
    }
    return load_config({"model": model}, 2, overrides)


def test_memory_is_weights_and_kept_activations():
    """The activations are those which a real forward keeps; everything but them does not grow with the batch."""
    config = small_config()
    model, kept = create_model(config), {}

    def keep(tensor):
        storage = tensor.untyped_storage()
        kept[storage.data_ptr()] = storage
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        model(torch.zeros(1, 6, 32, 32), torch.zeros(1))
    weights = {p.untyped_storage().data_ptr() for p in model.parameters()}
    activations = sum(s.nbytes() for pointer, s in kept.items() if pointer not in weights)
    costs = [estimate(small_config(**{"data.bs_per_gpu": b})).training_bytes for b in (1, 3)]
    assert costs[1] - costs[0] == pytest.approx(2 * activations, rel=0.02)
    assert costs[0] - activations == pytest.approx(20 * sum(p.numel() for p in model.parameters()), rel=0.02)


def test_warnings_for_networks_that_will_disappoint():
    def lines(**overrides):
        config = small_config(**overrides)
        return " ".join(warnings(config, estimate(config)))

    assert "at width 32 each norm group is a single channel" in lines()
    assert lines(**{"model.norm_groups": 8}) == ""
    wide = {"model.norm_groups": 8, "model.channel_mult": [1, 1], "data.resolution": 64}
    assert "sees 45 px, 70% of the image" in lines(**wide)
    assert lines(**wide | {"data.resolution": 80}) == ""
    config = small_config()
    assert "receptive field    17 px (image 32 x 32)" in describe(config, estimate(config))
