"""One function over many files, in several processes."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

from tqdm import tqdm

Item, Result = TypeVar("Item"), TypeVar("Result")
WORTH_IT = 64  # items; with fewer, starting processes takes longer than they save
CHUNK = 8  # items handed to a process at a time


def default_workers() -> int:
    """The number of CPUs that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def parallel_map(
    function: Callable[[Item], Result], items: Sequence[Item], *, workers: int, description: str
) -> Iterator[Result]:
    """Results in the order of `items`, one at a time, with a progress bar. Function and items must be picklable.

    What the function raises comes out here. Nothing is held but the items and the results that wait for their turn.
    """
    with tqdm(total=len(items), desc=description, unit="image", disable=None) as bar:
        if workers < 2 or len(items) < WORTH_IT:
            for item in items:
                yield function(item)
                bar.update()
            return
        # spawn: a fork would copy locks that other threads of this process hold.
        with multiprocessing.get_context("spawn").Pool(workers, initializer=_leave_interrupts_to_parent) as pool:
            for result in pool.imap(function, items, chunksize=CHUNK):
                yield result
                bar.update()


def end_with_parent() -> None:
    """Let this worker process end when the one that started it is killed.

    A worker of a ProcessPoolExecutor would finish its work for nobody, and then wait for more for ever.
    """

    def watch() -> None:
        multiprocessing.parent_process().join()
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def _leave_interrupts_to_parent() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
