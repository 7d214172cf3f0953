"""Variants timed in turns, each at its best batch if asked for, beside the rate of matrix products on the device."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from ..errors import InputError
from ..precision import free_memory, is_out_of_memory

GROWTH = 1.03  # a batch twice as large must bring this much more throughput
SECONDS = 160  # after these no other round of `compare` begins
READING = 0.25  # seconds that a reading takes at least; shorter calls are repeated within it


@dataclass(frozen=True)
class Variant:
    """build(batch) makes a call that does one step, or one generation, of `batch` images."""

    name: str
    build: Callable[[int], Callable[[], object]]
    flops: float  # of one image
    precision: str  # fp32 or bf16
    scale: float = 1.0  # seconds of the whole over those of a call, where the call walks a part


def seconds_of(call: Callable[[], object], device: torch.device, count: int = 1) -> float:
    """Seconds per call, over `count` calls in a row, waiting for the device before and after."""
    wait = torch.cuda.synchronize if device.type == "cuda" else lambda: None
    wait()
    start = time.perf_counter()
    for _ in range(count):
        call()
    wait()
    return (time.perf_counter() - start) / count


def compare(
    variants: Sequence[Variant], device: torch.device, rates: dict[str, float], batch: int, rounds: int
) -> list[dict[str, Any]]:
    """Build each variant (batch 0: at its best), time all in turns; returns a row for each.

    Ratios are images per second over those of the first variant, round by round. Each variant runs under the flags
    that building it set: PyTorch's float32 convolutions are TF32 on GPUs unless that is forbidden, as ours does.
    """
    cudnn, cuda, built = torch.backends.cudnn, device.type == "cuda", []
    began = time.perf_counter()
    for variant in variants:
        cudnn.allow_tf32 = True  # as PyTorch starts
        own = batch or best_batch(variant, device)
        if cuda:
            torch.cuda.reset_peak_memory_stats()
        start = time.perf_counter()
        call = variant.build(own)
        call()  # compiles, fills caches
        row = {"variant": variant.name, "batch": own, "setup_s": time.perf_counter() - start}
        count = max(1, min(100, round(READING / seconds_of(call, device))))
        row |= {"peak_gib": torch.cuda.max_memory_allocated() / 2**30 if cuda else None, "readings_s": []}
        built.append((variant, call, row, cudnn.allow_tf32, count))
    for done in range(rounds):
        if done and time.perf_counter() - began > SECONDS:
            break
        for variant, call, row, cudnn.allow_tf32, count in built:
            row["readings_s"].append(seconds_of(call, device, count) * variant.scale)
    base = None  # images per second of the first variant, by round
    for variant, _, row, tf32, _ in built:
        speed = row["batch"] / np.array(row["readings_s"])
        base = speed if base is None else base
        rate = float(np.median(speed)) * variant.flops
        kind = "tf32" if variant.precision == "fp32" and tf32 and "tf32" in rates else variant.precision
        row |= {"seconds": float(np.median(row["readings_s"])), "images_per_s": float(np.median(speed))}
        row |= {"flop_per_s": rate, "share": rate / rates[kind]}
        row["ratio"] = np.quantile(speed / base, [0.5, 0.25, 0.75]).tolist()
    return [row for _, _, row, *_ in built]


def best_batch(variant: Variant, device: torch.device, most: int = 1024) -> int:
    """Double the batch until memory or the growth of throughput ends. Raises InputError if not even 1 fits."""
    best, throughput, batch = 0, 0.0, 1
    while batch <= most:
        try:
            call = variant.build(batch)
            seconds_of(call, device)
            found = batch / seconds_of(call, device)
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            break
        finally:
            call = None  # its tensors too
            free_memory()
        if found < GROWTH * throughput:
            break
        best, throughput, batch = batch, found, 2 * batch
    if not best:
        raise InputError("out of memory at batch 1; use --set data.resolution or model.model_channels to shrink it")
    return best


def matrix_rates(device: torch.device, sizes: Sequence[int]) -> dict[str, float]:
    """FLOP/s of square matrix products, best of `sizes`, for "fp32", "bf16" and, on CUDA, "tf32"."""
    kinds = [("fp32", torch.float32, "highest"), ("bf16", torch.bfloat16, "highest"), ("tf32", torch.float32, "high")]
    before, rates = torch.get_float32_matmul_precision(), {}
    for kind, dtype, precision in kinds if device.type == "cuda" else kinds[:2]:
        torch.set_float32_matmul_precision(precision)
        for size in sizes:
            a, b = (torch.randn(size, size, device=device).to(dtype) for _ in range(2))
            seconds = min(seconds_of(lambda a=a, b=b: a @ b, device, 3) for _ in range(4))
            rates[kind] = max(rates.get(kind, 0.0), 2 * size**3 / seconds)
    torch.set_float32_matmul_precision(before)
    return rates
