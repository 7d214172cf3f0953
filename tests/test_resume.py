"""A training that was killed at any moment and run again equals one that never stopped, bit for bit."""

from __future__ import annotations

import csv
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from command_line import plain_environment
from conftest import tiny_config

# Saves at steps 2, 4 and 6 and logs at 3 and 6, so that the means of a log line reach across a save. All that
# is random is on: order, flips, dropout, t and noise; and the learning rate changes from step to step.
CHANGES = {
    "diffusion.num_timestep": 10,  # so that a preview is cheap
    "optimizer.cosine_decay": True,
    "optimizer.grad_clip": 1.0,
    "train.iterations": 6,
    "train.save_ckpt_interval": 2,
    "train.eval_interval": 3,
    "train.log_image_interval": 4,
    "train.max_images": 2,
    "train.keep_last": 1,
}
NOT_REPEATABLE = "steps_per_s"  # the only column that measures the clock

# Runs `action` before or after the first call of `target` whose arguments meet `condition`.
INTERRUPT = """
import os, resource, signal
import blobfile
from guided_diffusion import checkpoint, train_util

original = {target}

def interrupted(*args):
    hit = {condition}
    if hit and {before}:
        {action}
    result = original(*args)
    if hit and not {before}:
        {action}
    return result

{target} = interrupted
"""
SIGKILL = "os.kill(os.getpid(), signal.SIGKILL)"
# The system kills the process in the midst of its next large write.
KILL_WHILE_WRITING = """signal.signal(signal.SIGXFSZ, signal.SIG_DFL)
        resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, resource.RLIM_INFINITY))"""


def interrupt(target: str, condition: str, before: bool = True, action: str = SIGKILL) -> str:
    return INTERRUPT.format(target=target, condition=condition, before=before, action=action)


def before_replacing(name: str, before: bool = True) -> str:
    """Kill between the writing of a temporary file and its renaming; or after that."""
    return interrupt("os.replace", f"args[1].endswith({name!r})", before)


STEP_4 = "args[0].endswith('/diffusion_000004.pt')"
POINTER_4 = "args[1].endswith('/latest') and os.path.exists(args[1][:-6] + 'diffusion_000004.pt')"
MOMENTS = {
    "before the first step": interrupt("train_util.TrainLoop.run", "True"),
    "between steps": interrupt("train_util.TrainLoop.train_step", "args[0].step == 3"),
    "weights updated, EMA not": interrupt("train_util.TrainLoop._update_ema", "args[0].step == 3"),
    "while the log is written": before_replacing("/progress.csv"),
    "while the first preview is written": before_replacing("/images/000004.png"),
    "while the plot is written": before_replacing("/loss.png"),
    "before the temporary file": interrupt("checkpoint.write_atomic", STEP_4),
    "half-way through the temporary file": interrupt("checkpoint.write_atomic", STEP_4, action=KILL_WHILE_WRITING),
    "before the first rename": before_replacing("/diffusion_000002.pt"),
    "before the rename": before_replacing("/diffusion_000004.pt"),
    "after the first rename, no pointer yet": before_replacing("/diffusion_000002.pt", before=False),
    "after the rename, before the pointer": before_replacing("/diffusion_000004.pt", before=False),
    "while the pointer is written": interrupt("os.replace", POINTER_4),
    "after the pointer": interrupt("os.replace", POINTER_4, before=False),
    "after the old one is dropped": interrupt("blobfile.remove", "True", before=False),
}


class Training:
    """`train.py` with one configuration, on a work_dir of one's choice."""

    def __init__(self, run_script: Callable, data: Path, config: Path):
        self.run_script, self.data, self.config = run_script, data, config
        config.write_text(yaml.safe_dump(tiny_config("large", **CHANGES)))

    def arguments(self, work_dir: Path, *flags: object) -> list[str]:
        paths = ("--config", self.config, "--data_dir", self.data, "--work_dir", work_dir)
        return list(map(str, (*paths, *flags)))

    def __call__(self, work_dir: Path, *flags: object, prelude: str = "") -> subprocess.CompletedProcess[str]:
        return self.run_script("train.py", *self.arguments(work_dir, *flags), prelude=prelude)

    def finish(self, work_dir: Path, *flags: object) -> Path:
        result = self(work_dir, *flags)
        assert result.returncode == 0, result.stderr
        return work_dir


