"""Group normalisation and what surrounds it, in Triton, for tensors in channels_last.

y = act(norm(x + added) * (1 + scale) + shift), act: SiLU or nothing. Forward, x is read twice and y written once;
backward, x and dy are read twice and dx is written once: x is all that is kept, the rest is computed anew. Statistics
and sums are float32. They add up over chunks of pixels, then over the chunks, always in the same order.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor
from torch.library import triton_op, wrap_triton

TILE = 4096  # numbers that a program holds at once
PROGRAMS = 1024  # at least as many keep a GPU busy


@triton.jit
def _channels(c, n, weight, bias, added, emb, mean, rstd, C, D, ADDED: tl.constexpr, EMB: tl.constexpr):
    """Of channels c of image n: (x - centre) * scale is normalised, that * gain + lift is the activation's input."""
    live = c < C
    group = n * (C // D) + c // D
    centre = tl.load(mean + group, live, 0.0)
    if ADDED:
        centre -= tl.load(added + n * C + c, live, 0.0).to(tl.float32)
    gain = tl.load(weight + c, live, 0.0).to(tl.float32)
    lift = tl.load(bias + c, live, 0.0).to(tl.float32)
    if EMB:  # [N, 2C]: scale, shift
        factor = 1 + tl.load(emb + 2 * n * C + c, live, 0.0).to(tl.float32)
        gain *= factor
        lift = lift * factor + tl.load(emb + 2 * n * C + C + c, live, 0.0).to(tl.float32)
    return centre, tl.load(rstd + group, live, 0.0), gain, lift


@triton.jit
def _through_silu(dy, z):
    """dy * SiLU'(z)."""
    sigmoid = 1 / (1 + tl.exp(-z))
    return dy * sigmoid * (1 + z * (1 - sigmoid))


@triton.jit
def _moments(x, means, squares, pixels, C, chunks, length, R: tl.constexpr, K: tl.constexpr):
    """Mean, and sum of squares around it, of each channel in each chunk of `length` pixels: [N, chunks, C]."""
    blocks = (C + K - 1) // K
    c = tl.program_id(0) % blocks * K + tl.arange(0, K)
    chunk, n = tl.program_id(0) // blocks, tl.program_id(1)
    count = tl.minimum(length, pixels - chunk * length)
    x += (n.to(tl.int64) * pixels + chunk * length) * C  # a batch may have more numbers than int32
    first = tl.load(x + c, c < C, 0.0).to(tl.float32)  # near the mean, so that nothing cancels
    total, square = tl.full([R, K], 0.0, tl.float32), tl.full([R, K], 0.0, tl.float32)
    for start in range(0, count, R):
        row = start + tl.arange(0, R)
        live = (row < count)[:, None] & (c < C)[None, :]
        value = tl.load(x + row[:, None] * C + c[None, :], live, 0.0).to(tl.float32) - first[None, :]
        value = tl.where(live, value, 0.0)
        total += value
        square += value * value
    mean = tl.sum(total, 0) / count
    at = (n * chunks + chunk) * C + c
    tl.store(means + at, first + mean, c < C)
    tl.store(squares + at, tl.sum(square, 0) - mean * mean * count, c < C)


@triton.jit
def _statistics(
    means, squares, added, mean, rstd, pixels, C, D, chunks, length, eps, ADDED: tl.constexpr, B: tl.constexpr
):
    """Mean and 1 / standard deviation of each group: [N, groups]."""
    n, first = tl.program_id(0) // (C // D), tl.program_id(0) % (C // D) * D
    total, square = tl.full([B], 0.0, tl.float32), tl.full([B], 0.0, tl.float32)
    for step in tl.static_range(2):
        centre = tl.sum(total, 0) / pixels / D  # 0 in the first step
        for start in range(0, chunks * D, B):
            i = start + tl.arange(0, B)
            live = i < chunks * D
            chunk, c = i // D, first + i % D
            count = tl.where(live, tl.minimum(length, pixels - chunk * length), 0).to(tl.float32)
            at = (n * chunks + chunk) * C + c
            value = tl.load(means + at, live, 0.0)
            if ADDED:
                value += tl.load(added + n * C + c, live, 0.0).to(tl.float32)
            if step == 0:
                total += count * value
            else:
                square += tl.load(squares + at, live, 0.0) + count * (value - centre) * (value - centre)
    tl.store(mean + tl.program_id(0), tl.sum(total, 0) / pixels / D)
    tl.store(rstd + tl.program_id(0), 1 / tl.sqrt(tl.sum(square, 0) / pixels / D + eps))


@triton.jit
def _apply(
    x, y, weight, bias, added, emb, mean, rstd, pixels, C, D,
    ADDED: tl.constexpr, EMB: tl.constexpr, SILU: tl.constexpr, R: tl.constexpr, K: tl.constexpr,
):  # fmt: skip
    blocks = (C + K - 1) // K
    c = tl.program_id(0) % blocks * K + tl.arange(0, K)
    start, n = tl.program_id(0) // blocks * R, tl.program_id(1)
    centre, scale, gain, lift = _channels(c, n, weight, bias, added, emb, mean, rstd, C, D, ADDED, EMB)
    row = tl.arange(0, R)
    live = (start + row < pixels)[:, None] & (c < C)[None, :]
    at = (n.to(tl.int64) * pixels + start) * C + (row[:, None] * C + c[None, :])
    value = tl.load(x + at, live, 0.0).to(tl.float32)
    z = (value - centre[None, :]) * (scale * gain)[None, :] + lift[None, :]
    if SILU:
        z = z / (1 + tl.exp(-z))
    tl.store(y + at, z, live)


@triton.jit
def _sums(
    dy, x, sums, weight, bias, added, emb, mean, rstd, pixels, C, D, chunks, length,
    ADDED: tl.constexpr, EMB: tl.constexpr, SILU: tl.constexpr, R: tl.constexpr, K: tl.constexpr,
):  # fmt: skip
    """Of each channel in each chunk, sums of dz, dz * normalised x, normalised x: [N, chunks, 3, C]."""
    blocks = (C + K - 1) // K
    c = tl.program_id(0) % blocks * K + tl.arange(0, K)
    chunk, n = tl.program_id(0) // blocks, tl.program_id(1)
    count = tl.minimum(length, pixels - chunk * length)
    base = (n.to(tl.int64) * pixels + chunk * length) * C
    centre, scale, gain, lift = _channels(c, n, weight, bias, added, emb, mean, rstd, C, D, ADDED, EMB)
    sum_dz, sum_both = tl.full([R, K], 0.0, tl.float32), tl.full([R, K], 0.0, tl.float32)
    sum_x = tl.full([R, K], 0.0, tl.float32)
    for start in range(0, count, R):
        row = start + tl.arange(0, R)
        live = (row < count)[:, None] & (c < C)[None, :]
        at = base + (row[:, None] * C + c[None, :])
        normal = (tl.load(x + at, live, 0.0).to(tl.float32) - centre[None, :]) * scale[None, :]
        dz = tl.load(dy + at, live, 0.0).to(tl.float32)  # 0 beyond the last pixel
        if SILU:
            dz = _through_silu(dz, normal * gain[None, :] + lift[None, :])
        sum_dz += dz
        sum_both += dz * normal
        if ADDED:
            sum_x += tl.where(live, normal, 0.0)
    sums += (n * chunks + chunk) * 3 * C + c
    tl.store(sums, tl.sum(sum_dz, 0), c < C)
    tl.store(sums + C, tl.sum(sum_both, 0), c < C)
    if ADDED:
        tl.store(sums + 2 * C, tl.sum(sum_x, 0), c < C)


@triton.jit
def _merge(
    sums, d_params, d_added, d_emb, slopes, weight, bias, added, emb, mean, rstd, N, pixels, C, D, chunks,
    ADDED: tl.constexpr, EMB: tl.constexpr, R: tl.constexpr, K: tl.constexpr,
):  # fmt: skip
    """Of each group, means of gain * dz and of that * normalised x: [N, groups, 2]; and all gradients but dx."""
    n, first = tl.program_id(0) // (C // D), tl.program_id(0) % (C // D) * D
    c, live = first + tl.arange(0, K), tl.arange(0, K) < D
    dz, both = tl.full([R, K], 0.0, tl.float32), tl.full([R, K], 0.0, tl.float32)
    normal = tl.full([R, K], 0.0, tl.float32)
    for start in range(0, chunks, R):
        row = start + tl.arange(0, R)
        at, there = (n * chunks + row)[:, None] * 3 * C + c[None, :], (row < chunks)[:, None] & live[None, :]
        dz += tl.load(sums + at, there, 0.0)
        both += tl.load(sums + at + C, there, 0.0)
        if ADDED:
            normal += tl.load(sums + at + 2 * C, there, 0.0)
    dz, both = tl.sum(dz, 0), tl.sum(both, 0)
    w = tl.load(weight + c, live, 0.0).to(tl.float32)
    factor = tl.full([K], 1.0, tl.float32)
    if EMB:
        factor += tl.load(emb + 2 * n * C + c, live, 0.0).to(tl.float32)
        tl.store(d_emb + 2 * n * C + c, w * both + tl.load(bias + c, live, 0.0).to(tl.float32) * dz, live)
        tl.store(d_emb + 2 * n * C + C + c, dz, live)
    tl.store(d_params + n * C + c, factor * both, live)
    tl.store(d_params + (N + n) * C + c, factor * dz, live)
    mean_dz = tl.sum(w * factor * dz, 0) / pixels / D
    mean_both = tl.sum(w * factor * both, 0) / pixels / D
    tl.store(slopes + 2 * tl.program_id(0), mean_dz)
    tl.store(slopes + 2 * tl.program_id(0) + 1, mean_both)
    if ADDED:  # the sum of dx
        scale = tl.load(rstd + tl.program_id(0))
        change = scale * (w * factor * dz - pixels * mean_dz - mean_both * tl.sum(normal, 0))
        tl.store(d_added + n * C + c, change, live)


@triton.jit
def _d_input(
    dy, x, dx, slopes, weight, bias, added, emb, mean, rstd, pixels, C, D,
    ADDED: tl.constexpr, EMB: tl.constexpr, SILU: tl.constexpr, R: tl.constexpr, K: tl.constexpr,
):  # fmt: skip
    blocks = (C + K - 1) // K
    c = tl.program_id(0) % blocks * K + tl.arange(0, K)
    start, n = tl.program_id(0) // blocks * R, tl.program_id(1)
    centre, scale, gain, lift = _channels(c, n, weight, bias, added, emb, mean, rstd, C, D, ADDED, EMB)
    slope = slopes + 2 * (n * (C // D) + c // D)
    mean_dz, mean_both = tl.load(slope, c < C, 0.0), tl.load(slope + 1, c < C, 0.0)
    row = tl.arange(0, R)
    live = (start + row < pixels)[:, None] & (c < C)[None, :]
    at = (n.to(tl.int64) * pixels + start) * C + (row[:, None] * C + c[None, :])
    normal = (tl.load(x + at, live, 0.0).to(tl.float32) - centre[None, :]) * scale[None, :]
    dz = tl.load(dy + at, live, 0.0).to(tl.float32)
    if SILU:
        dz = _through_silu(dz, normal * gain[None, :] + lift[None, :])
    value = (dz * gain[None, :] - mean_dz[None, :] - normal * mean_both[None, :]) * scale[None, :]
    tl.store(dx + at, value, live)


class _Plan:
    """How a tensor [N, C, H, W] is cut up: tiles of R pixels by K channels, chunks of `length` pixels."""

    def __init__(self, x: Tensor, groups: int):
        self.n, self.c, height, width = x.shape
        self.pixels, self.depth = height * width, self.c // groups
        # K divides C where that is worth a cache line, else the last block is cut off
        self.K = min(128, self.c & -self.c if self.c % 32 == 0 else max(16, triton.next_power_of_2(self.c)))
        self.R, blocks = TILE // self.K, -(-self.c // self.K)
        tiles = -(-self.pixels // self.R)
        self.length = -(-tiles // max(1, PROGRAMS // (self.n * blocks))) * self.R
        self.chunks = -(-self.pixels // self.length)
        self.by_tile, self.by_chunk = (tiles * blocks, self.n), (self.chunks * blocks, self.n)
        self.by_group = (self.n * groups,)


def _forward(
    x: Tensor, weight: Tensor, bias: Tensor, added: Tensor | None, emb: Tensor | None, groups: int, eps: float,
    silu: bool, launch: Callable[[Any], Any] = lambda kernel: kernel,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    plan = _Plan(x, groups)
    means, squares = (x.new_empty((plan.n, plan.chunks, plan.c), dtype=torch.float32) for _ in range(2))
    mean, rstd = (x.new_empty((plan.n, groups), dtype=torch.float32) for _ in range(2))
    y = torch.empty_like(x)
    sizes = plan.pixels, plan.c
    given = {"ADDED": added is not None, "EMB": emb is not None}
    vectors = weight, bias, weight if added is None else added, weight if emb is None else emb
    launch(_moments)[plan.by_chunk](x, means, squares, *sizes, plan.chunks, plan.length, R=plan.R, K=plan.K)
    launch(_statistics)[plan.by_group](
        means, squares, vectors[2], mean, rstd, *sizes, plan.depth, plan.chunks, plan.length, eps,
        ADDED=given["ADDED"], B=1024,
    )  # fmt: skip
    launch(_apply)[plan.by_tile](x, y, *vectors, mean, rstd, *sizes, plan.depth, **given, SILU=silu, R=plan.R, K=plan.K)
    return y, mean, rstd


def _gradients(
    dy: Tensor, x: Tensor, weight: Tensor, bias: Tensor, added: Tensor | None, emb: Tensor | None, mean: Tensor,
    rstd: Tensor, silu: bool, launch: Callable[[Any], Any] = lambda kernel: kernel,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
    """dx, dweight and dbias [2, C], dadded and demb (empty where there is none)."""
    plan = _Plan(x, mean.shape[1])
    sums = x.new_empty((plan.n, plan.chunks, 3, plan.c), dtype=torch.float32)
    slopes = torch.empty((*mean.shape, 2), dtype=torch.float32, device=x.device)
    d_params = x.new_empty((2, plan.n, plan.c), dtype=torch.float32)
    dx = torch.empty_like(x)
    d_added, d_emb = (x.new_empty(0) if one is None else torch.empty_like(one) for one in (added, emb))
    sizes = plan.pixels, plan.c, plan.depth
    given = {"ADDED": added is not None, "EMB": emb is not None}
    vectors = weight, bias, weight if added is None else added, weight if emb is None else emb, mean, rstd
    cut = {"SILU": silu, "R": plan.R, "K": plan.K}
    launch(_sums)[plan.by_chunk](dy, x, sums, *vectors, *sizes, plan.chunks, plan.length, **given, **cut)
    K = triton.next_power_of_2(plan.depth)
    launch(_merge)[plan.by_group](
        sums, d_params, d_added, d_emb, slopes, *vectors, plan.n, *sizes, plan.chunks,
        **given, R=max(1, 1024 // K), K=K,
    )  # fmt: skip
    launch(_d_input)[plan.by_tile](dy, x, dx, slopes, *vectors, *sizes, **given, **cut)
    return dx, d_params.sum(1), d_added, d_emb


@triton_op("defect_gen::group_norm", mutates_args={})
def _forward_op(
    x: Tensor, weight: Tensor, bias: Tensor, added: Tensor | None, emb: Tensor | None, groups: int, eps: float,
    silu: bool,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    return _forward(x, weight, bias, added, emb, groups, eps, silu, wrap_triton)


@triton_op("defect_gen::group_norm_backward", mutates_args={})
def _gradients_op(
    dy: Tensor, x: Tensor, weight: Tensor, bias: Tensor, added: Tensor | None, emb: Tensor | None, mean: Tensor,
    rstd: Tensor, silu: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
    return _gradients(dy, x, weight, bias, added, emb, mean, rstd, silu, wrap_triton)


def _save(ctx: Any, inputs: tuple, output: tuple[Tensor, Tensor, Tensor]) -> None:
    ctx.save_for_backward(*inputs[:5], *output[1:])
    ctx.silu = inputs[7]
    ctx.mark_non_differentiable(*output[1:])


def _backward(gradients: Callable, ctx: Any, dy: Tensor, *_: Any) -> tuple[Tensor | None, ...]:
    x, weight, bias, added, emb, mean, rstd = ctx.saved_tensors
    dy = dy.contiguous(memory_format=torch.channels_last)
    dx, d_params, d_added, d_emb = gradients(dy, x, weight, bias, added, emb, mean, rstd, ctx.silu)
    d_weight, d_bias = d_params.to(weight.dtype).unbind()
    d_added, d_emb = None if added is None else d_added, None if emb is None else d_emb
    return dx, d_weight, d_bias, d_added, d_emb, None, None, None


_forward_op.register_autograd(partial(_backward, _gradients_op), setup_context=_save)


class _Eager(torch.autograd.Function):
    """The operator without its cost on the host, which is that of many launches."""

    forward = staticmethod(lambda *args: _forward(*args))
    setup_context = staticmethod(_save)
    backward = staticmethod(partial(_backward, _gradients))


def fused_group_norm(
    x: Tensor, weight: Tensor, bias: Tensor, added: Tensor | None, emb: Tensor | None, groups: int, eps: float,
    silu: bool,
) -> Tensor:  # fmt: skip
    """x: [N, C, H, W]; weight, bias: [C]; added: [N, C] or None; emb: [N, 2C], scale and shift, or None."""
    x = x.contiguous(memory_format=torch.channels_last)
    args = (x, weight, bias, added, emb, groups, eps, silu)
    if torch.compiler.is_compiling():
        return _forward_op(*args)[0]
    with torch.cuda.device_of(x):  # Triton launches on the current device
        return _Eager.apply(*args)[0]
