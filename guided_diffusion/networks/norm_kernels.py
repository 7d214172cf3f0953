"""Group normalisation and what surrounds it, in Triton, for tensors in channels_last.

y = act(norm(x + added) * (1 + scale) + shift), act: SiLU or nothing. Forward, x is read twice and y written once;
backward, x and dy are read twice and dx is written once: x is all that is kept, the rest is computed anew. Sums are
float32; they add up over chunks of pixels, then over the chunks, always in the same order.
"""

from contextlib import nullcontext
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

TILE = 4096  # numbers that a program holds at once
PROGRAMS = 4096  # about as many in a grid keep a GPU busy to the end


@triton.jit
def _add(a, b):
    """For tl.reduce. tl.sum fails in the interpreter if Triton was imported before that was turned on."""
    return a + b


@triton.jit
def _place(pixels, C, rows, K: tl.constexpr):
    """Of this program: image, first of `rows` pixels, channels [K], and where its first number lies.

    The last is int64: a batch may have more numbers than int32."""
    blocks, pid, n = (C + K - 1) // K, tl.program_id(0), tl.program_id(1)
    first = pid // blocks * rows
    return n, first, pid % blocks * K + tl.arange(0, K), (n.to(tl.int64) * pixels + first) * C


@triton.jit
def _normalised(x, table, n, c, C, at, live):
    """Normalised x, what SiLU gets, and dz's and the norm's factor, from the channels' `table` (see _statistics)."""
    table += n * 5 * C + c
    centre, rstd = tl.load(table, c < C, 0.0), tl.load(table + C, c < C, 0.0)
    gain, lift = tl.load(table + 2 * C, c < C, 0.0), tl.load(table + 3 * C, c < C, 0.0)
    normal = (tl.load(x + at, live, 0.0).to(tl.float32) - centre[None, :]) * rstd[None, :]
    return normal, normal * gain[None, :] + lift[None, :], gain[None, :], rstd[None, :]


@triton.jit
def _before_silu(dy, z, at, live, SILU: tl.constexpr):
    dz = tl.load(dy + at, live, 0.0).to(tl.float32)  # 0 beyond the last pixel
    if SILU:
        sigmoid = 1 / (1 + tl.exp(-z))
        dz *= sigmoid * (1 + z * (1 - sigmoid))
    return dz


