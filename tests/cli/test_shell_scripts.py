"""The shell scripts, run with a stand-in for Python that writes down how it was called."""

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SCRIPTS = ["train_large.sh", "train_small.sh", "inference.sh"]
SHELLS = [shell for shell in ("sh", "dash", "bash") if shutil.which(shell)]

# The scripts are tested in an environment of their own: nothing of the caller's reaches them.
PLAIN = {"PATH": os.environ["PATH"], "HOME": os.environ.get("HOME", "/")}
STUB = """#!/bin/sh
printf '%s\\n' "$@" > "$CALLED"
echo "$*" >> "$CALLED.all"
echo "$OMP_NUM_THREADS $$" >> "$CALLED.environment"
case $1 in $FAILING) exit 3 ;; esac
"""


class Caller:
    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.record = folder / "called"
        self.python = folder / "stub python"
        self.python.write_text(STUB)
        self.python.chmod(0o755)

    def run(
        self, script: str, *arguments: str, cwd: Path = ROOT, shell: str = "sh", **variables: str
    ) -> subprocess.CompletedProcess:
        environment = PLAIN | {"PYTHON": str(self.python), "CALLED": str(self.record)} | variables
        command = [shell, os.path.relpath(ROOT / script, cwd), *arguments]
        return subprocess.run(command, env=environment, cwd=cwd, capture_output=True, text=True, timeout=60)

    def __call__(self, *arguments, **keywords) -> list[str]:
        result = self.run(*arguments, **keywords)
        assert result.returncode == 0, result.stderr
        return self.record.read_text().splitlines()


@pytest.fixture
def called_with(tmp_path: Path) -> Caller:
    return Caller(tmp_path)


def test_every_script_is_sound_shell() -> None:
    files = [ROOT / name for name in SCRIPTS] + sorted(ROOT.glob("scripts/*.sh")) + [ROOT / ".ci/run"]
    for shell in SHELLS:
        for file in files:
            result = subprocess.run([shell, "-n", str(file)], capture_output=True, text=True)
            assert result.returncode == 0, result.stderr


@pytest.mark.parametrize("shell", SHELLS)
@pytest.mark.parametrize("size", ["large", "small"])
def test_training_by_default(called_with: Caller, size: str, shell: str) -> None:
    assert called_with(f"train_{size}.sh", shell=shell) == [
        f"{ROOT}/scripts/train.py",
        *("--config", f"{ROOT}/configs/{size}_recep.yml"),
        *("--data_dir", f"{ROOT}/data"),
        *("--work_dir", f"{ROOT}/work/{size}"),
    ]


@pytest.mark.parametrize("shell", SHELLS)
def test_inference_by_default(called_with: Caller, shell: str) -> None:
    assert called_with("inference.sh", shell=shell) == [
        f"{ROOT}/scripts/inference.py",
        *("--step_inference", "400", "--sample_dir", f"{ROOT}/work/samples"),
        *("--large_recep", f"{ROOT}/work/large", "--small_recep", f"{ROOT}/work/small"),
    ]


def test_environment_wins_and_further_flags_come_last(called_with: Caller, tmp_path: Path) -> None:
    arguments = called_with(
        "train_large.sh",
        *("--seed", "1", "--set", "data.fit=random_crop", "--num_defect", "4", ""),
        cwd=tmp_path,
        CONFIG="my configs/a.yml",
        DATA_DIR="../data",
        WORK_DIR="az://store/work",
        NUM_DEFECT="3",
        SEPERATE_CHANNEL_LOSS="0",
    )
    assert arguments == [
        f"{ROOT}/scripts/train.py",
        *("--config", "my configs/a.yml", "--data_dir", "../data", "--work_dir", "az://store/work"),
        *("--num_defect", "3", "--seperate_channel_loss", "0"),
        *("--seed", "1", "--set", "data.fit=random_crop", "--num_defect", "4", ""),
    ]


def test_inference_passes_every_variable(called_with: Caller) -> None:
    variables = {
        "STEP_INFERENCE": "0",
        "SAMPLE_DIR": "out/a b",
        "LARGE_RECEP": "l.pt",
        "SMALL_RECEP": "s.pt",
        "LARGE_RECEP_CONFIG": "l.yml",
        "SMALL_RECEP_CONFIG": "s.yml",
        "NUM_DEFECT": "5",
        "NUM_SAMPLES": "7",
    }
    arguments = called_with("inference.sh", "--image_size", "64", "96", **variables)
    expected = [f"{ROOT}/scripts/inference.py"]
    for name, value in variables.items():
        expected += [f"--{name.lower()}", value]
    assert arguments == expected + ["--image_size", "64", "96"]


