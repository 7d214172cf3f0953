"""Each write of a run fails once, or each read is once short, at the one place where files are opened."""

import errno
import io
import itertools
import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from runs import tree

from guided_diffusion import file_io
from guided_diffusion.errors import run_cli

ERRORS = (errno.ENOSPC, errno.EROFS, errno.EIO)
Run = Callable[[Path], tuple[int, list[str]]]


class Faulty:
    """file_io's open(): lets the chosen one of all writes fail, or of all reads be short; `path` is of that one."""

    def __init__(self, kind: str, chosen: int) -> None:
        self.kind, self.left, self.path, self.number = kind, chosen, "", ERRORS[chosen % 3]

    def __call__(self, path: str, mode: str, **options: Any) -> Any:
        self.left -= (mode == "rb") == (self.kind == "read")
        if self.left >= 0 or self.path:
            return open(path, mode, **options)
        self.path, file = str(path), io.FileIO(path, mode.replace("b", ""))
        file.write, file.read = self.fail, lambda: io.FileIO(path).readall()[:-1]
        return file

    def fail(self, data: bytes) -> None:
        raise OSError(self.number, os.strerror(self.number))


def run_here(main: Callable, flags: dict[str, object], capsys: pytest.CaptureFixture) -> tuple[int, list[str]]:
    """Exit status and lines of stderr, progress bars left out, of a command line in this process."""
    argv, status = [f"--{name}={value}" for name, value in flags.items()], []
    run_cli(lambda _: main(argv), status.append)
    lines = capsys.readouterr().err.replace("\r", "\n").splitlines()
    return status[0], [line for line in lines if line.strip() and not re.search(r"((it|step)/s|s/(it|step))[],]", line)]


def spoil_each(kind: str, run: Run, root: Path, whole: Path, part: str = "", begun: Path | None = None) -> set[str]:
    """Spoil each "write" or "read" of run(a folder, begun or new) once: one line tells, and the same run goes on to the
    same bytes as in `whole`, in `part` of it. Returns the names of the files that were told of."""
    told = set()
    for chosen in itertools.count():
        folder, faulty = root / str(chosen), Faulty(kind, chosen)
        if begun:
            shutil.copytree(begun, folder)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(file_io, "open", faulty, raising=False)
            patch.setattr(file_io, "_warned", set())
            status, lines = run(folder)
        if not faulty.path:
            assert (status, lines) == (0, [])
            return told
        reason = "changed or cut while it was read" if kind == "read" else os.strerror(faulty.number)
        assert len(lines) == 1 and lines[0].startswith("error: " if status else "warning: "), (faulty.path, lines)
        assert reason in lines[0], lines
        told.add(os.path.basename(re.split(r": changed or cut|' \(", lines[0])[0]))
        assert faulty.kind != "read" or status == 2 and faulty.path in lines[0]
        assert run(folder) == (0, []), lines
        assert tree(folder / part) == tree(whole / part), lines
