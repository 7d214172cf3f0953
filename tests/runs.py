"""Cutting runs short at a chosen moment, letting each of their writes and reads fail at the one place where files are
opened, and comparing what runs leave behind."""

import csv
import errno
import io
import itertools
import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils._pytree import tree_flatten

from guided_diffusion import file_io
from guided_diffusion.errors import run_cli

ERRORS = (errno.ENOSPC, errno.EROFS, errno.EIO)
Run = Callable[[Path], tuple[int, list[str]]]

# A prelude for trainings: a plot that costs nothing, written as any other, and no estimate of the costs.
QUICK = """
from guided_diffusion.networks import estimate
from guided_diffusion.training import logger
logger.TrainLogger.save_loss_plot = lambda self: logger.write_or_warn(self._work_dir + "/loss.png", b"plot")
estimate.describe, estimate.estimate = lambda *_: "", lambda *_: estimate.Estimate(0, 0, 0)
"""

# Runs `action` before or after the first call of `target` whose arguments meet `condition`.
_INTERRUPT = """
import os, signal
import blobfile
from guided_diffusion.training import checkpoint, train_util

original = {target}

def interrupted(*args):
    if not ({condition}):
        return original(*args)
    {target} = original
    if {before}:
        {action}
    result = original(*args)
    if not {before}:
        {action}
    return result

{target} = interrupted
"""
SIGKILL = "os.kill(os.getpid(), signal.SIGKILL)"


# Calls of a network with more than `limit` images raise `error`, where the expression `which` is true.
_LITTLE_MEMORY = """
import torch
from guided_diffusion import dist_util
from guided_diffusion.networks.unet import UNet
forward = UNet.forward

def limited(self, x, t, *rest, **more):
    if len(x) > {limit} and not x.is_meta and {which}:  # estimates of the memory have meta tensors
        raise {error}
    return forward(self, x, t, *rest, **more)

UNet.forward = limited
"""
GPU_MEMORY = 'torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB")'


def little_memory(limit: int, which: str = "True", error: str = GPU_MEMORY) -> str:
    """A prelude: passes of more images fail, where the expression `which` is true."""
    return _LITTLE_MEMORY.format(limit=limit, which=which, error=error)


def interrupt(target: str, condition: str = "True", before: bool = True, action: str = SIGKILL) -> str:
    """A prelude: `action` before (or after) the first call of `target` whose `args` meet `condition`."""
    return _INTERRUPT.format(target=target, condition=condition, before=before, action=action)


def before_replacing(name: str, before: bool = True) -> str:
    """A prelude: killed between the writing of a temporary file and its renaming to `name`; or after that."""
    return interrupt("os.replace", f"args[1].endswith({name!r})", before)


def tree(folder: Path) -> dict[str, bytes | None]:
    """Content of every file below a folder, None for folders, by relative path."""
    paths = sorted(folder.rglob("*"))
    return {str(p.relative_to(folder)): None if p.is_dir() else p.read_bytes() for p in paths}


def assert_same_training(work: Path, expected: Path, rel: float = 0) -> None:
    """Same files, no temporaries among them, with the same content as far as that can be repeated. rel: by which logged
    means may differ, where processes add their shares in another order."""
    ours, theirs = _repeatable(work), _repeatable(expected)
    for row, other in zip(ours.pop("progress.csv"), theirs.pop("progress.csv"), strict=True):
        assert row == pytest.approx(other, rel=rel, abs=0)
    assert_equal(ours, theirs)


def _repeatable(work: Path) -> dict[str, Any]:
    """Files, but for what clocks tell in progress.csv and checkpoints, and TensorBoard's, whose names hold the time."""
    files: dict[str, Any] = {name: data for name, data in tree(work).items() if not name.startswith("tensorboard/")}
    table, clocks = csv.DictReader(files["progress.csv"].decode().splitlines()), ("steps_per_s", "cpu_minutes")
    rows = ({key: float(text or "nan") for key, text in row.items() if key not in clocks} for row in table)
    files["progress.csv"] = [{key: value for key, value in row.items() if value == value} for row in rows]
    for name in [name for name in files if name.endswith(".pt")]:
        files |= {name: load_timeless(work / name), f"{name}.sha256": None}
    return files


def load_timeless(path: Path) -> dict[str, Any]:
    """A checkpoint without what the clock told."""
    saved = torch.load(path, weights_only=True)
    assert saved.pop("cpu_minutes") > 0
    return saved


def assert_equal(ours: Any, theirs: Any) -> None:
    """Equal in every bit, through dicts and lists."""
    (leaves, tree), (expected, expected_tree) = map(tree_flatten, (ours, theirs))
    assert tree == expected_tree
    for a, b in zip(leaves, expected, strict=True):
        assert type(a) is type(b)
        assert a.dtype == b.dtype and torch.equal(a, b) if isinstance(b, torch.Tensor) else a == b


def sample_differences(samples: Path, expected: Path) -> tuple[int, float]:
    """Between the same samples in two folders: largest difference in grey levels, share of unlike mask pixels."""
    names = sorted(path.name for path in (expected / "images").iterdir())
    assert sorted(path.name for path in (samples / "images").iterdir()) == names

    def stack(folder: Path) -> np.ndarray:
        return np.stack([np.asarray(Image.open(folder / name)).astype(int) for name in names])

    images, masks = ([stack(f / kind) for f in (samples, expected)] for kind in ("images", "masks_converted_dir"))
    return int(np.abs(images[0] - images[1]).max()), float((masks[0] != masks[1]).mean())


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
