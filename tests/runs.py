"""Cutting runs short at a chosen moment, and comparing what runs leave behind."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

# A prelude for trainings: a plot that costs nothing, written as any other, and no estimate of the costs.
QUICK = """
from guided_diffusion.networks import estimate
from guided_diffusion.training import logger
logger._draw_losses = lambda *args, **keywords: b"plot"
estimate.estimate = estimate.describe = lambda *args: ""
"""

# Runs `action` before or after the first call of `target` whose arguments meet `condition`.
_INTERRUPT = """
import os, resource, signal
import blobfile
from guided_diffusion.generation import sample_io
from guided_diffusion.training import checkpoint, train_util

original, hits = {target}, []

def interrupted(*args):
    hit = not hits and {condition}
    if hit:
        hits.append(args)
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


def assert_same_training(work: Path, expected: Path) -> None:
    """Same files, no temporaries among them, with the same content as far as that can be repeated."""
    assert _names(work) == _names(expected)
    for name in ("config.yml", "checkpoint/latest"):
        assert (work / name).read_text() == (expected / name).read_text()
    assert _logged(work) == _logged(expected)
    for preview in (expected / "images").glob("*"):
        assert (work / "images" / preview.name).read_bytes() == preview.read_bytes()
    for checkpoint in (expected / "checkpoint").glob("*.pt"):
        ours, theirs = torch.load(work / "checkpoint" / checkpoint.name), torch.load(checkpoint)
        assert set(ours) >= {"model", "ema", "optimizer", "step", "config"}
        assert_equal(ours, theirs)


def _names(work: Path) -> set[str]:
    found = {str(path.relative_to(work)) for path in work.rglob("*")}
    return {name for name in found if not name.startswith("tensorboard/")}  # its file names hold the time


def _logged(work: Path) -> list[dict[str, str]]:
    """What progress.csv holds, to the last digit written, but for the column that measures the clock."""
    with open(work / "progress.csv") as file:
        return [{k: v for k, v in row.items() if k != "steps_per_s"} for row in csv.DictReader(file)]


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


def sample_differences(samples: Path, expected: Path) -> tuple[int, float]:
    """Between the same samples in two folders: largest difference in grey levels, share of unlike mask pixels."""
    names = sorted(path.name for path in (expected / "images").iterdir())
    assert sorted(path.name for path in (samples / "images").iterdir()) == names
    images, masks = (
        [_stack(s / kind, names) for s in (samples, expected)] for kind in ("images", "masks_converted_dir")
    )
    return int(np.abs(images[0] - images[1]).max()), float((masks[0] != masks[1]).mean())


def _stack(folder: Path, names: list[str]) -> np.ndarray:
    return np.stack([np.asarray(Image.open(folder / name)).astype(int) for name in names])
