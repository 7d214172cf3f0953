"""The two networks against the released ones: names, shapes, outputs; receptive field against its measurement."""

import json
import math
import shutil
import zlib

import numpy as np
import pytest
import torch
from torch import nn

from guided_diffusion import create_model, load_config
from guided_diffusion.networks.estimate import describe, estimate, receptive_field
from guided_diffusion.networks.nn import AttentionBlock, ResBlock, upsample
from guided_diffusion.networks.unet import UNet

GLOBAL = "models.unet.openaiunet.UNetModel"
PATCH = "models.unet.unet_receptive.UNetModel"


def model_config(target, **params):
    params = {"in_channels": 9, "model_channels": 32, **params}
    return load_config({"model": {"target": target, "params": params}}).model


@pytest.mark.parametrize("name, target", [("global", GLOBAL), ("patch", PATCH)])
def test_output_agrees_with_the_released_network(shared_dir, name, target):
    data = np.load(shared_dir / "fixtures" / f"{name}_unet.npz")
    model = create_model(load_config({"model": {"target": target, "params": json.loads(str(data["config"]))}}))
    for key, tensor in model.state_dict().items():  # the weights that fixtures/README.md prescribes
        z = np.random.default_rng(zlib.crc32((str(data["salt"]) + key).encode())).standard_normal(tuple(tensor.shape))
        z = z.astype("float32")
        scaled = z / np.sqrt(np.prod(z.shape[1:])) if z.ndim > 1 else 0.1 * z + key.endswith("weight")
        tensor.copy_(torch.from_numpy(scaled.astype("float32")))
    with torch.no_grad():
        y = model(torch.from_numpy(data["x"]), torch.from_numpy(data["t"])).numpy()
    assert np.linalg.norm(y - data["y"]) / np.linalg.norm(data["y"]) < 1e-5


# Counted GFLOP of one forward at 256 x 256, 2 per multiply-add; ours include the attention products.
@pytest.mark.parametrize("name, target, gflop", [("large", GLOBAL, 502), ("small", PATCH, 2112)])
def test_names_shapes_and_costs_are_the_released_ones(shared_dir, name, target, gflop):
    released = json.loads((shared_dir / "fixtures" / f"released_{name}.json").read_text())
    config = load_config({"model": {"target": target, "params": released["config"]}})
    with torch.device("meta"):
        model = create_model(config)
    ours = [(key, list(tensor.shape)) for key, tensor in model.state_dict().items()]
    assert ours == list(released["state_dict"].items())
    cost = estimate(config)
    assert sum(p.numel() for p in model.parameters()) == cost.parameters == released["parameters"]
    assert cost.flops_per_image == pytest.approx(gflop * 1e9, rel=0.02)
    assert "warning" not in describe(config)


@pytest.mark.parametrize("target", [GLOBAL, PATCH])
def test_a_fresh_network_predicts_zero_and_keeps_the_shape(target):
    model = UNet(model_config(target, channel_mult=[1, 2], num_res_blocks=1))
    y = model(torch.randn(2, 9, 10, 6), torch.tensor([0, 999]))
    assert y.shape == (2, 9, 10, 6) and y.abs().max() == 0  # the last convolution starts at zero
    last = [part.out_layers[-1] for part in model.modules() if isinstance(part, ResBlock)]
    last += [part.proj_out for part in model.modules() if isinstance(part, AttentionBlock)]
    assert len(last) > 4 and not any(layer.weight.any() or layer.bias.any() for layer in last)  # so does each block's


@pytest.mark.parametrize(
    ("mult", "blocks", "pixels"),  # the first is the released small network's; 17 px are 8 convolutions of 3 x 3
    [([1, 2, 4], 2, 157), ([1], 1, 17), ([1, 2], 1, 45), ([1, 2], 2, 69), ([1, 1, 1], 1, 101)],
)
def test_receptive_field_is_what_the_gradient_sees(mult, blocks, pixels, monkeypatch):
    """Normalisation (global statistics) is taken out of the path; all weights positive, so nothing cancels."""
    config = model_config(PATCH, channel_mult=mult, num_res_blocks=blocks)
    for module in ("nn", "unet"):
        monkeypatch.setattr(f"guided_diffusion.networks.{module}.group_norm", lambda norm, x, **around: x)
    embed = "guided_diffusion.networks.unet.timestep_embedding"
    monkeypatch.setattr(embed, lambda t, dim: torch.zeros(1, dim, dtype=torch.double))
    monkeypatch.setattr(nn.SiLU, "forward", lambda self, x: x)
    monkeypatch.setattr(torch.Tensor, "float", lambda self: self)
    model = UNet(config).double()
    for p in model.parameters():
        nn.init.constant_(p, 0.01)
    size = 2 * pixels // 8 * 8 + 16
    x, spans = torch.zeros(1, 9, 8, size, dtype=torch.double, requires_grad=True), []
    for column in range(size // 2, size // 2 + config.size_multiple):
        (gradient,) = torch.autograd.grad(model(x, torch.zeros(1))[..., column].sum(), x)
        seen = gradient.abs().sum(dim=(0, 1, 2)).nonzero().ravel()
        spans.append(int(seen.max() - seen.min()) + 1)
    assert max(spans) == receptive_field(config) == pixels
    assert receptive_field(model_config(GLOBAL, channel_mult=mult, num_res_blocks=blocks)) == math.inf


@pytest.mark.skipif(not shutil.which("g++"), reason="torch.compile needs a C++ compiler")
def test_gradients_survive_a_compiled_upsampling():
    """In bf16 torch 2.13's compiler for the CPU makes those of nn.Upsample zero."""
    torch.manual_seed(0)
    conv, blocks = nn.Conv2d(4, 8, 3, padding=1), [ResBlock(8, 16, 8, 0.0, False, 4) for _ in range(2)]
    model = nn.ModuleList([conv, *blocks, upsample(8)]).to(memory_format=torch.channels_last)
    for parameter in model.parameters():
        parameter.data += 0.02 * torch.randn_like(parameter)
    x, emb = torch.randn(4, 4, 8, 8).to(memory_format=torch.channels_last), torch.randn(4, 16)

    def gradients(forward, bf16):
        model.zero_grad()
        with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            forward(x, emb).float().square().mean().backward()
        return [parameter.grad.clone() for parameter in model.parameters()]

    def forward(x, emb):
        return blocks[1](model[3](blocks[0](conv(x), emb)), emb)

    for ours, exact in zip(gradients(torch.compile(forward), True), gradients(forward, False), strict=True):
        assert (ours - exact).norm() < 0.05 * exact.norm()


def test_a_block_drops_out_while_it_trains_alone():
    block = ResBlock(8, 16, 8, 1.0, False, 4)  # all of it
    nn.init.ones_(block.out_layers[-1].weight)
    x, emb = torch.randn(2, 8, 4, 4), torch.randn(2, 16)
    assert torch.equal(block(x, emb), x) and not torch.equal(block.eval()(x, emb), x)
