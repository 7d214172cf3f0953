"""One function over many items, in several processes; how many CPUs and how much memory there are."""

import functools
import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from tqdm import tqdm

from .errors import InputError

if TYPE_CHECKING:
    import torch

Item, Result = TypeVar("Item"), TypeVar("Result")


def default_workers() -> int:
    """The number of CPUs that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def check_memory(needed: int, what: str, remedy: str, device: "torch.device | None" = None) -> None:
    """Raise InputError where `what` takes more bytes than there are: a system without memory kills, and says nothing.
    The CPU's memory is shared by the processes of this machine."""
    if device and device.type == "cuda":
        import torch  # which processes that only read images do without

        there = torch.cuda.mem_get_info(device)[1]
    else:
        there = cpu_memory() // int(os.environ.get("LOCAL_WORLD_SIZE", 1))
    if needed > there:
        sizes = f"{needed / 2**30:,.1f} GiB, but {device or 'this machine'} has {there / 2**30:,.1f} for a process"
        raise InputError(f"{what} takes about {sizes}; {remedy}")


@functools.cache
def cpu_memory() -> int:
    """Bytes of memory that this machine has, and that its control groups (containers, batch systems) grant."""
    limits = [os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")]
    with suppress(OSError):  # elsewhere than on Linux
        for line in Path("/proc/self/cgroup").read_text().splitlines():
            _, controllers, group = line.split(":", 2)
            if controllers in ("", "memory"):  # version 2, or 1
                root, file = f"/sys/fs/cgroup/{controllers}", "memory.limit_in_bytes" if controllers else "memory.max"
                for place in (Path(group), *Path(group).parents):
                    with suppress(OSError, ValueError):  # "max": no limit
                        limits.append(int(Path(root, str(place).strip("/"), file).read_text()))
    return min(limits)


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
    """Results in the order of `items`, one at a time, with a progress bar. Function and items must be picklable. With
    fewer than `least` items there is no other process: starting them takes longer than they save. chunk: items handed
    to a process at a time. Raises what the function raises, and InputError where a process is killed."""
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
        raise InputError(f"{description}: a process was killed, for want of memory? Allow fewer CPUs") from error


def _end_with_parent() -> None:
    """Let this worker leave Ctrl-C to the process that started it, and end when that is killed, not wait for ever."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = multiprocessing.parent_process()
    threading.Thread(target=lambda: (parent.join(), os._exit(1)), daemon=True).start()
