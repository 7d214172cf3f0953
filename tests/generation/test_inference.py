"""inference.py while it runs: too little memory, writing beside computing, errors in writing, Ctrl-C, compilation."""

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

FULL_DISK = """
from guided_diffusion.generation import sample_io
write = sample_io.write_atomic

def full_disk(path, data):
    if path.endswith("images/000005.png"):
        raise OSError(28, "No space left on device")
    write(path, data)

sample_io.write_atomic = full_disk
"""

Run = Callable[..., subprocess.CompletedProcess]


@pytest.fixture
def generate(run_script: Callable, trained_pair: TrainedPair) -> Run:
    """generate(folder, *flags, prelude="", status=0): ten samples in six steps, four of them of the large network."""

    def run(folder: Path, *flags: object, prelude: str = "", status: int = 0) -> subprocess.CompletedProcess:
        paths = ("--large_recep", trained_pair.large, "--small_recep", trained_pair.small, "--sample_dir", folder)
        fixed = ("--num_samples", 10, "--num_steps", "4+2", "--precision", "fp32")
        result = run_script("inference.py", *paths, *fixed, *flags, prelude=prelude)
        assert result.returncode == status and "Traceback" not in result.stderr, result.stderr
        return result

    return run


def rows_of(folder: Path) -> list[dict]:
    return [json.loads(line) for line in (folder / "manifest.jsonl").read_text().splitlines()]


def last_line(result: subprocess.CompletedProcess) -> str:
    return result.stderr.splitlines()[-1]


def steps_shown(result: subprocess.CompletedProcess) -> str:
    """Where the progress bar ended, such as "30/30"."""
    return re.findall(r"\d+/\d+", result.stderr)[-1]


@pytest.mark.parametrize(
    ("batch_size", "limit", "which", "halved", "steps"),
    [
        (4, 2, "True", [(4, 2)], "30/30"),
        (4, 2, "t[0] < 400", [(4, 2)], "34/34"),  # the four in vain of the large network too
        ("auto", 1, "True", [(10, 5), (5, 2), (2, 1)], "60/60"),
    ],
)
def test_too_little_memory_ends_in_images(
    batch_size: object, limit: int, which: str, halved: list, steps: str, generate: Run, tmp_path: Path
) -> None:
    generate(tmp_path / "small", "--batch_size", limit)
    prelude = LITTLE_MEMORY.format(limit=limit, which=which)
    result = generate(tmp_path / "halved", "--batch_size", batch_size, prelude=prelude)
    assert [line for line in result.stdout.splitlines() if "out of memory" in line] == [
        f"out of memory with {a} images at a time; going on with {b}" for a, b in halved
    ]
    assert steps_shown(result) == steps
    assert tree(tmp_path / "halved") == tree(tmp_path / "small")


def test_an_image_that_does_not_fit_is_one_line(generate: Run, tmp_path: Path) -> None:
    result = generate(tmp_path, prelude=LITTLE_MEMORY.format(limit=0, which=True), status=2)
    assert last_line(result).startswith("error: --image_size 32 32: not even one image at a time fits")
    assert "--precision bf16" in last_line(result) and tree(tmp_path) == {}


def test_a_folder_grows_whatever_the_batch_size_and_keeps_its_precision(generate: Run, tmp_path: Path) -> None:
    for precision in ("bf16", "fp32"):
        folder = tmp_path / precision
        generate(folder, "--num_samples", 3, "--batch_size", 3, "--precision", precision)
        assert "3 of 10 samples are there already" in generate(folder, "--precision", "auto").stdout
        rows = rows_of(folder)
        assert [row["index"] for row in rows] == list(range(10)) and rows[0]["settings"] == rows[9]["settings"]
        assert rows[9]["settings"]["precision"] == precision and rows[0]["settings"]["num_steps"] == [4, 2]


def test_a_round_is_written_while_the_next_is_computed(generate: Run, tmp_path: Path) -> None:
    """The writing of the first waits for the second to begin; else this would end in an error."""
    action = "assert second.wait(60), 'not at the same time'"
    result = generate(tmp_path / "watched", "--batch_size", 4, prelude=WATCHED.format(action=action))
    assert "round 3\n" in result.stdout and steps_shown(result) == "18/18"
    generate(tmp_path / "plain", "--batch_size", 4)
    assert tree(tmp_path / "watched") == tree(tmp_path / "plain")


def test_an_error_in_writing_ends_the_run_in_its_line(generate: Run, tmp_path: Path) -> None:
    result = generate(tmp_path, "--batch_size", 2, prelude=FULL_DISK + WATCHED.format(action="pass"), status=2)
    line = last_line(result)
    assert line.startswith("error: --sample_dir: cannot write ") and "images/000005.png' (No space left" in line
    assert "round 4\n" in result.stdout and "round 5\n" not in result.stdout  # it was in the third
    assert len(rows_of(tmp_path)) == 4
    assert "4 of 10 samples are there already" in generate(tmp_path, "--batch_size", 2).stdout


def test_ctrl_c_lets_the_round_before_be_written(generate: Run, tmp_path: Path) -> None:
    """Interrupted while the second round is computed and the first is about to be written."""
    stop = f"second.set(); os.kill(os.getpid(), {signal.SIGINT:d})"
    prelude = WATCHED.format(action="second.wait(60)").replace("second.set()", stop)
    result = generate(tmp_path / "samples", "--batch_size", 4, prelude=prelude, status=130)
    assert last_line(result) == "interrupted" and len(rows_of(tmp_path / "samples")) == 4
    generate(tmp_path / "samples", "--batch_size", 4)
    generate(tmp_path / "plain", "--batch_size", 4)
    assert tree(tmp_path / "samples") == tree(tmp_path / "plain")


def test_compiled_networks_make_the_same_samples(generate: Run, tmp_path: Path) -> None:
    """Ten samples four at a time: two batches go through what torch.compile returns, the last one does not."""
    count = """
import torch
torch.compile = lambda network: lambda x, t: print("compiled batch of", len(x)) or network(x, t)
"""
    generate(tmp_path / "plain", "--batch_size", 4)
    result = generate(tmp_path / "fast", "--batch_size", 4, "--compile", "on", prelude=count)
    trials, steps = 2, 12  # one of each network, then six of both batches
    assert re.findall(r"compiled batch of (\d+)", result.stdout) == ["4"] * (trials + steps)
    assert sample_differences(tmp_path / "fast", tmp_path / "plain") == (0, 0.0)


def test_a_compiler_that_fails_is_one_line_and_one_that_lacks_memory_is_done_without(
    generate: Run, tmp_path: Path
) -> None:
    broken = """
import torch
def broken(x, t):
    raise AssertionError("no kernel for that")
torch.compile = lambda network: broken
"""
    result = generate(tmp_path, "--compile", "on", prelude=broken, status=2)
    assert last_line(result).startswith("error: torch.compile: failed (no kernel")
    prelude = LITTLE_MEMORY.format(limit=2, which="True") + broken.replace(": broken", ": network")
    generate(tmp_path, "--batch_size", 8, "--compile", "on", prelude=prelude)
    assert len(rows_of(tmp_path)) == 10
