"""Group norm with scale and shift: every route and format against the plain formula in float64."""

import pytest
import torch
from torch import nn

from guided_diffusion.networks.norm import group_norm

N, C, H, W, GROUPS = 3, 16, 16, 24, 4


def run(function, modulated, dtype=torch.float64, memory_format=torch.contiguous_format):
    """Output and all gradients of function(norm, x, [emb])."""
    torch.manual_seed(0)
    shapes = [(N, C, H, W), (N, C, H, W), (C,), (C,), *([(N, C)] * 2 if modulated else [])]
    x, dy, weight, bias, *emb = (torch.randn(*shape, dtype=torch.float64) for shape in shapes)
    emb = [torch.cat(emb, dim=1)] if emb else []
    wide = torch.promote_types(dtype, torch.float32)  # of parameters and embedding
    norm = nn.GroupNorm(GROUPS, C).to(wide)
    norm.weight.data, norm.bias.data = weight.to(wide), bias.to(wide)
    leaves = [(2 * x + 1).to(dtype).contiguous(memory_format=memory_format), *(e.to(wide) for e in emb)]
    leaves = [leaf.requires_grad_() for leaf in leaves]
    y = function(norm, *leaves)
    y.backward(dy.to(dtype).contiguous(memory_format=memory_format))
    assert y.dtype == leaves[0].grad.dtype == dtype
    return [y.detach(), *(leaf.grad for leaf in leaves), norm.weight.grad, norm.bias.grad]


def formula(norm, x, emb=None):
    values = x.reshape(N, GROUPS, -1)
    centred = values - values.mean(-1, keepdim=True)
    y = (centred / (centred.square().mean(-1, keepdim=True) + norm.eps).sqrt()).reshape(x.shape)
    y = y * norm.weight[:, None, None] + norm.bias[:, None, None]
    if emb is not None:
        scale, shift = emb[..., None, None].chunk(2, dim=1)
        y = y * (1 + scale) + shift
    return y


@pytest.mark.parametrize("modulated", [False, True])
@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("compiling", [False, True])
@pytest.mark.parametrize("dtype, tolerance", [(torch.float64, 2e-7), (torch.float32, 1e-6), (torch.bfloat16, 6e-3)])
def test_output_and_gradients(compiling, memory_format, modulated, dtype, tolerance, monkeypatch):
    monkeypatch.setattr(torch.compiler, "is_compiling", lambda: compiling)
    for ours, exact in zip(run(group_norm, modulated, dtype, memory_format), run(formula, modulated), strict=True):
        assert (ours.double() - exact).norm() < tolerance * exact.norm()


def test_autocast_makes_no_float32_copy_and_keeps_the_memory_format():
    x = torch.randn(2, 32, 8, 8, dtype=torch.bfloat16).to(memory_format=torch.channels_last).requires_grad_()
    saved = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: saved.append(t) or t, lambda t: t):
        with torch.autocast("cpu", torch.bfloat16):
            y = group_norm(nn.GroupNorm(8, 32), x)
    assert y.dtype == torch.bfloat16 and y.is_contiguous(memory_format=torch.channels_last)
    assert all(t.dtype == torch.bfloat16 for t in saved if t.numel() >= x.numel())
    y.sum().backward()
    assert x.grad.is_contiguous(memory_format=torch.channels_last)


def test_sums_of_bf16_gradients_do_not_drift():
    """dx of a norm adds up to 0 in each group: what is left must be rounding, not a bias along the pixels."""
    torch.manual_seed(0)
    x = (torch.randn(1, 8, 64, 64) + 3).bfloat16().to(memory_format=torch.channels_last).requires_grad_()
    dy = (torch.randn(1, 8, 64, 64) + 1).bfloat16().to(memory_format=torch.channels_last)
    group_norm(nn.GroupNorm(2, 8), x).backward(dy)
    mean = x.grad.double().reshape(2, -1).mean(1)
    assert (mean.abs() < 1e-2 * x.grad.double().std()).all()
