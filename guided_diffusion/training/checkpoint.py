"""One file with everything needed to resume or to sample, written atomically and loaded strictly.

Keys: `model`, `ema`, `optimizer` (state dicts, as in released checkpoints), and ours: `step`, `config`,
`label_map`, `log_window`, `format_version`. Loading never runs code from the file.
"""

import hashlib
import io
import operator
import pickle
import re
import textwrap
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import blobfile as bf
import torch
from torch import nn

from ..config import Config
from ..config_file import load_config
from ..errors import InputError
from ..file_io import read_bytes, write_atomic

FORMAT_VERSION = 1
FOLDER = "checkpoint"
LATEST = "latest"  # a text file holding the name of the newest complete checkpoint
_FILE_NAME = re.compile(r"diffusion_(\d{6,})\.pt")


@dataclass(frozen=True)
class Checkpoint:
    """A loaded checkpoint. config is None for a released one, which carries none."""

    path: str
    sha256: str
    model: dict[str, torch.Tensor]
    ema: dict[str, torch.Tensor]
    optimizer: dict[str, Any] | None
    step: int
    config: Config | None
    log_window: torch.Tensor | None  # losses since the last log line


def save_checkpoint(work_dir: str, step: int, payload: Mapping[str, Any], keep_last: int = 0) -> str:
    """Write <work_dir>/checkpoint/diffusion_NNNNNN.pt, then point `latest` at it, then drop old ones.

    payload: the other keys. keep_last: how many checkpoints stay; 0: all. Returns the path.
    """
    folder, name, buffer = bf.join(work_dir, FOLDER), f"diffusion_{step:06d}.pt", io.BytesIO()
    torch.save({**payload, "step": step, "format_version": FORMAT_VERSION}, buffer)
    write_atomic(bf.join(folder, name), buffer.getvalue())
    write_atomic(bf.join(folder, LATEST), name.encode())
    if keep_last:
        files = _by_step(folder)
        for old in sorted(s for s in files if s <= step)[:-keep_last]:
            bf.remove(files[old])
    return bf.join(folder, name)


def latest_checkpoint(work_dir: str) -> str | None:
    """Path of the newest complete checkpoint of a work_dir, or None."""
    folder = bf.join(work_dir, FOLDER)
    pointer = bf.join(folder, LATEST)
    if bf.exists(pointer):
        path = bf.join(folder, read_bytes(pointer).decode().strip())
        if bf.exists(path):
            return path
    files = _by_step(folder) if bf.isdir(folder) else {}  # the released code writes no pointer
    return files[max(files)] if files else None


def _by_step(folder: str) -> dict[int, str]:
    return {int(m[1]): bf.join(folder, m[0]) for m in map(_FILE_NAME.fullmatch, bf.listdir(folder)) if m}


def load_checkpoint(path: str, flag: str) -> Checkpoint:
    """Load a checkpoint file, ours or a released one, to the CPU; of a work_dir the latest.

    flag: how the user named it, for errors. Raises InputError if it is missing, truncated, no checkpoint, or
    holds pickled objects other than tensors and plain values.
    """
    if bf.isdir(path):
        if (latest := latest_checkpoint(path)) is None:
            raise InputError(f"{flag} {path}: no checkpoint in this folder; train first, or name a checkpoint file")
        path = latest
    name, config = f"{flag} {path}", None
    try:
        data = read_bytes(path)
    except (OSError, bf.Error):
        raise InputError(f"{name}: no such checkpoint file; check the path") from None
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about pickle protocols; what cannot be read is an error anyway
            raw = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
    except Exception as error:  # what torch.load and pickle raise has no common type
        fault = "truncated or not a checkpoint; copy it again"
        if isinstance(error, pickle.UnpicklingError) and re.search("Unsupported|GLOBAL|REDUCE", str(error)):
            fault = "holds pickled objects other than weights, which could run code; not loaded"
        raise InputError(f"{name}: {fault}") from None
    if not isinstance(raw, dict) or not isinstance(raw.get("model"), dict):
        raise InputError(f"{name}: not a Defect-Gen checkpoint (it has no 'model' weights)")
    written = raw.get("format_version", 0)
    if written > FORMAT_VERSION:
        raise InputError(f"{name}: of a newer version (format {written}, not {FORMAT_VERSION}); update the program")
    if isinstance(raw.get("config"), dict):
        try:
            config = load_config(raw["config"])
        except InputError as error:
            raise InputError(f"{name}: its configuration is not one ({error})") from None
    optimizer = raw.get("optimizer")
    # A released checkpoint does not say its step, but AdamW counts it for each parameter.
    counts = [int(state["step"]) for state in (optimizer or {}).get("state", {}).values() if "step" in state]
    step, ema = raw.get("step", max(counts, default=0)), raw.get("ema") or raw["model"]
    sha256 = hashlib.sha256(data).hexdigest()
    return Checkpoint(path, sha256, raw["model"], ema, optimizer, step, config, raw.get("log_window"))


# What two networks must share to exchange x_t; and what else a resumed one must keep.
_SHARED = ("diffusion.schedule", "diffusion.num_timestep", "diffusion.parameterization")
_ARCHITECTURE = (
    *("model.patch", "model.model_channels", "model.num_res_blocks", "model.channel_mult"),
    *("model.attention_downsample", "model.num_head_channels", "model.num_heads", "model.norm_groups"),
    *("model.use_scale_shift_norm", "model.class_cond", "train.separate_channel_loss"),
)


def check_agreement(a: Config, a_name: str, b: Config, b_name: str, extra: tuple[str, ...] = ()) -> None:
    """Raise InputError naming the first key in which two configurations may not differ, and both values."""
    for key in (*_SHARED, *extra, "data.background", "data.label_map"):
        get = operator.attrgetter(key)
        ours, theirs = (", ".join(c.layout.class_names) if key == "data.label_map" else get(c) for c in (a, b))
        ours, theirs = (list(value) if isinstance(value, tuple) else value for value in (ours, theirs))
        if ours != theirs:
            raise InputError(f"{a_name} and {b_name} disagree in {key}: {ours} against {theirs}; they must be the same")


def same_network(checkpoint: Checkpoint, config: Config, config_name: str) -> None:
    """Raise InputError unless a checkpoint that says what it is can be resumed with a configuration."""
    if checkpoint.config is not None:
        check_agreement(checkpoint.config, checkpoint.path, config, config_name, _ARCHITECTURE)


def load_weights(model: nn.Module, weights: Mapping[str, torch.Tensor], path: str) -> None:
    """Load a state dict strictly. Raises InputError with the first parameters that do not fit."""
    try:
        model.load_state_dict(weights, strict=True)
    except RuntimeError as error:
        reason = textwrap.shorten(str(error).partition(":")[2], 240, placeholder=" ...")
        raise InputError(
            f"{path}: another architecture ({reason}); use the configuration it was trained with"
        ) from None
