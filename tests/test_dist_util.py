"""The same script in one process, under torchrun and under mpiexec must reach the same answers."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from guided_diffusion import dist_util
from guided_diffusion.errors import InputError

ROOT = Path(__file__).resolve().parent.parent
LAUNCHERS = ("RANK", "WORLD_SIZE", "LOCAL_", "MASTER_", "TORCHELASTIC", "PMI", "OMPI_", "SLURM_", "OMP_")

SCRIPT = """
import os, sys
import torch
from guided_diffusion import dist_util

size, mpi, out = int(sys.argv[1]), sys.argv[2] == "mpi", sys.argv[3]
device = dist_util.setup("cpu")
rank = dist_util.rank()
assert device == torch.device("cpu")
assert dist_util.world_size() == size and 0 <= rank < size
assert ("mpi4py" in sys.modules) == mpi
if size > 1:
    assert int(os.environ["LOCAL_RANK"]) == rank
    assert torch.distributed.get_backend() == "gloo"

gathered = dist_util.gather_to_zero({"rank": rank})
assert gathered == ([{"rank": r} for r in range(size)] if rank == 0 else None)
assert dist_util.broadcast_from_zero(("from", rank)) == ("from", 0)
assert dist_util.any_rank(rank == size - 1) is True
assert dist_util.any_rank(False) is False

matrix, scalar = torch.full((2, 3), float(rank)).T, torch.tensor(10.0 * rank)
dist_util.average_([matrix, scalar])
assert torch.equal(matrix, torch.full((3, 2), (size - 1) / 2)) and scalar.item() == 10 * (size - 1) / 2
dist_util.average_([])

open(f"{out}.{rank}.before", "w").close()
dist_util.barrier()
assert all(os.path.exists(f"{out}.{r}.before") for r in range(size))
open(f"{out}.{rank}.done", "w").close()
print("said", end="")  # and nothing that is buffered is lost
dist_util.all_done()
dist_util.leave(0)
"""


def run(launcher: list[str], arguments: list[str], **variables: str) -> subprocess.CompletedProcess:
    environment = {k: v for k, v in os.environ.items() if not k.startswith(LAUNCHERS)}
    environment |= {"PYTHONPATH": str(ROOT), **variables}
    return subprocess.run(
        [*launcher, *arguments], env=environment, capture_output=True, text=True, timeout=180, cwd=ROOT
    )


def torchrun() -> list[str]:
    return [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]


def mpiexec() -> list[str]:
    pytest.importorskip("mpi4py", reason="mpi4py is not installed (requirements-dev.txt)")
    beside_python = shutil.which("mpiexec", path=str(Path(sys.executable).parent))
    program = beside_python or shutil.which("mpiexec")
    if program is None:
        pytest.skip("mpiexec is not installed (requirements-dev.txt)")
    return [program, "-n", "2", sys.executable]


@pytest.mark.parametrize("kind", ["one process", "torchrun", "mpi"])
def test_collectives(kind: str, tmp_path: Path) -> None:
    launcher = {"one process": lambda: [sys.executable], "torchrun": torchrun, "mpi": mpiexec}[kind]()
    size = 1 if kind == "one process" else 2
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    result = run(launcher, [str(script), str(size), kind, str(tmp_path / "rank")])
    assert result.returncode == 0, result.stdout + result.stderr
    assert all((tmp_path / f"rank.{rank}.done").exists() for rank in range(size))
    assert result.stdout.count("said") == size


@pytest.mark.parametrize("status", [0, 143])
def test_a_process_of_several_ends_without_taking_down_threads(status: int, tmp_path: Path) -> None:
    """Such a take-down aborted one of some 60 trainings under mpiexec; an atexit function shows whether it is begun."""
    script = tmp_path / "script.py"
    script.write_text(
        "import atexit\nfrom guided_diffusion import dist_util\nfrom guided_diffusion.errors import run_cli\n"
        "def main(argv):\n    dist_util.setup('cpu')\n    atexit.register(print, 'taken down')\n"
        f"    dist_util.all_done()\n    return {status}\nrun_cli(main, dist_util.leave)\n"
    )
    several = run(mpiexec(), [str(script)])
    assert several.returncode == status and "taken down" not in several.stdout
    assert "taken down" in run([sys.executable], [str(script)]).stdout


def test_a_rank_that_fails_under_mpi_does_not_hang_the_others(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(
        "import sys\nfrom guided_diffusion import dist_util\ndist_util.setup('cpu')\n"
        "sys.exit(2) if dist_util.rank() == 1 else dist_util.barrier()\n"
    )
    assert run(mpiexec(), [str(script)]).returncode != 0


def test_mpi_variables_of_a_single_process_need_no_mpi() -> None:
    code = "import sys; from guided_diffusion import dist_util; dist_util.setup('cpu')"
    code += "; assert 'mpi4py' not in sys.modules"
    result = run([sys.executable], ["-c", code], PMI_RANK="0", PMI_SIZE="1")
    assert result.returncode == 0, result.stderr


@pytest.mark.parametrize("size", ["3", None])
def test_mpi_without_mpi4py_says_so(size: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("RANK", "PMI_SIZE", "OMPI_COMM_WORLD_SIZE", "SLURM_STEP_NUM_TASKS"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("PMI_RANK", "0")
    if size is not None:
        monkeypatch.setenv("PMI_SIZE", size)
    monkeypatch.setitem(sys.modules, "mpi4py", None)
    with pytest.raises(InputError, match="started by MPI, but mpi4py cannot be used"):
        dist_util.setup("cpu")


@pytest.mark.parametrize("device", ["gpu", "cuda:x", "", "meta"])
def test_unknown_device(device: str) -> None:
    with pytest.raises(InputError, match="--device .*unknown device; use auto, cpu, cuda"):
        dist_util.setup(device)


@pytest.mark.parametrize(
    ("device", "gpus", "place", "expected"),
    [
        ("auto", 0, (0, 1, 0, 1), "cpu"),
        ("cpu", 2, (1, 2, 1, 2), "cpu"),
        ("auto", 2, (0, 1, 0, 1), "cuda:0"),
        ("cuda:1", 2, (0, 1, 0, 1), "cuda:1"),
        ("cuda", 2, (3, 4, 1, 2), "cuda:1"),  # second host of two
        ("cuda", 0, (0, 1, 0, 1), "no CUDA GPU can be used here"),
        ("cuda:2", 2, (0, 1, 0, 1), "GPU number 2 is needed, but this host shows 2"),
        ("auto", 1, (1, 2, 1, 2), "GPU number 1 is needed, but this host shows 1"),
        ("cuda:0", 2, (0, 2, 0, 2), "each takes a GPU of its own"),
    ],
)
def test_choice_of_device(
    device: str, gpus: int, place: tuple[int, ...], expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: gpus > 0)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: gpus)
    if " " in expected:
        with pytest.raises(InputError, match=expected):
            dist_util.choose_device(device, dist_util._Place(*place))
    else:
        assert str(dist_util.choose_device(device, dist_util._Place(*place))) == expected