@pytest.mark.parametrize("script", SCRIPTS)
def test_they_work_from_any_directory(called_with: Caller, script: str, tmp_path: Path) -> None:
    here = called_with(script)
    assert called_with(script, cwd=tmp_path) == here
    assert called_with(script, cwd=ROOT / "scripts") == here


def test_several_gpus_get_torchrun(called_with: Caller) -> None:
    arguments = called_with("train_small.sh", "--seed", "1", GPUS="2")
    assert arguments[:4] == ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]
    assert arguments[4:] == [*called_with("train_small.sh"), "--seed", "1"]


def test_several_machines_get_torchrun(called_with: Caller) -> None:
    rendezvous = {"NNODES": "2", "NODE_RANK": "1", "MASTER_ADDR": "node0", "MASTER_PORT": "1234"}
    arguments = called_with("inference.sh", GPUS="8", **rendezvous)
    assert arguments[:7] == [
        *("-m", "torch.distributed.run", "--nnodes=2", "--node_rank=1", "--nproc_per_node=8"),
        *("--master_addr=node0", "--master_port=1234"),
    ]
    assert arguments[7:] == called_with("inference.sh")


@pytest.mark.parametrize(
    "launcher",
    [
        {"PMI_RANK": "1", "PMI_SIZE": "2"},
        {"PMI_RANK": "1"},
        {"OMPI_COMM_WORLD_RANK": "0", "OMPI_COMM_WORLD_SIZE": "2"},
        {"PMIX_RANK": "3", "SLURM_STEP_NUM_TASKS": "4"},
        {"TORCHELASTIC_RUN_ID": "none"},
    ],
)
def test_a_process_of_mpiexec_or_torchrun_stays_one(called_with: Caller, launcher: dict[str, str]) -> None:
    plain = called_with("train_large.sh")
    assert called_with("train_large.sh", GPUS="2", **launcher) == plain


def test_mpi_variables_of_a_lone_process_are_no_launch(called_with: Caller) -> None:
    assert "torch.distributed.run" in called_with("train_large.sh", GPUS="2", PMI_RANK="0", PMI_SIZE="1")


def test_the_shell_is_replaced_so_that_signals_arrive(called_with: Caller) -> None:
    process = subprocess.Popen(
        ["sh", str(ROOT / "train_large.sh")],
        env=PLAIN | {"PYTHON": str(called_with.python), "CALLED": str(called_with.record)},
    )
    assert process.wait(60) == 0
    assert Path(f"{called_with.record}.environment").read_text().split()[-1] == str(process.pid)


def test_threads_are_left_alone_unless_torchrun_would_take_them(called_with: Caller) -> None:
    called_with("train_large.sh")
    called_with("train_large.sh", GPUS="1000")
    called_with("train_large.sh", GPUS="2", OMP_NUM_THREADS="7")
    lines = Path(f"{called_with.record}.environment").read_text().splitlines()
    assert [line.split()[:-1] for line in lines] == [[], ["1"], ["7"]]


@pytest.mark.parametrize(
    ("variables", "message"),
    [
        ({"GPUS": "two"}, "error: GPUS=two: must be a whole number"),
        ({"GPUS": "0"}, "error: GPUS=0: must be a whole number"),
        ({"NNODES": "-1"}, "error: NNODES=-1: must be a whole number"),
        ({"NNODES": "2"}, "error: NNODES=2: set NODE_RANK"),
        ({"NNODES": "2", "NODE_RANK": "0"}, "error: NNODES=2: set MASTER_ADDR"),
        ({"PYTHON": "no/such/python"}, "error: no no/such/python here"),
    ],
)
def test_wrong_variables_get_one_line(called_with: Caller, variables: dict[str, str], message: str) -> None:
    result = called_with.run("train_large.sh", **variables)
    assert result.returncode == 2
    assert result.stderr.startswith(message) and result.stderr.count("\n") == 1
    assert not called_with.record.exists()


def test_the_active_virtual_environment_is_used(called_with: Caller, tmp_path: Path) -> None:
    (tmp_path / "env" / "bin").mkdir(parents=True)
    shutil.copy(called_with.python, tmp_path / "env" / "bin" / "python")
    plain = called_with("train_large.sh")
    called_with.record.unlink()
    assert called_with("train_large.sh", PYTHON="", VIRTUAL_ENV=str(tmp_path / "env")) == plain


def set_up(folder: Path, **variables: str) -> subprocess.CompletedProcess:
    """Run setup_env on <folder>/need.txt, with <folder> as the repository; print the chosen Python."""
    command = f'set -eu; ROOT="{folder}"; . "{ROOT}/scripts/setup_env.sh"; setup_env need.txt; echo "$PYTHON"'
    (folder / "scripts").mkdir(exist_ok=True)
    shutil.copy(ROOT / "scripts" / "launch.sh", folder / "scripts")
    return subprocess.run(["sh", "-c", command], env=PLAIN | variables, capture_output=True, text=True, timeout=300)


