"""inference.py while it runs: too little memory, writing beside computing, errors in writing, Ctrl-C."""

from __future__ import annotations

import json
import re
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import TrainedPair
from runs import sample_differences, tree

# Calls of a network with more than `limit` images fail as on a GPU, where the expression `which` is true.
LITTLE_MEMORY = """
import torch
from guided_diffusion.networks.unet import UNet
forward = UNet.forward

def limited(self, x, t):
    if len(x) > {limit} and {which}:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB")
    return forward(self, x, t)

UNet.forward = limited
"""

# Shows when a call of generate() begins; then the expression `action` at the start of each SampleFolder.add().
WATCHED = """
import os, sys, threading
from guided_diffusion.generation import api, sample_io
generate, add = api.DefectGen.generate, sample_io.SampleFolder.add
rounds, second = [], threading.Event()

def watched_generate(self, *args, **keywords):
    rounds.append(args)
    print("round", len(rounds), flush=True)
    if len(rounds) == 2:
        second.set()
    return generate(self, *args, **keywords)

def watched_add(self, *args):
    {action}
    add(self, *args)

api.DefectGen.generate, sample_io.SampleFolder.add = watched_generate, watched_add
"""

Run = Callable[..., subprocess.CompletedProcess]


@pytest.fixture
def generate(run_script: Callable, trained_pair: TrainedPair) -> Run:
    """generate(folder, *flags, prelude=""): ten samples in six steps, four of them of the large network."""

    def run(folder: Path, *flags: object, prelude: str = "") -> subprocess.CompletedProcess:
        paths = ("--large_recep", trained_pair.large, "--small_recep", trained_pair.small, "--sample_dir", folder)
        fixed = ("--num_samples", 10, "--num_steps", "4+2", "--precision", "fp32")
        return run_script("inference.py", *paths, *fixed, *flags, prelude=prelude)

    return run


def finish(result: subprocess.CompletedProcess) -> str:
    assert result.returncode == 0, result.stderr
    return result.stdout


def steps_shown(result: subprocess.CompletedProcess) -> str:
    """Where the progress bar ended, such as "30/30"."""
    return re.findall(r"\d+/\d+", result.stderr)[-1]


@pytest.mark.parametrize(
    ("which", "steps"), [("True", "30/30"), ("t[0] < 400", "34/34")], ids=["at once", "in the small"]
)
def test_too_little_memory_ends_in_images(which: str, steps: str, generate: Run, tmp_path: Path) -> None:
    finish(generate(tmp_path / "two", "--batch_size", 2))
    result = generate(tmp_path / "four", "--batch_size", 4, prelude=LITTLE_MEMORY.format(limit=2, which=which))
    stdout = finish(result)
    assert stdout.count("out of memory with 4 images at a time; going on with 2\n") == 1
    assert stdout.count("out of memory") == 1 and "Traceback" not in result.stderr
    # All steps that were taken: the four in vain of the large network too, where the small one failed.
    assert steps_shown(result) == steps
    assert tree(tmp_path / "four") == tree(tmp_path / "two")


def test_auto_halves_as_often_as_it_takes(generate: Run, tmp_path: Path) -> None:
    finish(generate(tmp_path / "one", "--batch_size", 1))
    result = generate(tmp_path / "auto", prelude=LITTLE_MEMORY.format(limit=1, which=True))
    stdout = finish(result)
    assert [line for line in stdout.splitlines() if "out of memory" in line] == [
        f"out of memory with {a} images at a time; going on with {b}" for a, b in ((10, 5), (5, 2), (2, 1))
    ]
    assert steps_shown(result) == "60/60"
    assert tree(tmp_path / "auto") == tree(tmp_path / "one")


def test_an_image_that_does_not_fit_is_one_line(generate: Run, tmp_path: Path) -> None:
    result = generate(tmp_path, prelude=LITTLE_MEMORY.format(limit=0, which=True))
    assert result.returncode == 2 and "Traceback" not in result.stderr
    line = result.stderr.splitlines()[-1]
    assert line.startswith("error: --image_size 32 32: not even one image at a time fits into the memory of cpu; give")
    assert "--precision bf16" in line and "--device cpu" not in line
    assert tree(tmp_path) == {}


def test_the_manifest_does_not_know_the_batch_size(generate: Run, tmp_path: Path) -> None:
    finish(generate(tmp_path, "--num_samples", 3, "--batch_size", 3))
    assert "3 of 10 samples are there already" in finish(generate(tmp_path))
    rows = [json.loads(line) for line in (tmp_path / "manifest.jsonl").read_text().splitlines()]
    assert [row["index"] for row in rows] == list(range(10))
    assert rows[0]["settings"] == rows[9]["settings"] and rows[0]["settings"]["num_steps"] == [4, 2]


def test_a_round_is_written_while_the_next_is_computed(generate: Run, tmp_path: Path) -> None:
    """The writing of the first waits for the second to begin; else this would end in an error."""
    action = "assert second.wait(60), 'not at the same time'"
    result = generate(tmp_path / "watched", "--batch_size", 4, prelude=WATCHED.format(action=action))
    assert "round 3\n" in finish(result)
    assert steps_shown(result) == "18/18"
    finish(generate(tmp_path / "plain", "--batch_size", 4))
    assert tree(tmp_path / "watched") == tree(tmp_path / "plain")


