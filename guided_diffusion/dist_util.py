"""Several processes as one: the only file that knows torchrun, MPI, or one process.

A process learns its rank once, in `setup`. Everything else asks `rank()` and `world_size()`, which
answer 0 and 1 where there is one process, and the collectives below then return at once.

The collectives here are for small things (flags, logged numbers, names). They run through gloo on the
CPU even when the gradients go through nccl, so asking one every step does not make the host wait for
the GPU.
"""

from __future__ import annotations

import os
import socket
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, NoReturn

import torch
import torch.distributed as dist

from .errors import InputError

# Rank 0 writes checkpoints and draws previews while the others wait, on slow file systems too.
TIMEOUT = timedelta(hours=2)


@dataclass(frozen=True)
class _Place:
    """Where this process stands among all processes, and among those of its host."""

    rank: int = 0
    world_size: int = 1
    local_rank: int = 0
    local_size: int = 1


_ALONE = _Place()


def setup(device: str = "auto") -> torch.device:
    """Join the other processes, if there are any, and return the device of this one.

    `device` is `auto` (CUDA where there is one, else the CPU), `cpu`, `cuda` or `cuda:N`. With several
    processes each takes the GPU of its local rank. Call it first, and once.

    Raises InputError when the device is unknown or absent, and when MPI started the process but
    cannot be used.
    """
    place = _torchrun_place() or _mpi_place() or _ALONE
    chosen = choose_device(device, place)
    if chosen.type == "cuda":
        torch.cuda.set_device(chosen)
    elif place.local_size > 1 and "OMP_NUM_THREADS" not in os.environ:
        torch.set_num_threads(max(1, _usable_cores() // place.local_size))
    if place.world_size > 1 and not dist.is_initialized():
        backend = "cpu:gloo,cuda:nccl" if chosen.type == "cuda" else "gloo"
        dist.init_process_group(backend, rank=place.rank, world_size=place.world_size, timeout=TIMEOUT)
    return chosen


def all_done() -> None:
    """Wait until every process has done its work and its output is out; call it before `leave` where all is well."""
    _flush()
    barrier()


def leave(status: int) -> NoReturn:
    """End this process with an exit status.

    One of several ends at once: taken down with all that Python takes down, gloo's threads now and then aborted a
    process that was done ("terminate called without an active exception"). mpiexec then ends the others, whatever they
    are doing: hence all_done.
    """
    if not dist.is_initialized():
        sys.exit(status)
    _flush()
    os._exit(status)


def _flush() -> None:
    sys.stdout.flush()
    sys.stderr.flush()


def rank() -> int:
    """Number of this process, 0 .. world_size() - 1; 0 is the one that writes."""
    return dist.get_rank() if dist.is_initialized() else 0


def world_size() -> int:
    """Number of processes, on all hosts together."""
    return dist.get_world_size() if dist.is_initialized() else 1


def barrier() -> None:
    """Wait until every process has come here."""
    any_rank(False)  # nobody can know the answer before everybody has spoken


def any_rank(flag: bool) -> bool:
    """True on every rank if `flag` is true on at least one."""
    if world_size() == 1:
        return bool(flag)
    votes = torch.tensor(int(flag))
    dist.all_reduce(votes)
    return votes.item() > 0


def gather_to_zero(obj: Any) -> list[Any] | None:
    """List of every rank's `obj` (anything that pickles), by rank, on rank 0; None elsewhere."""
    if world_size() == 1:
        return [obj]
    gathered = [None] * world_size() if rank() == 0 else None
    dist.gather_object(obj, gathered, dst=0)
    return gathered


def broadcast_from_zero(obj: Any) -> Any:
    """Rank 0's `obj` (anything that pickles), on every rank; what the others pass is ignored."""
    if world_size() == 1:
        return obj
    box = [obj]
    dist.broadcast_object_list(box, src=0)
    return box[0]


def average_(tensors: Sequence[torch.Tensor]) -> None:
    """Replace each tensor, in place, by its mean over ranks.

    Floating-point tensors of any shapes, one dtype and one device, the same shapes on every rank.
    """
    if world_size() == 1 or not tensors:
        return
    flat = torch.cat([tensor.detach().reshape(-1) for tensor in tensors])  # one message, not one each
    dist.all_reduce(flat)
    flat /= world_size()
    for tensor, mean in zip(tensors, flat.split([tensor.numel() for tensor in tensors]), strict=True):
        tensor.detach().copy_(mean.view_as(tensor))


def choose_device(device: str, place: _Place = _ALONE) -> torch.device:
    """The device that --device names, for the process at `place`. Raises InputError."""
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        chosen = torch.device(device)
    except RuntimeError:
        chosen = None
    if chosen is None or chosen.type not in ("cpu", "cuda"):
        raise InputError(f"--device {device}: unknown device; use auto, cpu, cuda or cuda:N")
    if chosen.type == "cpu":
        return torch.device("cpu")

    if not torch.cuda.is_available():
        raise InputError(f"--device {device}: no CUDA GPU can be used here; use --device cpu")
    if chosen.index is not None and place.world_size > 1:
        raise InputError(
            f"--device {device}: with {place.world_size} processes each takes a GPU of its own; "
            "use --device cuda (CUDA_VISIBLE_DEVICES says which GPUs)"
        )
    index = place.local_rank if chosen.index is None else chosen.index
    count = torch.cuda.device_count()
    if index >= count:
        raise InputError(
            f"--device {device}: GPU number {index} is needed, but this host shows {count}, numbered "
            "from 0; start at most one process per GPU, or use --device cpu"
        )
    return torch.device("cuda", index)


def _usable_cores() -> int:
    if hasattr(os, "sched_getaffinity"):  # not on macOS
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _torchrun_place() -> _Place | None:
    """The place that torchrun (or `_mpi_place`, earlier) wrote into the environment."""
    if "RANK" not in os.environ or "WORLD_SIZE" not in os.environ:
        return None
    return _Place(
        rank=int(os.environ["RANK"]),
        world_size=int(os.environ["WORLD_SIZE"]),
        local_rank=int(os.environ.get("LOCAL_RANK", 0)),
        local_size=int(os.environ.get("LOCAL_WORLD_SIZE", 1)),
    )


def _mpi_place() -> _Place | None:
    """The place given by mpiexec. MPI only makes the introductions: torch.distributed does the rest."""
    environ = os.environ
    if not any(name in environ for name in ("PMI_RANK", "OMPI_COMM_WORLD_RANK", "PMIX_RANK")):
        return None
    sizes = ("PMI_SIZE", "OMPI_COMM_WORLD_SIZE", "SLURM_STEP_NUM_TASKS")
    told_size = next((environ[name] for name in sizes if name in environ), None)
    if told_size == "1":
        return None
    try:
        from mpi4py import MPI
    except (ImportError, RuntimeError) as error:  # RuntimeError: no MPI library was found
        reason = str(error).splitlines()[0]
        raise InputError(
            f"this process was started by MPI, but mpi4py cannot be used ({reason}); "
            "install mpi4py for the MPI that mpiexec belongs to, or start with torchrun"
        ) from error

    world = MPI.COMM_WORLD
    if told_size is not None and int(told_size) != world.size:
        raise InputError(
            f"mpiexec started {told_size} processes, but mpi4py sees {world.size}: it belongs to another "
            "MPI; use the mpiexec of mpi4py's MPI, or start with torchrun"
        )
    host = world.Split_type(MPI.COMM_TYPE_SHARED)
    place = _Place(world.rank, world.size, host.rank, host.size)
    address, port = world.bcast(_meeting_point(place) if place.rank == 0 else None)
    environ.update(
        RANK=str(place.rank),
        WORLD_SIZE=str(place.world_size),
        LOCAL_RANK=str(place.local_rank),
        LOCAL_WORLD_SIZE=str(place.local_size),
        MASTER_ADDR=address,
        MASTER_PORT=port,
    )
    # Now, not at exit: a rank that fails would wait there for the others, and they for it.
    MPI.Finalize()
    return place


def _meeting_point(place: _Place) -> tuple[str, str]:
    """Address and port, found on rank 0, where the ranks meet; MASTER_ADDR and MASTER_PORT win."""
    one_host = place.local_size == place.world_size
    address = os.environ.get("MASTER_ADDR") or ("127.0.0.1" if one_host else socket.gethostname())
    port = os.environ.get("MASTER_PORT")
    if not port:
        with socket.socket() as probe:
            probe.bind(("", 0))
            port = str(probe.getsockname()[1])
    return address, port
