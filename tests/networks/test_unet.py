"""The two networks against the released ones: names, shapes, outputs; receptive field against its measurement."""

import json
import math
import zlib

import numpy as np
import pytest
import torch
from torch import nn

from guided_diffusion import create_model, load_config
from guided_diffusion.errors import InputError
from guided_diffusion.networks.estimate import receptive_field
from guided_diffusion.networks.unet import UNet

GLOBAL = "models.unet.openaiunet.UNetModel"
PATCH = "models.unet.unet_receptive.UNetModel"


def model_config(target, **params):
    return load_config({"model": {"target": target, "params": {"in_channels": 9, **params}}}).model


def fill_by_name(model, salt):
    """The weights that fixtures/README.md prescribes."""
    for name, tensor in model.state_dict().items():
        seed = zlib.crc32((salt + name).encode())
        z = np.random.default_rng(seed).standard_normal(tuple(tensor.shape)).astype("float32")
        if z.ndim == 1:
            z = 1 + 0.1 * z if name.endswith("weight") else 0.1 * z
        else:
            z = z / np.sqrt(np.prod(z.shape[1:]))
        tensor.copy_(torch.from_numpy(z.astype("float32")))


@pytest.mark.parametrize("name, target", [("global", GLOBAL), ("patch", PATCH)])
def test_output_agrees_with_the_released_network(shared_dir, name, target):
    data = np.load(shared_dir / "fixtures" / f"{name}_unet.npz")
    config = load_config({"model": {"target": target, "params": json.loads(str(data["config"]))}})
    model = create_model(config)
    fill_by_name(model, str(data["salt"]))
    with torch.no_grad():
        y = model(torch.from_numpy(data["x"]), torch.from_numpy(data["t"])).numpy()
    assert np.linalg.norm(y - data["y"]) / np.linalg.norm(data["y"]) < 1e-5


@pytest.mark.parametrize("name, target", [("large", GLOBAL), ("small", PATCH)])
def test_names_and_shapes_are_the_released_ones(shared_dir, name, target):
    released = json.loads((shared_dir / "fixtures" / f"released_{name}.json").read_text())
    config = load_config({"model": {"target": target, "params": released["config"]}})
    with torch.device("meta"):
        model = create_model(config)
    ours = [(key, list(tensor.shape)) for key, tensor in model.state_dict().items()]
    assert ours == list(released["state_dict"].items())
    assert sum(p.numel() for p in model.parameters()) == released["parameters"]


def test_fresh_network_predicts_zero_and_keeps_the_shape():
    for target in (GLOBAL, PATCH):
        model = UNet(model_config(target, model_channels=32, channel_mult=[1, 2], num_res_blocks=1))
        y = model(torch.randn(2, 9, 10, 6), torch.tensor([0, 999]))
        assert y.shape == (2, 9, 10, 6) and y.abs().max() == 0  # the last convolution starts at zero


def test_size_that_the_levels_do_not_divide_names_the_multiple():
    model = UNet(model_config(PATCH, model_channels=32, channel_mult=[1, 1, 1], num_res_blocks=1))
    with pytest.raises(InputError, match=r"30 x 32.*multiples of 4"):
        model(torch.zeros(1, 9, 30, 32), torch.zeros(1))


@pytest.mark.parametrize("groups, scale_shift, sees_t", [(8, False, True), (32, True, True), (32, False, False)])
def test_timesteps_change_the_output(groups, scale_shift, sees_t):
    """Where each group is one channel (width 32, 32 groups) an added embedding is normalised away."""
    torch.manual_seed(0)
    config = model_config(
        PATCH,
        model_channels=32,
        norm_groups=groups,
        channel_mult=[1],
        num_res_blocks=1,
        use_scale_shift_norm=scale_shift,
    )
    model = UNet(config)
    for p in model.parameters():
        nn.init.normal_(p, std=0.1)
    y = model(torch.randn(1, 9, 8, 8).expand(2, -1, -1, -1), torch.tensor([3, 700]))
    assert ((y[0] - y[1]).abs().max() > 1e-3) == sees_t


@pytest.mark.parametrize(
    "params, pixels",
    [
        ({"channel_mult": [1, 2, 4], "num_res_blocks": 2}, 157),  # the released small network
        ({"channel_mult": [1, 2], "num_res_blocks": 2}, 69),
        ({"channel_mult": [1], "num_res_blocks": 1}, 17),  # 8 convolutions of 3 x 3
    ],
)
def test_receptive_field_known_values(params, pixels):
    assert receptive_field(model_config(PATCH, model_channels=32, **params)) == pixels
    assert receptive_field(model_config(GLOBAL, model_channels=32, **params)) == math.inf


@pytest.mark.parametrize("mult, blocks", [([1, 1], 1), ([1, 1], 2), ([1, 2], 1), ([1, 1, 1], 1)])
def test_receptive_field_is_what_the_gradient_sees(mult, blocks, monkeypatch):
    """Normalisation (global statistics) is taken out of the path; all weights positive, so nothing cancels."""
    config = model_config(PATCH, model_channels=32, channel_mult=mult, num_res_blocks=blocks)
    monkeypatch.setattr("guided_diffusion.networks.nn.group_norm", lambda norm, x: x)
    model = UNet(config)
    for module in model.modules():
        for name, child in module.named_children():
            if isinstance(child, nn.SiLU):
                setattr(module, name, nn.Identity())
    model = model.double()
    for p in model.parameters():
        nn.init.constant_(p, 0.01)
    size = 2 * math.ceil(receptive_field(config)) // 8 * 8 + 16
    x = torch.zeros(1, 9, 8, size, dtype=torch.double, requires_grad=True)
    emb = torch.zeros(1, 4 * config.model_channels, dtype=torch.double)
    spans = []
    for column in range(size // 2, size // 2 + config.size_multiple):
        (gradient,) = torch.autograd.grad(double_forward(model, x, emb)[..., column].sum(), x)
        seen = gradient.abs().sum(dim=(0, 1, 2)).nonzero().ravel()
        spans.append(int(seen.max() - seen.min()) + 1)
    assert max(spans) == receptive_field(config)


def double_forward(model, x, emb):
    """UNet.forward of a patch network in float64, without the timestep embedding, which is float32."""
    skips, h = [], x
    for stage in model.input_blocks:
        h = stage(h, emb)
        skips.append(h)
    skips[-1] = None
    for stage in model.output_blocks:
        skip = skips.pop()
        h = stage(h if skip is None else torch.cat([h, skip], dim=1), emb)
    return model.out[1:](h)