@triton.jit
def _moments(x, sums, pixels, C, chunks, length, R: tl.constexpr, K: tl.constexpr):
    """sums [N, chunks, 2, C]: of each channel in a chunk of `length` pixels, mean and sum of squares around it."""
    n, first, c, base = _place(pixels, C, length, K)
    count = tl.minimum(length, pixels - first)
    x += base
    guess = tl.load(x + c, c < C, 0.0).to(tl.float32)  # near the mean, so that nothing cancels
    total, square = tl.full([R, K], 0.0, tl.float32), tl.full([R, K], 0.0, tl.float32)
    for start in range(0, count, R):
        row = (start + tl.arange(0, R))[:, None]
        live = (row < count) & (c < C)[None, :]
        value = tl.load(x + row * C + c[None, :], live, 0.0).to(tl.float32) - guess[None, :]
        value = tl.where(live, value, 0.0)
        total += value
        square += value * value
    mean = tl.reduce(total, 0, _add) / count
    sums += (n * chunks + first // length) * 2 * C + c
    tl.store(sums, guess + mean, c < C)
    tl.store(sums + C, tl.reduce(square, 0, _add) - mean * mean * count, c < C)


@triton.jit
def _statistics(
    sums, table, weight, bias, added, emb, pixels, C, D, chunks, length, eps,
    ADDED: tl.constexpr, EMB: tl.constexpr, R: tl.constexpr, K: tl.constexpr,
):  # fmt: skip
    """table [N, 5, C]: normalised x = (x - [0]) * [1]; y = normalised x * [2] + [3]; mean of normalised x is [4]."""
    n, k = tl.program_id(1), tl.arange(0, K)
    c, live = tl.program_id(0) * D + k, k < D
    shift = tl.full([K], 0.0, tl.float32)
    if ADDED:
        shift += tl.load(added + n * C + c, live, 0.0).to(tl.float32)
    total, square = tl.full([R, K], 0.0, tl.float32), tl.full([R, K], 0.0, tl.float32)
    mean, middle = shift, 0.0
    for step in tl.static_range(2):
        for start in range(0, chunks, R):
            row = (start + tl.arange(0, R))[:, None]
            at, there = (n * chunks + row) * 2 * C + c[None, :], (row < chunks) & live[None, :]
            count = tl.where(there, tl.minimum(length, pixels - row * length), 0).to(tl.float32)
            value = tl.load(sums + at, there, 0.0) + shift[None, :]
            if step == 0:
                total += count * value
            else:
                square += tl.load(sums + at + C, there, 0.0) + count * (value - middle) * (value - middle)
        mean = tl.reduce(total, 0, _add) / pixels
        middle = tl.reduce(mean, 0, _add) / D
    rstd = 1 / tl.sqrt(tl.reduce(tl.reduce(square, 0, _add), 0, _add) / pixels / D + eps)
    gain, lift = tl.load(weight + c, live, 0.0).to(tl.float32), tl.load(bias + c, live, 0.0).to(tl.float32)
    if EMB:  # [N, 2C]: scale, shift
        factor = 1 + tl.load(emb + n * 2 * C + c, live, 0.0).to(tl.float32)
        gain *= factor
        lift = lift * factor + tl.load(emb + n * 2 * C + C + c, live, 0.0).to(tl.float32)
    table += n * 5 * C + c
    tl.store(table, middle - shift, live)
    tl.store(table + C, gain * 0 + rstd, live)
    tl.store(table + 2 * C, gain, live)
    tl.store(table + 3 * C, lift, live)
    tl.store(table + 4 * C, (mean - middle) * rstd, live)


@triton.jit
def _apply(x, y, table, pixels, C, SILU: tl.constexpr, R: tl.constexpr, K: tl.constexpr):
    n, first, c, base = _place(pixels, C, R, K)
    row = tl.arange(0, R)[:, None]
    at, live = row * C + c[None, :], (first + row < pixels) & (c < C)[None, :]
    _, z, _, _ = _normalised(x + base, table, n, c, C, at, live)
    if SILU:
        z = z / (1 + tl.exp(-z))
    tl.store(y + base + at, z, live)


@triton.jit
def _dots(dy, x, table, sums, pixels, C, chunks, length, SILU: tl.constexpr, R: tl.constexpr, K: tl.constexpr):
    """sums [N, chunks, 2, C]: of each channel in a chunk of pixels, sums of dz and of dz * normalised x."""
    n, first, c, base = _place(pixels, C, length, K)
    count = tl.minimum(length, pixels - first)
    sum_dz, sum_both = tl.full([R, K], 0.0, tl.float32), tl.full([R, K], 0.0, tl.float32)
    for start in range(0, count, R):
        row = (start + tl.arange(0, R))[:, None]
        at, live = row * C + c[None, :], (row < count) & (c < C)[None, :]
        normal, z, _, _ = _normalised(x + base, table, n, c, C, at, live)
        dz = _before_silu(dy + base, z, at, live, SILU)
        sum_dz += dz
        sum_both += dz * normal
    sums += (n * chunks + first // length) * 2 * C + c
    tl.store(sums, tl.reduce(sum_dz, 0, _add), c < C)
    tl.store(sums + C, tl.reduce(sum_both, 0, _add), c < C)


@triton.jit
def _gather(
    sums, table, d_vectors, weight, bias, emb, pixels, C, D, chunks,
    EMB: tl.constexpr, R: tl.constexpr, K: tl.constexpr,
):  # fmt: skip
    """d_vectors [N, 7, C]: of an image, gradients of weight, bias, added, scale, shift; then means over the group of
    gain * dz and of that * normalised x."""
    n, k = tl.program_id(1), tl.arange(0, K)
    c, live = tl.program_id(0) * D + k, k < D
    dz, both = tl.full([R, K], 0.0, tl.float32), tl.full([R, K], 0.0, tl.float32)
    for start in range(0, chunks, R):
        row = (start + tl.arange(0, R))[:, None]
        at, there = (n * chunks + row) * 2 * C + c[None, :], (row < chunks) & live[None, :]
        dz += tl.load(sums + at, there, 0.0)
        both += tl.load(sums + at + C, there, 0.0)
    dz, both = tl.reduce(dz, 0, _add), tl.reduce(both, 0, _add)
    table += n * 5 * C + c
    rstd, gain = tl.load(table + C, live, 0.0), tl.load(table + 2 * C, live, 0.0)
    level = tl.load(table + 4 * C, live, 0.0)
    mean_dz = tl.reduce(gain * dz, 0, _add) / pixels / D
    mean_both = tl.reduce(gain * both, 0, _add) / pixels / D
    d_vectors += n * 7 * C + c
    tl.store(d_vectors + 5 * C, gain * 0 + mean_dz, live)
    tl.store(d_vectors + 6 * C, gain * 0 + mean_both, live)
    tl.store(d_vectors + 2 * C, rstd * (gain * dz - pixels * (mean_dz + mean_both * level)), live)  # the sum of dx
    factor = tl.full([K], 1.0, tl.float32)
    if EMB:
        factor += tl.load(emb + n * 2 * C + c, live, 0.0).to(tl.float32)
        w, b = tl.load(weight + c, live, 0.0).to(tl.float32), tl.load(bias + c, live, 0.0).to(tl.float32)
        tl.store(d_vectors + 3 * C, w * both + b * dz, live)
        tl.store(d_vectors + 4 * C, dz, live)
    tl.store(d_vectors, factor * both, live)
    tl.store(d_vectors + C, factor * dz, live)


@triton.jit
def _d_input(dy, x, dx, table, d_vectors, pixels, C, SILU: tl.constexpr, R: tl.constexpr, K: tl.constexpr):
    n, first, c, base = _place(pixels, C, R, K)
    row = tl.arange(0, R)[:, None]
    at, live = row * C + c[None, :], (first + row < pixels) & (c < C)[None, :]
    normal, z, gain, rstd = _normalised(x + base, table, n, c, C, at, live)
    dz = _before_silu(dy + base, z, at, live, SILU)
    means = d_vectors + n * 7 * C + 5 * C + c
    mean_dz, mean_both = tl.load(means, c < C, 0.0)[None, :], tl.load(means + C, c < C, 0.0)[None, :]
    tl.store(dx + base + at, (dz * gain - mean_dz - normal * mean_both) * rstd, live)


def _cut(x: Tensor) -> tuple[dict[str, int], tuple[int, int], tuple[int, int], int, int]:
    """Tiles of R pixels by K channels, the grid of them; chunks of `length` pixels, their grid, number and length."""
    n, c, height, width = x.shape
    # K divides C where it can and still fills a cache line, else the last block is cut off
    K = min(128, c & -c if c % 32 == 0 else max(16, triton.next_power_of_2(c)))
    R, blocks = TILE // K, triton.cdiv(c, K)
    tiles = triton.cdiv(height * width, R)
    length = triton.cdiv(tiles, max(1, PROGRAMS // (n * blocks))) * R
    chunks = triton.cdiv(height * width, length)
    return {"R": R, "K": K}, (tiles * blocks, n), (chunks * blocks, n), chunks, length


def _cut_groups(c: int, groups: int) -> dict[str, int]:
    K = triton.next_power_of_2(c // groups)
    return {"R": max(1, TILE // 4 // K), "K": K}


class _GroupNorm(torch.autograd.Function):
    """The kernels, three each way. Under torch.compile they are traced into the graph."""

    @staticmethod
    def forward(ctx, x, weight, bias, added, emb, groups: int, eps: float, silu: bool) -> Tensor:
        (n, c, height, width), (tile, by_tile, by_chunk, chunks, length) = x.shape, _cut(x)
        sums, table = (x.new_empty(shape, dtype=torch.float32) for shape in ((n, chunks, 2, c), (n, 5, c)))
        y, pixels = torch.empty_like(x), height * width
        _moments[by_chunk](x, sums, pixels, c, chunks, length, **tile)
        vectors = weight, bias, *(weight if one is None else one for one in (added, emb))
        given = {"ADDED": added is not None, "EMB": emb is not None}
        _statistics[(groups, n)](
            sums, table, *vectors, pixels, c, c // groups, chunks, length, eps, **given, **_cut_groups(c, groups)
        )
        _apply[by_tile](x, y, table, pixels, c, SILU=silu, **tile)
        ctx.save_for_backward(x, table, weight, bias, emb)
        ctx.groups, ctx.silu, ctx.added_dtype = groups, silu, None if added is None else added.dtype
        return y

    @staticmethod
    def backward(ctx, dy: Tensor) -> tuple[Tensor | None, ...]:
        x, table, weight, bias, emb = ctx.saved_tensors
        dy = dy.contiguous(memory_format=torch.channels_last)
        (n, c, height, width), (tile, by_tile, by_chunk, chunks, length) = x.shape, _cut(x)
        sums, d_vectors = (x.new_empty(shape, dtype=torch.float32) for shape in ((n, chunks, 2, c), (n, 7, c)))
        dx, pixels, groups, silu = torch.empty_like(x), height * width, ctx.groups, ctx.silu
        _dots[by_chunk](dy, x, table, sums, pixels, c, chunks, length, SILU=silu, **tile)
        _gather[(groups, n)](
            sums, table, d_vectors, weight, bias, weight if emb is None else emb, pixels, c, c // groups, chunks,
            EMB=emb is not None, **_cut_groups(c, groups),
        )  # fmt: skip
        _d_input[by_tile](dy, x, dx, table, d_vectors, pixels, c, SILU=silu, **tile)
        d_weight, d_bias = d_vectors[:, :2].sum(0).to(weight.dtype).unbind()
        d_added = None if ctx.added_dtype is None else d_vectors[:, 2].to(ctx.added_dtype)
        d_emb = None if emb is None else d_vectors[:, 3:5].flatten(1).to(emb.dtype)
        return dx, d_weight, d_bias, d_added, d_emb, None, None, None


def fused_group_norm(x: Tensor, *others: Any) -> Tensor:
    """x: [N, C, H, W]; then weight, bias: [C]; added: [N, C] or None; emb: [N, 2C] or None; groups, eps, silu."""
    x = x.contiguous(memory_format=torch.channels_last)
    others = [other.contiguous() if isinstance(other, Tensor) else other for other in others]
    # Triton launches on the current device
    with nullcontext() if torch.compiler.is_compiling() else torch.cuda.device_of(x):
        return _GroupNorm.apply(x, *others)