@pytest.fixture(scope="module")
def training(run_script: Callable, demo_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Training:
    return Training(run_script, demo_data, tmp_path_factory.mktemp("resume") / "config.yml")


@pytest.fixture(scope="module")
def uninterrupted(training: Training, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return training.finish(tmp_path_factory.mktemp("uninterrupted") / "work")


@pytest.mark.parametrize("moment", MOMENTS)
def test_killed_and_resumed_equals_uninterrupted(
    moment: str, training: Training, uninterrupted: Path, tmp_path: Path
) -> None:
    result = training(tmp_path / "work", prelude=MOMENTS[moment])
    assert result.returncode in (-signal.SIGKILL, -signal.SIGXFSZ), result.stderr
    assert_same(training.finish(tmp_path / "work"), uninterrupted)


def test_killed_again_and_again(training: Training, uninterrupted: Path, tmp_path: Path) -> None:
    for moment in ("between steps", "before the rename", "after the pointer", "weights updated, EMA not"):
        training(tmp_path / "work", prelude=MOMENTS[moment])
    assert_same(training.finish(tmp_path / "work"), uninterrupted)


@pytest.mark.parametrize(("number", "status"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_ends_the_step_and_saves(
    number: signal.Signals, status: int, training: Training, uninterrupted: Path, tmp_path: Path
) -> None:
    work = tmp_path / "work"
    action = f"os.kill(os.getpid(), {int(number)})"
    result = training(work, prelude=interrupt("train_util.TrainLoop._update_ema", "args[0].step == 3", action=action))
    assert result.returncode == status, result.stderr
    assert "stopped after step 3, saved" in result.stdout and "same command goes on" in result.stdout
    assert "Traceback" not in result.stderr
    assert (work / "checkpoint" / "latest").read_text() == "diffusion_000003.pt"
    result = training(work)
    assert result.returncode == 0 and "step 3" in result.stdout
    assert_same(work, uninterrupted)


def test_a_signal_during_a_save_lets_it_finish(training: Training, uninterrupted: Path, tmp_path: Path) -> None:
    action = "os.kill(os.getpid(), signal.SIGTERM)"
    prelude = interrupt("os.replace", "args[1].endswith('/diffusion_000004.pt')", action=action)
    result = training(tmp_path / "work", prelude=prelude)
    assert result.returncode == 143
    assert (tmp_path / "work" / "checkpoint" / "latest").read_text() == "diffusion_000004.pt"
    assert_same(training.finish(tmp_path / "work"), uninterrupted)


def test_sigterm_from_outside(training: Training, repo: Path, tmp_path: Path) -> None:
    """A Python of its own, and a signal at no chosen moment: the run goes on two steps further than it came."""
    work = tmp_path / "work"
    flat = ("--set", "optimizer.cosine_decay=false")  # so that the number of steps changes nothing else
    process = subprocess.Popen(
        [sys.executable, repo / "scripts" / "train.py"]
        + training.arguments(work, *flat, "--set", "train.iterations=100000"),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=plain_environment(),
    )
    try:
        deadline = time.monotonic() + 100
        while not (work / "progress.csv").exists() and process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.05)
        process.terminate()
        stdout, stderr = process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == 143, stderr
    step = int((work / "checkpoint" / "latest").read_text()[-9:-3])
    assert step >= 3 and f"stopped after step {step}, saved" in stdout

    flags = (*flat, "--set", f"train.iterations={step + 2}", "--set", "train.log_image_interval=0")
    resumed = training.finish(work, *flags)
    for preview in resumed.glob("images/*"):  # of the first run, as yet without that flag
        preview.unlink()
    (resumed / "images").rmdir() if (resumed / "images").exists() else None
    assert_same(resumed, training.finish(tmp_path / "uninterrupted", *flags))


def test_a_complete_training_is_left_as_it_is(training: Training, uninterrupted: Path) -> None:
    before = {path: path.read_bytes() for path in uninterrupted.rglob("*") if path.is_file()}
    result = training(uninterrupted)
    assert result.returncode == 0 and "complete: trained to step 6" in result.stdout
    assert {path: path.read_bytes() for path in uninterrupted.rglob("*") if path.is_file()} == before


def test_a_chosen_checkpoint_resumes_elsewhere(training: Training, uninterrupted: Path, tmp_path: Path) -> None:
    training.finish(tmp_path / "work", "--set", "train.keep_last=0")
    chosen = tmp_path / "work" / "checkpoint" / "diffusion_000002.pt"
    other = training.finish(tmp_path / "other", "--resume", chosen)
    ours, theirs = (torch.load(work / "checkpoint" / "diffusion_000006.pt") for work in (other, uninterrupted))
    assert_equal(ours, theirs)


def assert_same(work: Path, expected: Path) -> None:
    """Same files, no temporaries among them, with the same content as far as that can be repeated."""
    assert files(work) == files(expected)
    for name in ("config.yml", "checkpoint/latest"):
        assert (work / name).read_text() == (expected / name).read_text()
    assert rows(work) == rows(expected)
    for preview in (expected / "images").glob("*"):
        assert (work / "images" / preview.name).read_bytes() == preview.read_bytes()
    for checkpoint in (expected / "checkpoint").glob("*.pt"):
        ours, theirs = torch.load(work / "checkpoint" / checkpoint.name), torch.load(checkpoint)
        assert set(ours) >= {"model", "ema", "optimizer", "step", "config"}
        assert_equal(ours, theirs)


def files(work: Path) -> set[str]:
    found = {str(path.relative_to(work)) for path in work.rglob("*")}
    return {name for name in found if not name.startswith("tensorboard/")}  # its file names hold the time


def rows(work: Path) -> list[dict[str, str]]:
    """What progress.csv holds and the clock does not change, to the last digit written."""
    with open(work / "progress.csv") as file:
        return [{k: v for k, v in row.items() if k != NOT_REPEATABLE} for row in csv.DictReader(file)]


def assert_equal(ours: Any, theirs: Any, where: str = "") -> None:
    """Equal in every bit, through dicts and lists."""
    assert type(ours) is type(theirs), where
    if isinstance(theirs, dict):
        assert ours.keys() == theirs.keys(), where
        for key in theirs:
            assert_equal(ours[key], theirs[key], f"{where}.{key}")
    elif isinstance(theirs, (list, tuple)):
        assert len(ours) == len(theirs), where
        for i, pair in enumerate(zip(ours, theirs, strict=True)):
            assert_equal(*pair, f"{where}[{i}]")
    elif isinstance(theirs, torch.Tensor):
        assert ours.dtype == theirs.dtype and torch.equal(ours, theirs), where
    else:
        assert ours == theirs, where
