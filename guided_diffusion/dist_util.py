"""Several processes as one: the only file that knows torchrun, MPI, or one process.

The collectives are for small things. Those of flags and names run through gloo on the CPU even when the gradients go
through nccl, so asking one every step does not make the host wait for the GPU.
"""

import os
import signal
import socket
import stat
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import timedelta
from typing import Any, NoReturn, TypeVar

import torch
import torch.distributed as dist

from .errors import InputError
from .parallel import default_workers

Result = TypeVar("Result")

# Rank 0 writes checkpoints and draws previews while the others wait, on slow file systems too.
TIMEOUT = timedelta(hours=2)


def setup(device: str = "auto") -> torch.device:
    """Join the other processes, if there are any, and return the device of this one. Call it first, and once.

    Raises InputError as choose_device does, where two processes have one GPU, where MPI started the process but cannot
    be used, and where the others cannot be reached."""
    if "RANK" not in os.environ:
        _meet_by_mpi()
    chosen, local_size = choose_device(device), int(os.environ.get("LOCAL_WORLD_SIZE", 1))
    if chosen.type == "cuda":
        torch.cuda.set_device(chosen)
    elif local_size > 1 and "OMP_NUM_THREADS" not in os.environ:
        torch.set_num_threads(max(1, default_workers() // local_size))
    if _started() > 1 and not dist.is_initialized():
        try:
            dist.init_process_group("cpu:gloo,cuda:nccl" if chosen.type == "cuda" else "gloo", timeout=TIMEOUT)
        except (RuntimeError, ValueError) as error:  # ValueError: what torchrun would write is not there
            fault = str(error).partition("\n")[0]
            raise InputError(f"the processes do not meet ({fault}); start all of them anew") from error
        if chosen.type == "cuda":
            gpus = gather_to_zero(str(torch.cuda.get_device_properties(chosen).uuid))
            on_zero(lambda: check_own(gpus))
    return chosen


def check_own(gpus: Sequence[str]) -> None:
    """Raise InputError where two ranks have the GPU of one UUID: numbers alone do not tell, as each may see its own."""
    for rank, gpu in enumerate(gpus):
        if (first := gpus.index(gpu)) < rank:
            text = f"processes {first} and {rank} have the same GPU, {gpu}"
            raise InputError(f"{text}; start one for each GPU, each of which sees all, or one of its own")


def leave(status: int) -> NoReturn:
    """End this process with an exit status. mpiexec then ends the others: call barrier first where all is well.

    One of several ends at once: while Python takes itself down, gloo's threads now and then abort a process."""
    if not dist.is_initialized():
        sys.exit(status)
    sys.stdout.flush()
    os._exit(status)


def rank() -> int:
    """Number of this process, 0 .. world_size() - 1; 0 is the one that writes."""
    return dist.get_rank() if dist.is_initialized() else 0


def world_size() -> int:
    """Number of processes, on all hosts together."""
    return dist.get_world_size() if dist.is_initialized() else 1


def barrier() -> None:
    """Wait until every process has come here, with its output out."""
    sys.stdout.flush()
    any_rank(False)  # nobody can know the answer before everybody has spoken


@contextmanager
def _all_there() -> Iterator[None]:
    """Make an InputError of it where another rank, which has told what was wrong, is gone."""
    try:
        yield
    except RuntimeError as error:
        raise InputError("another of the processes has ended; the same command goes on") from error


def any_rank(flag: bool) -> bool:
    """True on every rank if `flag` is true on at least one. Raises InputError where one has ended."""
    if world_size() == 1:
        return flag
    votes = torch.tensor(int(flag))
    with _all_there():
        dist.all_reduce(votes)
    return votes.item() > 0


def gather_to_zero(obj: Any) -> list[Any] | None:
    """List of every rank's `obj` (anything that pickles), by rank, on rank 0; None elsewhere. Raises InputError."""
    if world_size() == 1:
        return [obj]
    gathered = [None] * world_size() if rank() == 0 else None
    with _all_there():
        dist.gather_object(obj, gathered, dst=0)
    return gathered


def broadcast_from_zero(obj: Any) -> Any:
    """Rank 0's `obj` (anything that pickles), on every rank; what the others pass is ignored. Raises InputError."""
    box = [obj]
    if world_size() > 1:
        with _all_there():
            dist.broadcast_object_list(box, src=0)
    return box[0]


def on_zero(function: Callable[[], Result]) -> Result | None:
    """What `function` returns on rank 0, which alone calls it; None elsewhere. All ranks raise its InputError."""
    result = fault = None
    if rank() == 0:
        try:
            result = function()
        except InputError as error:
            fault = error
    if fault := broadcast_from_zero(fault):
        raise fault
    return result


class Stop:
    """Notes in `number` which of these signals has come, for the work in its context to end at its next good place.

    An exception from a handler could come where Python drops it, or in a lock that then nobody opens. What is ignored,
    such as SIGHUP under nohup, stays ignored. on_signal is given what `number` was before."""

    def __init__(self, *names: str, on_signal: Callable[[int], None] = lambda before: None) -> None:
        self.number, self._names, self._on_signal, self._handlers = 0, names, on_signal, {}

    def __enter__(self) -> "Stop":
        there = threading.current_thread() is threading.main_thread()  # no other thread may ask
        for number in (getattr(signal, name) for name in self._names if there and hasattr(signal, name)):
            if signal.getsignal(number) != signal.SIG_IGN:
                self._handlers[number] = signal.signal(number, self._note)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._handlers.items():
            signal.signal(number, handler or signal.SIG_DFL)  # none: it was not Python's

    def _note(self, number: int, frame: object) -> None:
        before, self.number = self.number, number
        for stream in (1, 2) if number == getattr(signal, "SIGHUP", None) else ():  # the terminal is gone
            with suppress(OSError):  # closed from the start
                if stat.S_ISCHR(os.fstat(stream).st_mode):  # a file or a pipe stays
                    os.dup2(os.open(os.devnull, os.O_WRONLY), stream)
        self._on_signal(before)


def average_(tensor: torch.Tensor) -> None:
    """Replace a float tensor, in place, by its mean over ranks. Raises InputError where one has ended."""
    if world_size() > 1:
        with _all_there():
            dist.all_reduce(tensor)
        tensor /= world_size()


def choose_device(device: str) -> torch.device:
    """The device of this process that `device` names: auto (CUDA where there is one, else the CPU), cpu, cuda, cuda:N.

    With several processes each takes the GPU of its local rank, or the only one that it sees, as Slurm may bind them.
    Raises InputError."""
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    kind, _, number = device.partition(":")
    if kind not in ("cpu", "cuda") or (number and not number.isdecimal()):
        raise InputError(f"`device` {device}: unknown device; use auto, cpu, cuda or cuda:N")
    if kind == "cpu":
        return torch.device("cpu")
    count = torch.cuda.device_count()
    index = int(number or (os.environ.get("LOCAL_RANK", 0) if count > 1 else 0))
    if not torch.cuda.is_available():
        fault = "no CUDA GPU can be used here; use `device` cpu"
    elif number and _started() > 1:
        fault = f"with {_started()} processes each takes a GPU of its own; use `device` cuda and CUDA_VISIBLE_DEVICES"
    elif index >= count:
        fault = f"GPU number {index} is needed, but this host shows {count}; start fewer processes, or use `device` cpu"
    else:
        return torch.device("cuda", index)
    raise InputError(f"`device` {device}: {fault}")


def _started() -> int:
    """Number of processes, by the environment that torchrun or _meet_by_mpi wrote."""
    return int(os.environ.get("WORLD_SIZE", 1)) if "RANK" in os.environ else 1


def _meet_by_mpi() -> None:
    """Where mpiexec started this process, write what torchrun would into the environment. MPI does nothing else."""
    environ = os.environ
    sizes = ("PMI_SIZE", "OMPI_COMM_WORLD_SIZE", "SLURM_STEP_NUM_TASKS")
    told_size = next((environ[name] for name in sizes if name in environ), None)
    if told_size == "1" or not environ.keys() & {"PMI_RANK", "OMPI_COMM_WORLD_RANK", "PMIX_RANK"}:
        return
    try:
        from mpi4py import MPI
    except (ImportError, RuntimeError) as error:  # RuntimeError: no MPI library was found
        fault = f"this process was started by MPI, but mpi4py cannot be used ({str(error).splitlines()[0]})"
        remedy = "install mpi4py for the MPI that mpiexec belongs to, or start with torchrun"
        raise InputError(f"{fault}; {remedy}") from error
    world = MPI.COMM_WORLD
    if told_size is not None and int(told_size) != world.size:
        fault = f"mpiexec started {told_size} processes, but mpi4py sees {world.size}: it belongs to another MPI"
        raise InputError(f"{fault}; use the mpiexec of mpi4py's MPI, or start with torchrun")
    host = world.Split_type(MPI.COMM_TYPE_SHARED)
    with socket.socket() as probe:
        probe.bind(("", 0))
        port = probe.getsockname()[1]
    place = {"MASTER_ADDR": "127.0.0.1" if host.size == world.size else socket.gethostname(), "MASTER_PORT": port}
    meeting = world.bcast({name: environ.get(name, str(value)) for name, value in place.items()})  # rank 0's
    ranks = {"RANK": world.rank, "WORLD_SIZE": world.size, "LOCAL_RANK": host.rank, "LOCAL_WORLD_SIZE": host.size}
    environ.update(meeting, **{name: str(value) for name, value in ranks.items()})
    MPI.Finalize()  # now, not at exit: a rank that fails would wait there for the others, and they for it
