"""The checkpoints of one training, and their held-out losses."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass, replace

import blobfile as bf
import torch
from tqdm import tqdm

from ..config import Config
from ..data.image_datasets import DefectDataset
from ..errors import InputError
from ..file_io import read_bytes
from ..prepare.layouts import natural_key
from ..training.checkpoint import FOLDER, load_checkpoint

FLAG = "--checkpoints"


@dataclass(frozen=True)
class TrainedStep:
    """A checkpoint file, the number of updates behind it, and its configuration."""

    path: str
    step: int
    config: Config


def read_checkpoints(work_dir: str) -> list[TrainedStep]:
    """All checkpoints of a training, by step; at least two. Raises InputError."""
    folder = bf.join(work_dir, FOLDER)
    names = sorted((n for n in bf.listdir(folder) if n.endswith(".pt")), key=natural_key) if bf.isdir(folder) else []
    if len(names) < 2:
        found = f"{len(names)} checkpoint{'s' * (len(names) != 1)} in {folder}, but a comparison needs at least 2"
        raise InputError(f"{FLAG} {work_dir}: {found}; name a work_dir of train.py with train.keep_last 0")
    steps = []
    for name in names:
        checkpoint = load_checkpoint(bf.join(folder, name), FLAG)
        if checkpoint.config is None:
            raise InputError(f"{FLAG} {checkpoint.path}: carries no configuration; only our own trainings can be swept")
        steps.append(TrainedStep(checkpoint.path, checkpoint.step, checkpoint.config))
    return sorted(steps, key=lambda checkpoint: checkpoint.step)


def held_out_losses(
    work_dir: str, checkpoints: Sequence[TrainedStep], real: str, device: torch.device
) -> tuple[list[float], str]:
    """The held-out loss of each checkpoint, and where it comes from.

    Taken from the training's progress.csv if that has it for all of them; else computed on the data set `real`, as
    TrainLoop.validation_loss does. Raises InputError.
    """
    logged = _logged_losses(bf.join(work_dir, "progress.csv"))
    if all(checkpoint.step in logged for checkpoint in checkpoints):
        return [logged[checkpoint.step] for checkpoint in checkpoints], "progress.csv (its data.val_dir)"
    bar = tqdm(checkpoints, desc="held-out loss", unit="checkpoint")
    return [_held_out_loss(checkpoint.path, real, device) for checkpoint in bar], f"computed on {real}"


def _logged_losses(path: str) -> dict[int, float]:
    """{step: held-out loss} of a progress.csv; {} where there is none."""
    if not bf.exists(path):
        return {}
    try:
        rows = csv.DictReader(io.StringIO(read_bytes(path).decode()))
        return {int(row["step"]): float(row["val"]) for row in rows if row.get("val")}
    except (ValueError, TypeError, KeyError) as error:
        raise InputError(f"{path}: is not a table of logged steps; rename or remove it") from error


def _held_out_loss(path: str, real: str, device: torch.device) -> float:
    from ..training.train_util import TrainLoop  # late: only here does a sweep need the optimizer and the logger

    checkpoint = load_checkpoint(path, FLAG)
    config = checkpoint.config
    config = replace(config, train=replace(config.train, precision="fp32", compile="off"))
    data = DefectDataset.as_trained(real, config, progress=False)
    return TrainLoop(config, "", data, data, device, resume=checkpoint).validation_loss()["val"]
