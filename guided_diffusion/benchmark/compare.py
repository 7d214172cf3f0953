"""Variants against each other: built, warmed up, timed in turns, round after round, and summed up as rows."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from torch.profiler import ProfilerActivity, profile
from tqdm import tqdm

from ..errors import InputError
from .timing import DEFAULT_FLAGS, Clock, Flags, best_batch, spread

PROFILED = 10  # operators named


@dataclass
class Subject:
    """Something that is timed. One unit of it is a step, a forward pass, or a whole generation of `batch` images."""

    batch: int
    flops_per_image: float  # of one unit
    precision: str  # fp32 or bf16
    call: Callable[[], object]  # one unit, or as much of it as is worth doing
    measure: Callable[[int], float] | None = None  # seconds of a unit from n calls, where it is not that of a call
    note: str = ""  # what a reader of its row must know


@dataclass(frozen=True)
class Variant:
    """How to make a subject for a batch. batch: that number; the name of an earlier variant: its batch; 0: the best."""

    name: str
    build: Callable[[int], Subject]
    batch: int | str


@dataclass
class _Entry:
    """A subject under test and what was found about it."""

    variant: Variant
    subject: Subject
    flags: Flags
    count: int  # calls per reading
    setup: float  # seconds to build it and of its first call: weights, compiling, caches
    peak: int | None  # bytes, its own
    tried: dict[int, float | None]
    seconds: list[float] = field(default_factory=list)
    operators: list[dict] | None = None


def compare(
    table: dict,
    variants: Sequence[Variant],
    clock: Clock,
    rates: dict[str, float],
    *,
    rounds: int,
    deadline: float | None = None,
    operators: bool = False,
    batches: tuple[int, int] = (1, 1024),
) -> None:
    """Fill table["rows"]: one row a variant, the first being what the others are compared with.

    Every variant is built and called twice; then all are timed in turns, `rounds` times or until `deadline`
    (time.perf_counter), at least once. operators: name the costliest ones too. batches: where a search for the best
    one starts and ends.

    Rows are there even if OutOfTime or another error ends it early, once the first variant has been timed. A variant
    that cannot be built, other than the first, is left out, and its error raised at the end.
    """
    entries: list[_Entry] = []
    failure: Exception | None = None
    with tqdm(total=(rounds + 1) * len(variants), desc=table["title"], leave=False, disable=None) as bar:
        try:
            for variant in variants:
                bar.set_postfix_str(f"{variant.name}: first calls")
                try:
                    entries.append(_prepare(variant, entries, clock, deadline, batches))
                except Exception as error:  # such as a compiler that is not there
                    if not entries:
                        raise
                    # Its text alone: the error itself holds on to memory.
                    kind = InputError if isinstance(error, InputError) else RuntimeError
                    failure = failure or kind(f"{variant.name}: {error}")
                bar.update()
            for _ in range(rounds):
                start = time.perf_counter()
                for entry in entries:
                    bar.set_postfix_str(entry.variant.name)
                    entry.seconds.append(_timed(entry, clock))
                    bar.update()
                took = time.perf_counter() - start
                if deadline and time.perf_counter() + took > deadline:
                    break
            for entry in entries if operators else ():
                bar.set_postfix_str(f"{entry.variant.name}: profile")
                entry.flags.set()
                entry.operators = costliest(entry.subject.call, clock)
        finally:
            DEFAULT_FLAGS.set()
            table["rows"] = [_row(entry, entries[0], rates) for entry in entries if entry.seconds]
    if failure:
        raise failure


def _prepare(
    variant: Variant, earlier: Sequence[_Entry], clock: Clock, deadline: float | None, batches: tuple[int, int]
) -> _Entry:
    def prepare(batch: int) -> _Entry:
        DEFAULT_FLAGS.set()
        before = clock.allocated()
        start = time.perf_counter()
        subject = variant.build(batch)
        clock.seconds(subject.call)
        setup = time.perf_counter() - start
        again = clock.seconds(subject.call)
        peak = clock.peak()
        return _Entry(
            variant, subject, Flags.now(), clock.repeats(again), setup, None if peak is None else peak - before, {}
        )

    def throughput(batch: int) -> float:
        clock.free()  # of the smaller batch, before it is built again
        entry = prepare(batch)
        return batch / _timed(entry, clock)

    batch = variant.batch
    if isinstance(batch, str):
        batch = next(entry.subject.batch for entry in earlier if entry.variant.name == batch)
    tried = {}
    if not batch:
        start = time.perf_counter()
        until = math.inf if deadline is None else start + (deadline - start) / 3
        with clock.room_left():
            batch, tried = best_batch(throughput, *batches, in_time=lambda: time.perf_counter() < until)
    entry = prepare(batch)
    entry.tried = tried
    return entry


def _timed(entry: _Entry, clock: Clock) -> float:
    """Seconds of one unit."""
    entry.flags.set()
    if clock.device.type == "cuda":  # another variant's memory, taken back outside the reading
        torch.cuda.empty_cache()
        entry.subject.call()
    measure = entry.subject.measure
    return measure(entry.count) if measure else clock.seconds(entry.subject.call, entry.count)


def _row(entry: _Entry, base: _Entry, rates: dict[str, float]) -> dict:
    """All that was found about a variant. "ratio": images per second over the first variant's, round by round."""
    subject = entry.subject
    seconds = spread(entry.seconds)
    images = subject.batch / seconds["median"]
    each = [
        (subject.batch / own) / (base.subject.batch / other)
        for own, other in zip(entry.seconds, base.seconds, strict=False)
    ]
    flops = images * subject.flops_per_image
    # PyTorch's float32 convolutions run as TF32 on GPUs where nobody forbids it.
    rate = "tf32" if "tf32" in rates and subject.precision == "fp32" and entry.flags.cudnn_tf32 else subject.precision
    return {
        "variant": entry.variant.name,
        "batch": subject.batch,
        "setup_s": entry.setup,
        "calls_per_reading": entry.count,
        "readings_s": entry.seconds,
        "seconds": seconds,
        "images_per_s": images,
        "ratio": spread(each),
        "ratios": each,
        "flops_per_s": flops,
        "share": flops / rates[rate] if rate in rates else None,
        "share_of": rate,
        "peak_bytes": entry.peak,
        "tried_batches": entry.tried,
        "flags": entry.flags._asdict(),
        "note": subject.note,
        "operators": entry.operators,
    }


def costliest(call: Callable[[], object], clock: Clock) -> list[dict]:
    """The operators that take the most time of their own in one call: name, seconds, share, count.

    On CUDA the time is that of their kernels.
    """
    os.environ.setdefault("KINETO_LOG_LEVEL", "6")  # else the profiler reports its own starts and stops
    cuda = clock.device.type == "cuda"
    activities = [ProfilerActivity.CPU] + [ProfilerActivity.CUDA] * cuda
    with profile(activities=activities) as profiler:
        call()
        clock.synchronize()
    events = [event for event in profiler.key_averages() if event.device_type == torch.autograd.DeviceType.CPU]
    key = "self_device_time_total" if cuda else "self_cpu_time_total"
    total = sum(getattr(event, key) for event in events) or 1.0
    events = sorted(events, key=lambda event: -getattr(event, key))[:PROFILED]
    return [
        {
            "operator": event.key,
            "seconds": getattr(event, key) / 1e6,
            "share": getattr(event, key) / total,
            "count": event.count,
        }
        for event in events
    ]
