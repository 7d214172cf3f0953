"""inference.py while it runs: writes that fail, reads that are short, two at once, signals, values gone wrong, too
little memory, folders that grow, compilation."""

import json
import os
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from conftest import TrainedPair
from runs import GPU_MEMORY, Run, little_memory, run_here, sample_differences, spoil_each, tree

from guided_diffusion import DefectGen, file_io
from guided_diffusion.cli import inference
from guided_diffusion.errors import InputError
from guided_diffusion.generation import sample_io


@pytest.fixture
def generate(trained_pair: TrainedPair, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch) -> Run:
    """generate(folder): two samples in two rounds by the command line, here; exit status and lines of stderr."""
    monkeypatch.setattr(sample_io, "WRITERS", 1)  # so that files come in the same order
    flags = {"large_recep": trained_pair.large, "small_recep": trained_pair.small, "device": "cpu", "precision": "fp32"}
    flags |= {"num_samples": 2, "batch_size": 1, "num_steps": "1+2"}
    return lambda folder: run_here(inference.main, flags | {"sample_dir": folder}, capsys)


@pytest.mark.parametrize("kind", ["write", "read"])
def test_each_fault(generate: Callable, tmp_path: Path, kind: str) -> None:
    assert generate(tmp_path / "whole") == (0, [])
    told = spoil_each(kind, generate, tmp_path, tmp_path / "whole")
    named = {"000000.png", "000001.png", "diffusion_000004.pt" if kind == "read" else "manifest.jsonl"}
    assert told >= (named if kind == "read" else named | {"contact_sheet.png"}), told


def test_a_second_run_in_the_folder_ends_in_a_line_that_names_the_first(generate: Callable, tmp_path: Path) -> None:
    with file_io.lock_folder(str(tmp_path), "--sample_dir"):
        status, lines = generate(tmp_path)
    assert status == 2 and f"process {os.getpid()} on " in lines[0] and len(lines) == 1
    assert tree(tmp_path) == {}
    assert generate(tmp_path)[0] == 0


def test_values_that_are_no_numbers_make_no_sample(generator: DefectGen, tmp_path: Path) -> None:
    large, small = generator.networks.values()
    network = replace(small, forward=lambda x, *types: small.forward(x, *types) * float("nan"))
    broken = DefectGen([large, network], generator.device, "fp32", "ema")
    with pytest.raises(InputError, match="precision fp32: the networks' values are no numbers"):
        broken.generate_into(str(tmp_path), 1, broken.settings(num_steps=(1, 2)))
    assert not list(tmp_path.rglob("*.png"))


# A signal where Python drops the exception of its handler: in what runs when an object goes.
DROPPED = """
import os, signal
from guided_diffusion.generation import api
generate, rounds = api.DefectGen.draw, []

class Going:
    def __del__(self):
        os.kill(os.getpid(), signal.{name})

def signalled(self, *args, **keywords):
    rounds.append(args)
    if len(rounds) == 2:
        Going()
    return generate(self, *args, **keywords)

api.DefectGen.draw = signalled
"""


@pytest.mark.parametrize("name", ["SIGINT", "SIGHUP"])
def test_a_signal_ends_the_run_wherever_it_comes(run_script, trained_pair, tmp_path, name) -> None:
    """The round before is written; the next run goes on. Ignored signals, as under nohup, stay ignored."""
    flags = {"large_recep": trained_pair.large, "small_recep": trained_pair.small, "precision": "fp32"}
    flags |= {"num_samples": 3, "batch_size": 1, "num_steps": "1+2"}
    argv = [f"--{key}={value}" for key, value in flags.items()]
    preludes = DROPPED.format(name=name), DROPPED.format(name=name) + f"signal.signal(signal.{name}, signal.SIG_IGN)"
    for prelude, status, made in (*zip(preludes, (130, 0), (1, 3), strict=True), ("", 0, 3)):
        folder = tmp_path / ("ignored" if "SIG_IGN" in prelude else "ended")
        result = run_script("inference.py", *argv, "--sample_dir", folder, prelude=prelude, timeout=60)
        assert result.returncode == status and "Traceback" not in result.stderr, result.stderr
        assert len((folder / "manifest.jsonl").read_text().splitlines()) == made
    assert tree(tmp_path / "ended") == tree(tmp_path / "ignored")