def test_set_up_uses_a_python_that_has_what_is_needed(tmp_path: Path) -> None:
    (tmp_path / "need.txt").write_text('# a comment\ntorch>=2.6  # a bound\nnone==1; python_version < "3"\n')
    result = set_up(tmp_path, PYTHON=sys.executable)
    assert (result.returncode, result.stdout, result.stderr) == (0, f"{sys.executable}\n", "")
    assert not (tmp_path / ".venv").exists()


def make_wheel(folder: Path) -> None:
    """A package `tiny` 1.0 to install without a registry; it brings `packaging`, as matplotlib does."""
    packaging = Path(pytest.importorskip("packaging").__file__).parent
    files = {f"packaging/{file.relative_to(packaging)}": file.read_text() for file in packaging.rglob("*.py")}
    info = "tiny-1.0.dist-info"
    files[f"{info}/METADATA"] = "Metadata-Version: 2.1\nName: tiny\nVersion: 1.0\n"
    files[f"{info}/WHEEL"] = "Wheel-Version: 1.0\nGenerator: tests\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
    files[f"{info}/RECORD"] = "".join(f"{name},,\n" for name in [*files, f"{info}/RECORD"])
    with zipfile.ZipFile(folder / "tiny-1.0-py3-none-any.whl", "w") as wheel:
        for name, text in files.items():
            wheel.writestr(name, text)


def test_set_up_makes_an_environment_where_something_is_lacking(tmp_path: Path) -> None:
    (tmp_path / "need.txt").write_text("tiny==1.0\n")
    offline = {"PYTHON": sys.executable, "PIP_NO_INDEX": "1", "PIP_FIND_LINKS": str(tmp_path)}
    chosen = f"{tmp_path}/.venv/bin/python"

    failed = set_up(tmp_path, **offline)
    assert failed.returncode == 2
    assert failed.stdout == (
        f"{sys.executable} lacks tiny==1.0: installing need.txt into {tmp_path}/.venv (once, some minutes)\n"
    )
    assert "error: pip could not install" in failed.stderr

    # What an install that was cut off has left is not built upon.
    (tmp_path / ".venv" / "left over").touch()
    make_wheel(tmp_path)
    mended = set_up(tmp_path, **offline)
    assert mended.returncode == 0, mended.stderr
    assert mended.stdout.splitlines()[1:] == [chosen]
    assert not (tmp_path / ".venv" / "left over").exists()

    # From then on it is used as it is, also where no Python is named.
    (tmp_path / "tiny-1.0-py3-none-any.whl").unlink()
    assert set_up(tmp_path, **offline).stdout == f"{chosen}\n"
    assert set_up(tmp_path).stdout == f"{chosen}\n"


def test_set_up_refuses_an_old_python(tmp_path: Path) -> None:
    old = tmp_path / "old"
    old.write_text("#!/bin/sh\nexit 1\n")
    old.chmod(0o755)
    result = set_up(tmp_path, PYTHON=str(old))
    assert result.returncode == 2
    assert result.stderr == f"error: {old} is not Python 3.10 or newer: install that, or set PYTHON to where it is\n"


def test_quickstart_goes_through_its_stages(called_with: Caller) -> None:
    result = called_with.run("scripts/quickstart.sh", shell="bash", NUM_DEFECT="9", WORK_DIR="elsewhere")
    assert result.returncode == 0, result.stderr
    calls = Path(f"{called_with.record}.all").read_text().splitlines()
    demo = f"{ROOT}/work/demo"
    assert calls[-5:-2] == [
        f"{ROOT}/scripts/draw_demo_data.py {demo}/data",
        *(
            f"{ROOT}/scripts/train.py --config {ROOT}/configs/demo_{size}.yml --data_dir {demo}/data "
            f"--work_dir {demo}/{size} --resume auto"
            for size in ("large", "small")
        ),
    ]
    assert f"--sample_dir {demo}/samples --large_recep {demo}/large --small_recep {demo}/small" in calls[-2]
    assert calls[-1] == f"{ROOT}/scripts/draw_demo_data.py --check {demo}/samples"
    assert f"{demo}/samples/contact_sheet.png" in result.stdout


def test_quickstart_stops_where_a_stage_fails(called_with: Caller) -> None:
    result = called_with.run("scripts/quickstart.sh", shell="bash", FAILING="*/train.py")
    assert result.returncode == 3
    assert "Generate" not in result.stdout and "contact_sheet" not in result.stdout
