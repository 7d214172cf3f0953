"""One function over many items, in several processes."""

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from typing import TypeVar

from tqdm import tqdm

from .errors import InputError

Item, Result = TypeVar("Item"), TypeVar("Result")


def default_workers() -> int:
    """The number of CPUs that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def parallel_map(
    function: Callable[[Item], Result],
    items: Sequence[Item],
    *,
    workers: int,
    description: str,
    unit: str = "image",
    chunk: int = 8,
    least: int = 64,
) -> Iterator[Result]:
    """Results in the order of `items`, one at a time, with a progress bar. Function and items must be picklable.

    chunk: items handed to a process at a time. With fewer than `least` items there is no other process: starting them
    takes longer than they save. Raises what the function raises, and InputError where a process is killed.
    """
    bar = {"total": len(items), "desc": description, "unit": unit, "disable": None}
    workers = min(workers, len(items))
    if workers < 2 or len(items) < least:
        yield from tqdm(map(function, items), **bar)
        return
    # spawn: a fork would copy locks that other threads of this process hold; nor does CUDA outlive it.
    context = multiprocessing.get_context("spawn")
    try:
        with ProcessPoolExecutor(workers, context, _end_with_parent) as pool:
            yield from tqdm(pool.map(function, items, chunksize=chunk), **bar)
    except BrokenProcessPool as error:
        raise InputError(
            f"{description}: a process was killed, perhaps for want of memory; allow fewer CPUs"
        ) from error


def _end_with_parent() -> None:
    """Let this worker leave Ctrl-C to the process that started it, and end when that is killed.

    It would finish its work for nobody, and then wait for more for ever.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)

    def watch() -> None:
        multiprocessing.parent_process().join()
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
