"""A generation under faults: writes that fail, reads that are short, two at once, signals, values gone wrong."""

import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from conftest import TrainedPair
from faults import Run, run_here, spoil_each
from runs import tree

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
def test_a_signal_ends_the_run_wherever_it_comes(
    run_script: Callable, trained_pair: TrainedPair, tmp_path: Path, name: str
) -> None:
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
