"""The shell scripts, run with a stand-in for Python that prints how it was called."""

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from command_line import ROOT

TRAIN = "{{0}}/scripts/train.py --network {0} --config {{0}}/configs/{0}_recep.yml --data_dir {{0}}/data"
TRAIN += " --work_dir {{0}}/work/{0}"
GENERATE = "{0}/scripts/inference.py --step_inference 400 --sample_dir {0}/work/samples --large_recep {0}/work/large"
DEFAULTS = {
    "train_large.sh": TRAIN.format("large").split(),
    "train_small.sh": TRAIN.format("small").split(),
    "inference.sh": [*GENERATE.split(), "--small_recep", "{0}/work/small"],
}
SHELLS = [shell for shell in ("sh", "dash", "bash") if shutil.which(shell)]

# The scripts are tested in an environment of their own: nothing of the caller's reaches them.
PLAIN = {"PATH": os.environ["PATH"], "HOME": os.environ.get("HOME", "/")}
STUB = """#!/bin/sh
case $1 in - | -c) exit ;; esac  # what setup_env.sh asks
printf '%s\\n' "$@"
echo "$$,$OMP_NUM_THREADS" >&2
case $1 in $FAILING) exit 3 ;; esac
"""
# A Python that lacks something until its pip has found a file, as do the environments that it makes.
LACKING = """#!/bin/sh
case "$1 $2" in
    "- "*) [ -e "$0.done" ] || echo tiny==1.0 ;;
    "-m venv") mkdir -p "$3/bin" && cp "$0" "$3/bin/python" ;;
    "-m pip") ls "$TINY" && touch "$0.done" ;;
esac
"""


def executable(path: Path, text: str) -> Path:
    path.write_text(text)
    path.chmod(0o755)
    return path


@pytest.fixture
def run(tmp_path: Path) -> Callable[..., subprocess.CompletedProcess[str]]:
    """run(script, *arguments, cwd=ROOT, shell="sh", **variables) -> CompletedProcess; args[0] is its process id."""
    stub = executable(tmp_path / "stub python", STUB)

    def run(
        script: str, *arguments: str, cwd: Path = ROOT, shell: str = "sh", **variables: str
    ) -> subprocess.CompletedProcess[str]:
        command = [shell, os.path.relpath(ROOT / script, cwd), *arguments]
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
        process = subprocess.Popen(command, env={**PLAIN, "PYTHON": str(stub), **variables}, cwd=cwd, **pipes)
        output = process.communicate(timeout=60)
        return subprocess.CompletedProcess([process.pid], process.returncode, *output)

    return run


@pytest.fixture
def called_with(run: Callable) -> Callable[..., list[str]]:
    """called_with(script, ...) -> the arguments that Python got, in place of the shell so that signals arrive."""

    def called_with(*arguments: str, **keywords: object) -> list[str]:
        result = run(*arguments, **keywords)
        assert result.returncode == 0 and result.stderr.startswith(f"{result.args[0]},"), result.stderr
        return result.stdout.splitlines()

    return called_with


@pytest.mark.parametrize("shell", SHELLS)
def test_every_script_is_sound_shell(shell: str) -> None:
    for file in [*(ROOT / name for name in DEFAULTS), *sorted(ROOT.glob("scripts/*.sh")), ROOT / ".ci/run"]:
        result = subprocess.run([shell, "-n", str(file)], capture_output=True, text=True)
        assert result.returncode == 0, result.stderr


@pytest.mark.parametrize("shell", SHELLS)
@pytest.mark.parametrize("script", DEFAULTS)
def test_what_is_called_by_default_from_any_directory(called_with, script, shell, tmp_path):
    for cwd in (ROOT, tmp_path):
        assert called_with(script, shell=shell, cwd=cwd) == [part.format(ROOT) for part in DEFAULTS[script]]


TRAINING = {"CONFIG": "my configs/a.yml", "DATA_DIR": "../data", "WORK_DIR": "az://store/work"}
GENERATING = {"STEP_INFERENCE": "0", "SAMPLE_DIR": "out/a b", "LARGE_RECEP": "l.pt", "SMALL_RECEP": "s.pt"}
GENERATING |= {"LARGE_RECEP_CONFIG": "l.yml", "SMALL_RECEP_CONFIG": "s.yml", "NUM_DEFECT": "5", "NUM_SAMPLES": "7"}