@pytest.fixture
def infer(run_script, trained_pair):
    """infer(folder, *flags, prelude="", status=0): ten samples in six steps, four of them of the large network."""

    def run(folder, *flags, prelude="", status=0):
        paths = ("--large_recep", trained_pair.large, "--small_recep", trained_pair.small, "--sample_dir", folder)
        fixed = ("--num_samples", 10, "--num_steps", "4+2", "--precision", "fp32", "--batch_size", 4)
        result = run_script("inference.py", *paths, *fixed, *flags, prelude=prelude)
        assert result.returncode == status and "Traceback" not in result.stderr, result.stderr
        return result

    return run


@pytest.mark.parametrize(
    ("flags", "limit", "which", "error", "halved", "steps"),
    [
        ((), 2, "t[0] < 400", GPU_MEMORY, [("4", "2")], "34/34"),  # the four in vain of the large network too
        (("--batch_size", "auto"), 1, "True", "MemoryError", [("10", "5"), ("5", "2"), ("2", "1")], "60/60"),
        (("--compile", "on"), 2, "True", "MemoryError", [("4", "2")], "30/30"),  # done without its compiler
    ],
)
def test_too_little_memory_ends_in_images(infer, tmp_path, flags, limit, which, error, halved, steps):
    infer(tmp_path / "small", "--batch_size", limit)
    prelude = little_memory(limit, which, error)
    prelude += "torch.compile = lambda network, **how: network"
    result = infer(tmp_path / "halved", *flags, prelude=prelude)
    assert re.findall("out of memory with (.*) images at a time; going on with (.*)", result.stdout) == halved
    assert re.findall(r"\d+/\d+", result.stderr)[-1] == steps  # where the progress bar ended
    assert tree(tmp_path / "halved") == tree(tmp_path / "small")


def test_an_image_that_does_not_fit_is_one_line(infer, tmp_path):
    result = infer(tmp_path, prelude=little_memory(0), status=2)
    line = result.stderr.splitlines()[-1]
    assert line.startswith("error: --image_size 32 32: not even one image at a time fits")
    assert "--precision bf16" in line and tree(tmp_path) == {}


def test_a_folder_grows_whatever_the_batch_size_and_keeps_its_precision(infer, tmp_path):
    infer(tmp_path, "--num_samples", 3, "--batch_size", 3, "--precision", "bf16")
    assert "3 of 10 samples are there already" in infer(tmp_path, "--precision", "auto").stdout
    rows = [json.loads(line) for line in (tmp_path / "manifest.jsonl").open()]
    assert [row["index"] for row in rows] == list(range(10)) and rows[0]["settings"] == rows[9]["settings"]
    assert rows[9]["settings"]["precision"] == "bf16" and rows[0]["settings"]["num_steps"] == [4, 2]


def test_compiled_networks_make_the_same_samples(infer, tmp_path):
    """Ten samples four at a time: two batches go through what torch.compile returns, the last one does not."""
    count = """
import torch
torch.compile = lambda network, **how: lambda x, t: print("compiled batch of", len(x)) or network(x, t)
"""
    infer(tmp_path / "plain")
    result = infer(tmp_path / "fast", "--compile", "on", prelude=count)
    trials, steps = 2, 12  # one of each network, then six of both batches
    assert re.findall(r"compiled batch of (\d+)", result.stdout) == ["4"] * (trials + steps)
    assert sample_differences(tmp_path / "fast", tmp_path / "plain") == (0, 0.0)