def test_an_error_in_writing_ends_the_run_in_its_line(generate: Run, tmp_path: Path) -> None:
    full = """
from guided_diffusion.generation import sample_io
write = sample_io.write_atomic

def full_disk(path, data):
    if path.endswith("images/000005.png"):
        raise OSError(28, "No space left on device")
    write(path, data)

sample_io.write_atomic = full_disk
"""
    result = generate(tmp_path, "--batch_size", 2, prelude=full + WATCHED.format(action="pass"))
    assert result.returncode == 2 and "Traceback" not in result.stderr
    line = result.stderr.splitlines()[-1]
    assert line.startswith("error: --sample_dir: cannot write ") and "images/000005.png' (No space left" in line
    assert "round 4\n" in result.stdout and "round 5\n" not in result.stdout  # it was in the third
    assert len((tmp_path / "manifest.jsonl").read_text().splitlines()) == 4
    assert "4 of 10 samples are there already" in finish(generate(tmp_path, "--batch_size", 2))


def test_ctrl_c_lets_the_round_before_be_written(generate: Run, tmp_path: Path) -> None:
    """Interrupted while the second round is computed and the first is about to be written."""
    stop = f"second.set(); os.kill(os.getpid(), {signal.SIGINT:d})"
    prelude = WATCHED.format(action="second.wait(60)").replace("second.set()", stop)
    result = generate(tmp_path / "samples", "--batch_size", 4, prelude=prelude)
    assert result.returncode == 130, result.stderr
    assert result.stderr.splitlines()[-1] == "interrupted" and "Traceback" not in result.stderr
    assert len((tmp_path / "samples" / "manifest.jsonl").read_text().splitlines()) == 4
    finish(generate(tmp_path / "samples", "--batch_size", 4))
    finish(generate(tmp_path / "plain", "--batch_size", 4))
    assert tree(tmp_path / "samples") == tree(tmp_path / "plain")


def test_auto_precision_continues_a_folder_in_its_own(generate: Run, tmp_path: Path) -> None:
    """Whatever is faster at the moment, samples of one folder are made alike."""
    for precision in ("bf16", "fp32"):
        folder = tmp_path / precision
        assert generate(folder, "--precision", precision, "--num_samples", 2).returncode == 0
        result = generate(folder, "--precision", "auto", "--num_samples", 3)
        assert result.returncode == 0, result.stderr
        rows = [json.loads(line) for line in (folder / "manifest.jsonl").read_text().splitlines()]
        assert [row["settings"]["precision"] for row in rows] == [precision] * 3


def test_compiled_networks_make_the_same_samples(generate: Run, tmp_path: Path) -> None:
    """Ten samples four at a time: two batches go through what torch.compile returns, the last one does not."""
    count = """
import torch
torch.compile = lambda network: lambda x, t: print("compiled batch of", len(x)) or network(x, t)
"""
    assert generate(tmp_path / "plain", "--batch_size", 4).returncode == 0
    result = generate(tmp_path / "fast", "--batch_size", 4, "--compile", "on", prelude=count)
    assert result.returncode == 0, result.stderr
    trials, steps = 2, 12  # one of each network, then six of both batches
    assert re.findall(r"compiled batch of (\d+)", result.stdout) == ["4"] * (trials + steps)
    assert sample_differences(tmp_path / "fast", tmp_path / "plain") == (0, 0.0)


def test_compile_auto_says_what_it_decides(generate: Run, tmp_path: Path) -> None:
    assert "torch.compile off (it makes nothing faster on the CPU)" in generate(tmp_path, "--num_samples", 1).stdout


BROKEN_COMPILER = """
import torch
from guided_diffusion import tuning
def broken(x, t):
    raise AssertionError("no kernel for that")
torch.compile = lambda network: broken
tuning.COMPILE_GAIN["cpu"], tuning.COMPILE_SECONDS["cpu"] = 2.0, 0.0
"""


def test_a_compiler_that_fails_is_one_line_or_done_without(generate: Run, tmp_path: Path) -> None:
    asked = generate(tmp_path / "on", "--compile", "on", prelude=BROKEN_COMPILER)
    assert asked.returncode == 2 and asked.stderr.splitlines()[-1].startswith("error: torch.compile: failed (no kernel")
    result = generate(tmp_path / "auto", prelude=BROKEN_COMPILER)
    assert result.returncode == 0, result.stderr
    assert "torch.compile on (expected to save" in result.stdout
    assert "going on without torch.compile (torch.compile: failed (no kernel for that)" in result.stdout
    assert generate(tmp_path / "plain", "--compile", "off").returncode == 0
    assert sample_differences(tmp_path / "auto", tmp_path / "plain") == (0, 0.0)


def test_compile_auto_survives_a_batch_that_does_not_fit(generate: Run, tmp_path: Path) -> None:
    """Neither the time estimate nor the trial may end the run; what does not fit is halved as ever."""
    prelude = LITTLE_MEMORY.format(limit=2, which="True") + BROKEN_COMPILER.replace(": broken", ": network")
    result = generate(tmp_path / "small", "--batch_size", 8, prelude=prelude)
    assert result.returncode == 0, result.stderr
    assert "torch.compile on (expected to save" in result.stdout
    assert len(json_lines(tmp_path / "small")) == 10


def json_lines(folder: Path) -> list[dict]:
    return [json.loads(line) for line in (folder / "manifest.jsonl").read_text().splitlines()]
