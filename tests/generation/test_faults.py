"""A generation under faults: writes that fail, reads that are short, two at once, signals, values gone wrong."""

import errno
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from conftest import TrainedPair
from runs import Faulty, tree

from guided_diffusion import DefectGen, file_io
from guided_diffusion.cli import inference
from guided_diffusion.errors import InputError, run_cli
from guided_diffusion.generation import sample_io

NUMBERS = (errno.ENOSPC, errno.EROFS, errno.EIO)


@pytest.fixture
def generate(
    trained_pair: TrainedPair, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., tuple[int, list[str]]]:
    """generate(folder, faulty=open): two samples in two rounds by the command line; exit status, lines of stderr."""
    flags = {"large_recep": trained_pair.large, "small_recep": trained_pair.small, "device": "cpu", "precision": "fp32"}
    flags |= {"num_samples": 2, "batch_size": 1, "num_steps": "1+2"}
    monkeypatch.setattr(sample_io, "WRITERS", 1)  # so that files come in the same order

    def run(folder: Path, faulty: Callable = open) -> tuple[int, list[str]]:
        monkeypatch.setattr(file_io, "_warned", set())
        monkeypatch.setattr(file_io, "open", faulty, raising=False)
        argv, status = [f"--{name}={value}" for name, value in {**flags, "sample_dir": folder}.items()], []
        run_cli(lambda _: inference.main(argv), status.append, inference.FLAGS)
        lines = capsys.readouterr().err.replace("\r", "\n").splitlines()
        return status[0], [line for line in lines if line and "step/s" not in line and "?step" not in line]

    return run


@pytest.mark.parametrize(
    ("kind", "names"),
    [
        ("write", ("000000.png", "000001.png", "manifest.jsonl", "contact_sheet.png")),
        ("read", ("diffusion_000004.pt", "000000.png", "000001.png")),
    ],
)
def test_each_write_fails_once_and_each_read_is_short_once(
    generate: Callable, tmp_path: Path, kind: str, names: tuple[str, ...]
) -> None:
    """One line names the file, and the next run ends with the same bytes."""
    calm, spoken = Faulty(kind), ""
    assert generate(tmp_path / "whole", calm) == (0, [])
    for chosen in range(len(calm.paths)):
        folder, number = tmp_path / str(chosen), NUMBERS[chosen % 3]
        status, (line,) = generate(folder, Faulty(kind, chosen, number))
        assert (os.strerror(number) if kind == "write" else "changed or cut while it was read") in line
        warned = kind == "write" and line.startswith("warning: ") and "contact_sheet.png" in line
        assert warned or (status == 2 and line.startswith("error: ")), line
        spoken += line
        assert generate(folder)[0] == 0 and tree(folder) == tree(tmp_path / "whole"), line
    assert all(name in spoken for name in names) and len(calm.paths) >= 6


def test_a_second_run_in_the_folder_ends_in_a_line_that_names_the_first(generate: Callable, tmp_path: Path) -> None:
    with file_io.lock_folder(str(tmp_path), "--sample_dir"):
        status, lines = generate(tmp_path)
    assert status == 2 and f"process {os.getpid()} on " in lines[0] and len(lines) == 1
    assert tree(tmp_path) == {}
    assert generate(tmp_path)[0] == 0


def test_values_that_are_no_numbers_make_no_sample(generator: DefectGen, tmp_path: Path) -> None:
    network = replace(generator.small, forward=lambda x, *types: generator.small.forward(x, *types) * float("nan"))
    broken = DefectGen(generator.large, network, generator.device, "fp32", "ema")
    with pytest.raises(InputError, match="precision fp32: the networks' values are no numbers"):
        broken.generate_into(str(tmp_path), 1, broken.settings(num_steps=(1, 2)))
    assert not list(tmp_path.rglob("*.png"))


# A signal where Python drops the exception of its handler: in what runs when an object goes.
DROPPED = """
import os, signal
from guided_diffusion.generation import api
generate, rounds = api.DefectGen.generate, []

class Going:
    def __del__(self):
        os.kill(os.getpid(), signal.{name})

def signalled(self, *args, **keywords):
    rounds.append(args)
    if len(rounds) == 2:
        Going()
    return generate(self, *args, **keywords)

api.DefectGen.generate = signalled
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
