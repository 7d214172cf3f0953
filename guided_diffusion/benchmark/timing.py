"""Variants timed in turns, each at its best batch if asked for, beside the rate of matrix products on the device."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch.profiler import profile

from ..errors import InputError
from ..precision import free_memory, is_out_of_memory

GROWTH = 1.03  # a batch twice as large must bring this much more throughput
READING = 0.25  # seconds that a reading takes at least; shorter calls are repeated within it


@dataclass(frozen=True)
class Variant:
    """build(batch) makes a call that does one step, or one generation, of `batch` images."""

    name: str
    build: Callable[[int], Callable[[], object]]
    flops: float  # of one image
    precision: str  # fp32 or bf16
    scale: float = 1.0  # seconds of the whole over those of a call, where the call walks a part


class OutOfTime(BaseException):
    """The time of a part is spent. Not an Exception: what compiles or retries in between must not catch it."""


@contextmanager
def time_limit(seconds: float | None) -> Iterator[None]:
    """Raise OutOfTime inside after so many seconds (main thread only); None: never."""

    def ring(number: int, frame: object) -> None:
        raise OutOfTime

    old = signal.signal(signal.SIGALRM, ring)
    signal.setitimer(signal.ITIMER_REAL, seconds or 0)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, old)


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
) -> Iterator[dict[str, Any]]:
    """Build each variant (batch 0: at its best), time all in turns, and yield a row for each, with its call.

    Ratios are images per second over those of the first variant, round by round. Each variant runs under the flags
    that building it set: PyTorch's float32 convolutions are TF32 on GPUs unless that is forbidden, as ours does.
    """
    cudnn, built = torch.backends.cudnn, []
    for variant in variants:
        cudnn.allow_tf32 = True  # as PyTorch starts
        own = batch or best_batch(variant, device)
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats()
        start = time.perf_counter()
        call = variant.build(own)
        call()  # compiles, fills caches
        setup = time.perf_counter() - start
        count = max(1, min(100, round(READING / seconds_of(call, device))))
        peak = torch.cuda.max_memory_allocated() / 2**30 if device.type == "cuda" else None
        built.append((variant, call, own, cudnn.allow_tf32, count, setup, peak))
    readings: list[list[float]] = [[] for _ in built]
    try:
        for _ in range(rounds):
            for (variant, call, _, cudnn.allow_tf32, count, *_), own in zip(built, readings, strict=True):
                own.append(seconds_of(call, device, count) * variant.scale)
    except OutOfTime:
        if not readings[-1]:
            raise
    readings = [own[: len(readings[-1])] for own in readings]
    base = built[0][2] / np.array(readings[0])  # images per second, by round
    for (variant, call, own, tf32, _, setup, peak), seconds in zip(built, readings, strict=True):
        median = float(np.median(seconds))
        rate = own * variant.flops / median
        kind = "tf32" if variant.precision == "fp32" and tf32 and "tf32" in rates else variant.precision
        row = {"variant": variant.name, "batch": own, "setup_s": setup, "peak_gib": peak, "readings_s": seconds}
        row |= {"seconds": median, "images_per_s": own / median, "flop_per_s": rate, "share": rate / rates[kind]}
        ratios = own / np.array(seconds) / base
        yield row | {"ratio": np.quantile(ratios, [0.5, 0.25, 0.75]).tolist(), "call": call}


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
    kinds = {"fp32": (torch.float32, "highest"), "bf16": (torch.bfloat16, "highest")}
    if device.type == "cuda":
        kinds["tf32"] = (torch.float32, "high")
    before, rates = torch.get_float32_matmul_precision(), dict.fromkeys(kinds, 0.0)
    for kind, (dtype, precision) in kinds.items():
        torch.set_float32_matmul_precision(precision)
        for size in sizes:
            a, b = (torch.randn(size, size, device=device).to(dtype) for _ in range(2))
            seconds = min(seconds_of(lambda a=a, b=b: a @ b, device, 3) for _ in range(4))
            rates[kind] = max(rates[kind], 2 * size**3 / seconds)
    torch.set_float32_matmul_precision(before)
    return rates


def costliest(call: Callable[[], object], device: torch.device) -> str:
    """The ten operators that take the most time of their own in one call, as a table."""
    with profile() as profiler:
        call()
    kind = "cuda" if device.type == "cuda" else "cpu"
    return profiler.key_averages().table(sort_by=f"self_{kind}_time_total", row_limit=10, max_name_column_width=40)
