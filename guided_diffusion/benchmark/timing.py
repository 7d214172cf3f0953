"""The clock: what one call takes, the largest useful batch, the rate of matrix products, a limit on time."""

from __future__ import annotations

import gc
import math
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import NamedTuple

import numpy as np
import torch

from .. import heap
from ..batches import is_out_of_memory
from ..errors import InputError

GROWTH = 1.03  # a batch twice as large must bring this much more throughput


class Clock:
    """Times calls on a device, waiting for it before and after.

    least: seconds that a reading should take; shorter calls are repeated within it.
    """

    def __init__(self, device: torch.device, least: float = 0.25):
        self.device, self.least = device, least

    def synchronize(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)

    def seconds(self, call: Callable[[], object], count: int = 1) -> float:
        """Seconds per call, over `count` calls in a row."""
        self.synchronize()
        start = time.perf_counter()
        for _ in range(count):
            call()
        self.synchronize()
        return (time.perf_counter() - start) / count

    def repeats(self, seconds: float) -> int:
        """How often to repeat a call of so many seconds within one reading."""
        return max(1, min(100, math.ceil(self.least / max(seconds, 1e-6))))

    def allocated(self) -> int:
        """Bytes of tensors now on the GPU; from here on `peak` counts. 0 on the CPU."""
        if self.device.type != "cuda":
            return 0
        self.free()
        torch.cuda.reset_peak_memory_stats(self.device)
        return torch.cuda.memory_allocated(self.device)

    def peak(self) -> int | None:
        """Most bytes of tensors on the GPU since `allocated`; None on the CPU, where nobody counts them."""
        return torch.cuda.max_memory_allocated(self.device) if self.device.type == "cuda" else None

    @contextmanager
    def room_left(self) -> Iterator[None]:
        """Inside, a tenth of the GPU's memory is out of bounds: room for the weights of what is built later."""
        if self.device.type != "cuda":
            yield
            return
        torch.cuda.set_per_process_memory_fraction(0.9, self.device)
        try:
            yield
        finally:
            torch.cuda.set_per_process_memory_fraction(1.0, self.device)

    def free(self) -> None:
        """Give back what Python and the allocator hold without need."""
        gc.collect()
        if self.device.type == "cuda":
            torch.cuda.empty_cache()


def spread(values: Sequence[float]) -> dict[str, float]:
    """Median and quartiles."""
    q1, median, q3 = np.quantile(values, [0.25, 0.5, 0.75]).tolist()
    return {"median": median, "q1": q1, "q3": q3}


def best_batch(
    throughput: Callable[[int], float], start: int = 1, most: int = 1024, in_time: Callable[[], bool] = lambda: True
) -> tuple[int, dict[int, float | None]]:
    """Double the batch until memory, time or the growth of throughput runs out.

    throughput: batch -> images/s; may run out of memory. Returns the batch with the highest throughput
    and all that were tried (None: out of memory). Raises InputError if not even `start` fits.
    """
    tried: dict[int, float | None] = {}
    best, batch = 0, start
    while batch <= most and (not best or in_time()):
        try:
            tried[batch] = throughput(batch)
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            tried[batch] = None
            break
        grown = not best or tried[batch] >= GROWTH * tried[best]
        if not best or tried[batch] > tried[best]:
            best = batch
        if not grown:
            break
        batch *= 2
    if not best:
        raise InputError(f"out of memory at batch {start}; use --image_size or --set model.model_channels to shrink it")
    return best, tried


class OutOfTime(BaseException):
    """The budget of a part is spent. Not an Exception: what compiles or retries in between must not catch it."""


@contextmanager
def time_limit(seconds: float | None) -> Iterator[None]:
    """Raise OutOfTime inside after so many seconds (main thread only); None: never."""
    if seconds is None:
        yield
        return

    def ring(number: int, frame: object) -> None:
        raise OutOfTime

    old = signal.signal(signal.SIGALRM, ring)
    signal.setitimer(signal.ITIMER_REAL, max(seconds, 1e-3))
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, old)


class Flags(NamedTuple):
    """Process-wide switches of speed. Each subject runs under its own, so that none profits from another's."""

    matmul_precision: str
    cudnn_tf32: bool
    cudnn_benchmark: bool
    heap_kept: bool

    @classmethod
    def now(cls) -> Flags:
        cudnn = torch.backends.cudnn
        return cls(torch.get_float32_matmul_precision(), cudnn.allow_tf32, cudnn.benchmark, heap.keeps())

    def set(self) -> None:
        torch.set_float32_matmul_precision(self.matmul_precision)
        torch.backends.cudnn.allow_tf32 = self.cudnn_tf32
        torch.backends.cudnn.benchmark = self.cudnn_benchmark
        heap.keep(self.heap_kept)


DEFAULT_FLAGS = Flags("highest", True, False, False)  # as PyTorch starts


def matrix_rates(clock: Clock, sizes: Sequence[int]) -> dict[str, float]:
    """FLOP/s of square matrix products, best of `sizes`, for "fp32", "bf16" and, on CUDA, "tf32".

    "tf32" are float32 products on tensor cores, which is what PyTorch's float32 convolutions are there by default.
    """
    kinds = {"fp32": (torch.float32, "highest"), "bf16": (torch.bfloat16, "highest")}
    if clock.device.type == "cuda":
        kinds["tf32"] = (torch.float32, "high")
    flags, rates = Flags.now(), {}
    for kind, (dtype, precision) in kinds.items():
        torch.set_float32_matmul_precision(precision)
        rates[kind] = 0.0
        for size in sizes:
            a, b = (torch.randn(size, size, device=clock.device).to(dtype) for _ in range(2))
            clock.seconds(lambda a=a, b=b: a @ b, 2)
            once = clock.seconds(lambda a=a, b=b: a @ b)
            best = min(clock.seconds(lambda a=a, b=b: a @ b, clock.repeats(once)) for _ in range(3))
            rates[kind] = max(rates[kind], 2 * size**3 / best)
    flags.set()
    clock.free()
    return rates
