"""A generation under faults: writes that fail, reads that are short, two at once, signals, values gone wrong."""

import errno
import itertools
import os
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
from conftest import TrainedPair
from runs import tree

from guided_diffusion import DefectGen, file_io
from guided_diffusion.cli import inference
from guided_diffusion.errors import InputError, run_cli


@pytest.fixture
def generate(trained_pair: TrainedPair, capsys: pytest.CaptureFixture) -> Callable[[Path], tuple[int, list[str]]]:
    """generate(folder): two samples in two rounds by the command line, here; exit status and lines of stderr."""
    flags = {"large_recep": trained_pair.large, "small_recep": trained_pair.small, "device": "cpu", "precision": "fp32"}
    flags |= {"num_samples": 2, "batch_size": 1, "num_steps": "1+2"}

    def run(folder: Path) -> tuple[int, list[str]]:
        argv, status = [f"--{name}={value}" for name, value in {**flags, "sample_dir": folder}.items()], []
        run_cli(lambda _: inference.main(argv), status.append, inference.FLAGS)
        lines = capsys.readouterr().err.replace("\r", "\n").splitlines()
        return status[0], [line for line in lines if line and "step/s" not in line and "?step" not in line]

    return run


@pytest.fixture(scope="module")
def whole(trained_pair: TrainedPair, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("whole") / "samples"


class Nth:
    """Does `fault` instead of the call number `at` of a function of file_io, and notes its path."""

    def __init__(self, patch: pytest.MonkeyPatch, name: str, at: int, fault: Callable) -> None:
        self._function, self._left, self._fault, self.path = getattr(file_io, name), at, fault, ""
        patch.setattr(file_io, name, self)

    def __call__(self, path: str, *arguments: object) -> object:
        self._left -= arguments != ("cannot be written",)  # looked at before each write, too
        if self._left >= 0 or self.path:
            return self._function(path, *arguments)
        self.path = path
        return self._fault(lambda: self._function(path, *arguments))


NUMBERS = itertools.cycle([errno.ENOSPC, errno.EROFS, errno.EIO])


def fails(call: Callable) -> None:
    number = next(NUMBERS)
    raise OSError(number, os.strerror(number))


def is_short(call: Callable) -> object:
    """The call looks at a file before it is read, which then becomes longer."""
    fstat, patch = os.fstat, pytest.MonkeyPatch()

    def longer(file: int) -> SimpleNamespace:
        patch.undo()
        return SimpleNamespace(st_size=fstat(file).st_size + 1)

    patch.setattr(os, "fstat", longer)
    return call()


def check_each(generate: Callable, root: Path, whole: Path, name: str, fault: Callable, said: str) -> list[str]:
    """Spoil each call once: one line, and the next run ends with the same bytes. Returns the paths."""
    if not whole.exists():
        assert generate(whole)[0] == 0
    spoiled = []
    for at in itertools.count():
        folder = root / str(at)
        with pytest.MonkeyPatch.context() as patch:
            nth = Nth(patch, name, at, fault)
            status, lines = generate(folder)
        if not nth.path:
            assert status == 0
            return spoiled
        spoiled.append(nth.path)
        kind = "warning: " if nth.path.endswith("contact_sheet.png") and fault is not is_short else "error: "
        assert status == (2 if kind == "error: " else 0) and len(lines) == 1
        assert lines[0].startswith(kind) and re.search(said, lines[0]), lines
        assert os.path.basename(nth.path) in lines[0] or file_io.TEMPORARY_PREFIX in nth.path
        assert generate(folder)[0] == 0 and tree(folder) == tree(whole), nth.path


def test_each_write_fails_once(generate: Callable, whole: Path, tmp_path: Path) -> None:
    reasons = "No space left on device|Read-only file system|Input/output error"
    paths = check_each(generate, tmp_path, whole, "_write", fails, reasons)
    kinds = {os.path.basename(path) for path in paths}
    assert {"000000.png", "000001.png", "manifest.jsonl", "contact_sheet.png"} <= kinds and len(paths) >= 10


def test_each_read_is_short_once(generate: Callable, whole: Path, tmp_path: Path) -> None:
    paths = check_each(generate, tmp_path, whole, "_check_regular", is_short, "changed or cut while it was read")
    assert {os.path.basename(path) for path in paths} >= {"diffusion_000004.pt", "000000.png", "000001.png"}


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
