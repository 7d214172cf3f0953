"""A training that was killed at any moment and run again equals one that never stopped, bit for bit."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import yaml
from command_line import plain_environment
from conftest import tiny_config
from runs import (
    KILL_WHILE_WRITING,
    QUICK,
    assert_equal,
    assert_same_training,
    before_replacing,
    interrupt,
    tree,
)

# Saves at steps 2, 4 and 6 and logs at 3 and 6, so that the means of a log line reach across a save. All that
# is random is on: order, flips, dropout, t and noise; and the learning rate changes from step to step.
CHANGES = {
    "data.resolution": 16,
    "diffusion.num_timestep": 4,  # so that a preview is cheap
    "optimizer.cosine_decay": True,
    "optimizer.grad_clip": 1.0,
    "train.iterations": 6,
    "train.save_ckpt_interval": 2,
    "train.eval_interval": 3,
    "train.log_image_interval": 4,
    "train.max_images": 1,
    "train.keep_last": 1,
}
STEP_2, STEP_4 = (f"args[0].endswith('/diffusion_00000{step}.pt')" for step in (2, 4))
POINTER_4 = "args[1].endswith('/latest') and os.path.exists(args[1][:-6] + 'diffusion_000004.pt')"
MOMENTS = {
    "before the first step": interrupt("train_util.TrainLoop.run"),
    "between steps": interrupt("train_util.TrainLoop.train_step", "args[0].step == 3"),
    "weights updated, EMA not": interrupt("train_util.TrainLoop._update_ema", "args[0].step == 3"),
    "while the log is written": before_replacing("/progress.csv"),
    "while the first preview is written": before_replacing("/images/000004.png"),
    "while the plot is written": before_replacing("/loss.png"),
    "before the temporary file": interrupt("checkpoint.write_atomic", STEP_4),
    "half-way through the temporary file": interrupt("checkpoint.write_atomic", STEP_2, action=KILL_WHILE_WRITING),
    "before the first rename": before_replacing("/diffusion_000002.pt"),
    "before the rename": before_replacing("/diffusion_000004.pt"),
    "after the first rename, no pointer yet": before_replacing("/diffusion_000002.pt", before=False),
    "after the rename, before the pointer": before_replacing("/diffusion_000004.pt", before=False),
    "while the pointer is written": interrupt("os.replace", POINTER_4),
    "after the pointer": interrupt("os.replace", POINTER_4, before=False),
    "after the old one is dropped": interrupt("blobfile.remove", before=False),
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
        return self.run_script("train.py", *self.arguments(work_dir, *flags), prelude=QUICK + prelude)

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
    assert_same_training(training.finish(tmp_path / "work"), uninterrupted)


def test_killed_again_and_again(training: Training, uninterrupted: Path, tmp_path: Path) -> None:
    for moment in ("between steps", "before the rename", "after the pointer", "weights updated, EMA not"):
        training(tmp_path / "work", prelude=MOMENTS[moment])
    assert_same_training(training.finish(tmp_path / "work"), uninterrupted)


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
    assert_same_training(work, uninterrupted)


def test_a_signal_during_a_save_lets_it_finish(training: Training, uninterrupted: Path, tmp_path: Path) -> None:
    action = "os.kill(os.getpid(), signal.SIGTERM)"
    prelude = interrupt("os.replace", "args[1].endswith('/diffusion_000004.pt')", action=action)
    result = training(tmp_path / "work", prelude=prelude)
    assert result.returncode == 143
    assert (tmp_path / "work" / "checkpoint" / "latest").read_text() == "diffusion_000004.pt"
    assert_same_training(training.finish(tmp_path / "work"), uninterrupted)


def test_sigterm_from_outside(training: Training, repo: Path, tmp_path: Path) -> None:
    """A Python of its own, and a signal at no chosen moment: the run goes on two steps further than it came."""
    work = tmp_path / "work"
    # So that the number of steps changes nothing else, and that they are quick.
    flat = ("--set", "optimizer.cosine_decay=false", "--set", "train.log_image_interval=0")
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

    flags = (*flat, "--set", f"train.iterations={step + 2}")
    assert_same_training(training.finish(work, *flags), training.finish(tmp_path / "uninterrupted", *flags))


def test_a_complete_training_is_left_as_it_is(training: Training, uninterrupted: Path) -> None:
    before = tree(uninterrupted)
    result = training(uninterrupted)
    assert result.returncode == 0 and "complete: trained to step 6" in result.stdout
    assert tree(uninterrupted) == before


def test_a_chosen_checkpoint_resumes_elsewhere(training: Training, uninterrupted: Path, tmp_path: Path) -> None:
    training.finish(tmp_path / "work", "--set", "train.keep_last=0")
    chosen = tmp_path / "work" / "checkpoint" / "diffusion_000002.pt"
    other = training.finish(tmp_path / "other", "--resume", chosen)
    ours, theirs = (torch.load(work / "checkpoint" / "diffusion_000006.pt") for work in (other, uninterrupted))
    assert_equal(ours, theirs)
