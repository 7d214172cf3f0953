"""The same script in one process, under torchrun and under mpiexec must reach the same answers."""

import socket
import subprocess
import sys
from contextlib import nullcontext

import pytest
import torch
from command_line import ROOT, launch, plain_environment

from guided_diffusion import dist_util
from guided_diffusion.errors import InputError

SCRIPT = """
import atexit, os, sys
import torch
from guided_diffusion import dist_util
from guided_diffusion.errors import run_cli

size, mpi, out = int(sys.argv[1]), sys.argv[2] == "mpiexec", sys.argv[3]

def main(argv):
    device = dist_util.setup("cpu")
    rank = dist_util.rank()
    assert device == torch.device("cpu")
    assert dist_util.world_size() == size and 0 <= rank < size
    assert ("mpi4py" in sys.modules) == mpi
    assert size == 1 or int(os.environ["LOCAL_RANK"]) == rank

    gathered = dist_util.gather_to_zero({"rank": rank})
    assert gathered == ([{"rank": r} for r in range(size)] if rank == 0 else None)
    assert dist_util.broadcast_from_zero(("from", rank)) == ("from", 0)
    assert dist_util.any_rank(rank == size - 1) is True
    assert dist_util.any_rank(False) is False

    values = torch.full((5,), float(rank))
    dist_util.average_(values)
    assert torch.equal(values, torch.full((5,), (size - 1) / 2))

    open(f"{out}.{rank}", "w").close()
    dist_util.barrier()
    assert all(os.path.exists(f"{out}.{r}") for r in range(size))
    atexit.register(print, "taken down")
    print("said", end="")  # and nothing that is buffered is lost
    dist_util.barrier()
    return 143

run_cli(main, dist_util.leave)
"""


@pytest.mark.parametrize("kind", ["alone", "torchrun", "mpiexec"])
def test_collectives_and_the_end(kind, tmp_path):
    """A process of several ends without taking down its threads, which aborted one of some 60 trainings."""
    size = 1 if kind == "alone" else 2
    (tmp_path / "script.py").write_text(SCRIPT)
    result = launch(kind, tmp_path / "script.py", size, kind, tmp_path / "rank")
    assert result.returncode == (1 if kind == "torchrun" else 143), result.stdout + result.stderr
    assert result.stdout.count("said") == size and ("taken down" in result.stdout) == (size == 1)


@pytest.mark.parametrize(("gone", "calls"), [(1, ["barrier()", "gather_to_zero(1)"]), (0, ["broadcast_from_zero(1)"])])
def test_where_one_rank_has_failed_the_others_end_in_a_line(gone, calls, tmp_path):
    """Launchers kill them, but not at once."""
    lines = ["import sys", "from guided_diffusion import dist_util, errors", "dist_util.setup('cpu')"]
    lines.append("print('here', flush=True)")
    lines.append(f"dist_util.rank() == {gone} and (sys.stdin.read(), dist_util.leave(2))")
    for call in calls:
        lines += ["try:", f"    dist_util.{call}", "except errors.InputError as error:", "    print(error)"]
    lines.append("dist_util.leave(0)")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        place = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(probe.getsockname()[1]), "WORLD_SIZE": "2"}
    ranks = [{**plain_environment(), **place, "RANK": str(rank)} for rank in (0, 1)]
    piped = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True, "cwd": ROOT}
    ends = [subprocess.Popen([sys.executable, "-c", "\n".join(lines)], env=own, **piped) for own in ranks]
    assert ends[1 - gone].stdout.readline() == "here\n"  # only then the one goes, told by the end of its input
    ends[gone].communicate(timeout=60)
    told = ends[1 - gone].communicate(timeout=60)[0].splitlines()
    assert (ends[gone].returncode, ends[1 - gone].returncode) == (2, 0)
    assert told == ["another of the processes has ended; the same command goes on"] * len(calls)


def test_processes_that_do_not_meet_are_told_in_a_line(monkeypatch):
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.delenv("MASTER_ADDR", raising=False)
    with pytest.raises(InputError, match=r"the processes do not meet \(.*MASTER_ADDR.*\); start all of them anew"):
        dist_util.setup("cpu")
    with socket.socket() as taken:
        taken.bind(("", 0))
        taken.listen()
        monkeypatch.setenv("MASTER_ADDR", "127.0.0.1")
        monkeypatch.setenv("MASTER_PORT", str(taken.getsockname()[1]))
        with pytest.raises(InputError, match=r"the processes do not meet \(.*port: \d+"):
            dist_util.setup("cpu")


@pytest.mark.parametrize("size", ["1", "3", None])
def test_several_processes_of_mpi_need_mpi4py(size, monkeypatch):
    for name in ("RANK", "PMI_SIZE", "OMPI_COMM_WORLD_SIZE", "SLURM_STEP_NUM_TASKS"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("PMI_RANK", "0")
    if size is not None:
        monkeypatch.setenv("PMI_SIZE", size)
    monkeypatch.setitem(sys.modules, "mpi4py", None)
    refused = pytest.raises(InputError, match="started by MPI, but mpi4py cannot be used")
    with nullcontext() if size == "1" else refused:
        dist_util.setup("cpu")


@pytest.mark.parametrize(
    ("device", "gpus", "place", "expected"),
    [
        ("auto", 0, (0, 1, 0), "cpu"),
        ("cpu", 2, (1, 2, 1), "cpu"),
        ("auto", 2, (0, 1, 0), "cuda:0"),
        ("cuda:1", 2, (0, 1, 0), "cuda:1"),
        ("cuda", 2, (3, 4, 1), "cuda:1"),  # second host of two
        ("cuda", 1, (3, 4, 1), "cuda:0"),  # bound to it
        ("cuda", 2, (2, 3, 2), "GPU number 2 is needed, but this host shows 2"),
        ("cuda", 0, (0, 1, 0), "no CUDA GPU can be used here"),
        ("cuda:2", 2, (0, 1, 0), "GPU number 2 is needed, but this host shows 2"),
        ("cuda:0", 2, (0, 2, 0), "each takes a GPU of its own"),
        ("cuda:x", 0, (0, 1, 0), "unknown device; use auto, cpu, cuda"),
    ],
)
def test_choice_of_device(device, gpus, place, expected, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: gpus > 0)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: gpus)
    for name, value in zip(("RANK", "WORLD_SIZE", "LOCAL_RANK"), place, strict=True):
        monkeypatch.setenv(name, str(value))
    if " " in expected:
        with pytest.raises(InputError, match=f"device .*{expected}"):
            dist_util.choose_device(device)
    else:
        assert str(dist_util.choose_device(device)) == expected


def test_two_processes_on_one_gpu_are_refused():
    dist_util.check_own(["GPU-a", "GPU-b"])
    with pytest.raises(InputError, match="processes 1 and 2 have the same GPU, GPU-b; start one for each GPU"):
        dist_util.check_own(["GPU-a", "GPU-b", "GPU-b"])