@pytest.mark.parametrize(
    ("script", "program", "variables"),
    [
        ("train_large.sh", "train.py --network large", {**TRAINING, "NUM_DEFECT": "3", "SEPERATE_CHANNEL_LOSS": "0"}),
        ("inference.sh", "inference.py", GENERATING),
    ],
)
def test_environment_wins_and_further_flags_come_last(called_with, tmp_path, script, program, variables):
    further = ("--seed", "1", "--set", "data.fit=random_crop", "--image_size", "64", "96", "")
    passed = [part for name, value in variables.items() for part in (f"--{name.lower()}", value)]
    name, *own = program.split()
    expected = [f"{ROOT}/scripts/{name}", *own, *passed, *further]
    assert called_with(script, *further, cwd=tmp_path, **variables) == expected


def variables(text: str) -> dict[str, str]:
    """{"A": "1", "B": "2"} of "A=1 B=2"."""
    return dict(pair.split("=") for pair in text.split())


MACHINES = "GPUS=8 NNODES=2 NODE_RANK=1 MASTER_ADDR=node0 MASTER_PORT=1234"
LAUNCHERS = {  # by the environment: the arguments of torchrun; None: it is launched already
    "GPUS=2": "--standalone --nproc_per_node=2",
    "GPUS=2 PMI_RANK=0 PMI_SIZE=1": "--standalone --nproc_per_node=2",  # MPI's of a lone process
    MACHINES: "--nnodes=2 --node_rank=1 --nproc_per_node=8 --master_addr=node0 --master_port=1234",
    "GPUS=2 PMI_RANK=1 PMI_SIZE=2": None,
    "GPUS=2 PMI_RANK=1": None,
    "GPUS=2 OMPI_COMM_WORLD_RANK=0 OMPI_COMM_WORLD_SIZE=2": None,
    "GPUS=2 PMIX_RANK=3 SLURM_STEP_NUM_TASKS=4": None,
    "GPUS=2 TORCHELASTIC_RUN_ID=none": None,
}


@pytest.mark.parametrize("environment", LAUNCHERS)
def test_several_gpus_or_machines_get_torchrun_unless_already_launched(called_with: Callable, environment: str) -> None:
    launcher = LAUNCHERS[environment]
    start = ["-m", "torch.distributed.run", *launcher.split()] if launcher else []
    expected = [*start, *(part.format(ROOT) for part in DEFAULTS["train_small.sh"]), "--seed", "1"]
    assert called_with("train_small.sh", "--seed", "1", **variables(environment)) == expected


def test_threads_are_left_alone_unless_torchrun_would_take_them(run: Callable) -> None:
    for environment, threads in (("", ""), ("GPUS=1000", "1"), ("GPUS=2 OMP_NUM_THREADS=7", "7")):
        assert run("train_large.sh", **variables(environment)).stderr.endswith(f",{threads}\n")


WRONG = {
    "GPUS=two": "GPUS=two: must be a whole number",
    "GPUS=0": "GPUS=0: must be a whole number",
    "GPUS=08": "GPUS=08: must be a whole number",
    "GPUS=99999999999999999999": "GPUS=99999999999999999999: must be a whole number",
    "NNODES=2 NODE_RANK=x": "NNODES=2: set NODE_RANK",
    "NNODES=-1": "NNODES=-1: must be a whole number",
    "NNODES=2": "NNODES=2: set NODE_RANK",
    "NNODES=2 NODE_RANK=2 MASTER_ADDR=node0": "NNODES=2: set NODE_RANK",
    "NNODES=2 NODE_RANK=0": "NNODES=2: set MASTER_ADDR",
    "NNODES=2 NODE_RANK=0 MASTER_ADDR=http://node0": "NNODES=2: set MASTER_ADDR",
    "NNODES=2 NODE_RANK=0 MASTER_ADDR=node0 MASTER_PORT=65536": "MASTER_PORT=65536: must be a whole number",
    "NNODES=2 NODE_RANK=0 MASTER_ADDR=node0 MASTER_PORT=tcp": "MASTER_PORT=tcp: must be a whole number",
    "PYTHON=no/such/python": "no no/such/python here",
}


@pytest.mark.parametrize("environment", WRONG)
def test_wrong_variables_get_one_line(run: Callable, environment: str) -> None:
    result = run("train_large.sh", **variables(environment))
    assert (result.returncode, result.stdout) == (2, "")
    assert result.stderr.startswith(f"error: {WRONG[environment]}") and result.stderr.count("\n") == 1


def test_the_active_virtual_environment_is_used(called_with: Callable, tmp_path: Path) -> None:
    (tmp_path / "env" / "bin").mkdir(parents=True)
    shutil.copy(tmp_path / "stub python", tmp_path / "env" / "bin" / "python")
    expected = [part.format(ROOT) for part in DEFAULTS["train_large.sh"]]
    assert called_with("train_large.sh", PYTHON="", VIRTUAL_ENV=str(tmp_path / "env")) == expected


