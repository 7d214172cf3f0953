"""Several processes as one: the only file that knows torchrun, MPI, or one process.

`setup` joins them once; then `rank()` and `world_size()` answer, 0 and 1 where there is one process. The collectives
are for small things (flags, logged numbers, names). They run through gloo on the CPU even when the gradients go through
nccl, so asking one every step does not make the host wait for the GPU.
"""

from __future__ import annotations

import os
import socket
import sys
from datetime import timedelta
from typing import Any, NoReturn

import torch
import torch.distributed as dist

from .errors import InputError
from .parallel import default_workers

# Rank 0 writes checkpoints and draws previews while the others wait, on slow file systems too.
TIMEOUT = timedelta(hours=2)


def setup(device: str = "auto") -> torch.device:
    """Join the other processes, if there are any, and return the device of this one. Call it first, and once.

    device: as of choose_device. Raises InputError when it is unknown or absent, and when MPI started the process but
    cannot be used.
    """
    if "RANK" not in os.environ:
        _meet_by_mpi()
    chosen, local_size = choose_device(device), int(os.environ.get("LOCAL_WORLD_SIZE", 1))
    if chosen.type == "cuda":
        torch.cuda.set_device(chosen)
    elif local_size > 1 and "OMP_NUM_THREADS" not in os.environ:
        torch.set_num_threads(max(1, default_workers() // local_size))
    if _started() > 1 and not dist.is_initialized():
        dist.init_process_group("cpu:gloo,cuda:nccl" if chosen.type == "cuda" else "gloo", timeout=TIMEOUT)
    return chosen


def leave(status: int) -> NoReturn:
    """End this process with an exit status.

    One of several ends at once: taken down with all that Python takes down, gloo's threads now and then aborted a
    process that was done ("terminate called without an active exception"). mpiexec then ends the others, whatever they
    are doing: call barrier first where all is well.
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
    """Wait until every process has come here, with its output out."""
    _flush()
    any_rank(False)  # nobody can know the answer before everybody has spoken


def any_rank(flag: bool) -> bool:
    """True on every rank if `flag` is true on at least one."""
    if world_size() == 1:
        return flag
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
    box = [obj]
    if world_size() > 1:
        dist.broadcast_object_list(box, src=0)
    return box[0]


def average_(tensor: torch.Tensor) -> None:
    """Replace a float tensor, in place, by its mean over ranks."""
    if world_size() > 1:
        dist.all_reduce(tensor)
        tensor /= world_size()


def choose_device(device: str) -> torch.device:
    """The device of this process that --device names: auto (CUDA where there is one, else the CPU), cpu, cuda, cuda:N.

    With several processes each takes the GPU of its local rank. Raises InputError.
    """
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
    if chosen.index is not None and _started() > 1:
        raise InputError(
            f"--device {device}: with {_started()} processes each takes a GPU of its own; "
            "use --device cuda (CUDA_VISIBLE_DEVICES says which GPUs)"
        )
    index = int(os.environ.get("LOCAL_RANK", 0)) if chosen.index is None else chosen.index
    count = torch.cuda.device_count()
    if index >= count:
        raise InputError(
            f"--device {device}: GPU number {index} is needed, but this host shows {count}, numbered "
            "from 0; start at most one process per GPU, or use --device cpu"
        )
    return torch.device("cuda", index)


def _started() -> int:
    """Number of processes, by the environment that torchrun or _meet_by_mpi wrote."""
    return int(os.environ.get("WORLD_SIZE", 1)) if "RANK" in os.environ else 1


def _meet_by_mpi() -> None:
    """Where mpiexec started this process, write what torchrun would into the environment. MPI does nothing else."""
    environ = os.environ
    if not any(name in environ for name in ("PMI_RANK", "OMPI_COMM_WORLD_RANK", "PMIX_RANK")):
        return
    sizes = ("PMI_SIZE", "OMPI_COMM_WORLD_SIZE", "SLURM_STEP_NUM_TASKS")
    told_size = next((environ[name] for name in sizes if name in environ), None)
    if told_size == "1":
        return
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
    with socket.socket() as probe:
        probe.bind(("", 0))
        port = str(probe.getsockname()[1])
    address = "127.0.0.1" if host.size == world.size else socket.gethostname()
    # Rank 0's; MASTER_ADDR and MASTER_PORT win.
    meeting = world.bcast((environ.get("MASTER_ADDR", address), environ.get("MASTER_PORT", port)))
    environ.update(RANK=str(world.rank), WORLD_SIZE=str(world.size), MASTER_ADDR=meeting[0], MASTER_PORT=meeting[1])
    environ.update(LOCAL_RANK=str(host.rank), LOCAL_WORLD_SIZE=str(host.size))
    MPI.Finalize()  # now, not at exit: a rank that fails would wait there for the others, and they for it