def set_up(folder: Path, python: object, **variables: str) -> subprocess.CompletedProcess[str]:
    """Run setup_env on <folder>/need.txt, with <folder> as the repository; print the chosen Python."""
    command = f'set -eu; ROOT="{folder}"; . "{ROOT}/scripts/setup_env.sh"; setup_env need.txt; echo "$PYTHON"'
    (folder / "scripts").mkdir(exist_ok=True)
    shutil.copy(ROOT / "scripts" / "launch.sh", folder / "scripts")
    (folder / "need.txt").write_text('# a comment\ntorch>=2.6  # a bound\nnone==1; python_version < "3"\n')
    environment = {**PLAIN, "PYTHON": str(python), **variables}
    return subprocess.run(["sh", "-c", command], env=environment, capture_output=True, text=True, timeout=300)


def test_set_up_uses_a_python_that_has_what_is_needed_and_refuses_an_old_one(tmp_path: Path) -> None:
    result = set_up(tmp_path, sys.executable)
    assert (result.returncode, result.stdout, result.stderr) == (0, f"{sys.executable}\n", "")
    old = executable(tmp_path / "old", "#!/bin/sh\nexit 1\n")
    told = f"error: {old} is not Python 3.10 or newer: install that, or set PYTHON to where it is\n"
    assert ((result := set_up(tmp_path, old)).returncode, result.stderr) == (2, told)
    assert not (tmp_path / ".venv").exists()


def test_set_up_makes_an_environment_where_something_is_lacking(tmp_path: Path) -> None:
    python, tiny = executable(tmp_path / "python", LACKING), tmp_path / "tiny"
    chosen = f"{tmp_path}/.venv/bin/python\n"

    failed = set_up(tmp_path, python, TINY=str(tiny))
    line = f"{python} lacks tiny==1.0: installing need.txt into {tmp_path}/.venv (once, some minutes)\n"
    assert (failed.returncode, failed.stdout) == (2, line)
    assert "error: pip could not install" in failed.stderr

    # What an install that was cut off has left is not built upon.
    (tmp_path / ".venv" / "left over").touch()
    tiny.touch()
    mended = set_up(tmp_path, python, TINY=str(tiny))
    assert mended.returncode == 0 and mended.stdout == f"{line}{tiny}\n{chosen}"
    assert not (tmp_path / ".venv" / "left over").exists()
    # From then on it is used as it is, also where no Python is named.
    assert set_up(tmp_path, python).stdout == set_up(tmp_path, "").stdout == chosen


def test_set_up_by_itself(run: Callable) -> None:
    result = run("scripts/setup_env.sh", shell="bash", ROOT="/elsewhere")
    assert (result.returncode, result.stderr) == (0, "") and result.stdout.startswith("ready: /")


def test_quickstart_goes_through_its_stages(run: Callable) -> None:
    result = run("scripts/quickstart.sh", shell="bash", NUM_DEFECT="9", WORK_DIR="elsewhere")
    assert result.returncode == 0, result.stderr
    demo = f"{ROOT}/work/demo"
    _, _, draw, *trained, generate, measure = (" ".join(part.split()) for part in result.stdout.split("\n== "))
    assert draw == f"Draw the data {ROOT}/scripts/draw_demo_data.py {demo}/data"
    for size, call in zip(("large", "small"), trained, strict=True):
        files = f"--config {ROOT}/configs/demo_{size}.yml --data_dir {demo}/data --work_dir {demo}/{size}"
        assert call == f"Train the {size} network {ROOT}/scripts/train.py --network {size} {files} --resume auto"
    assert f"--sample_dir {demo}/samples --large_recep {demo}/large --small_recep {demo}/small" in generate
    assert generate.endswith(" --spacing uniform")
    fresh = f"Compare with fresh plates {ROOT}/scripts/draw_demo_data.py {demo}/held_out --num_images 200 --seed 1"
    assert measure.startswith(f"{fresh} --no_agreement ") and "contact_sheet.png" in measure  # quality's last line

    for failing, later in (("*/train.py", "Generate"), ("*/evaluate.py", "contact_sheet")):
        stopped = run("scripts/quickstart.sh", shell="bash", FAILING=failing)
        assert stopped.returncode == 3 and later not in stopped.stdout


@pytest.mark.skipif(not (ROOT / ".git").exists(), reason="no clone: git does not tell its attributes")
def test_git_writes_shell_scripts_without_carriage_returns():
    """Also on Windows, where it would write them by default: no sh reads them."""
    files = [*ROOT.glob("*.sh"), *ROOT.glob("scripts/*.sh"), ROOT / ".ci/run"]
    told = subprocess.run(["git", "check-attr", "eol", *files], cwd=ROOT, capture_output=True, text=True, check=True)
    assert told.stdout.count(": eol: lf\n") == len(files) >= 9
    assert not any(b"\r" in file.read_bytes() for file in files)
