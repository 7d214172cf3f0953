"""One file with everything needed to resume or to sample, written atomically and loaded strictly.

Keys: `model`, `ema`, `optimizer` (state dicts, as in released checkpoints), and ours: `step`, `config`,
`label_map`, `log_window`, `cpu_minutes`, `format_version`. Loading never runs code from the file.

Packed, it is a safetensors file of the EMA weights, float32; the rest that sampling needs is in its header.
"""

import hashlib
import io
import json
import math
import operator
import pickle
import re
import textwrap
import warnings
import zipfile
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import blobfile as bf
import numpy as np
import torch
from torch import nn

from ..config import Config
from ..config_file import load_config
from ..errors import InputError, brief
from ..file_io import inside, parse_json, read_bytes, remove_inside, warn_once, write_atomic

FORMAT_VERSION = 1
FOLDER = "checkpoint"
LATEST = "latest"  # a text file holding the name of the newest complete checkpoint
DIGEST = ".sha256"  # after a checkpoint's name: a file for sha256sum -c
PACKED = ".safetensors"
_FILE_NAME = re.compile(r"diffusion_(\d{6,})\.pt")
_FOLDER = 0x10  # the bit that makes a record of a zip a folder
_WRAPPERS = "module.", "_orig_mod."  # what DistributedDataParallel and torch.compile put before names
_DTYPES = (torch.float32, torch.float16, torch.bfloat16, torch.float64)


@dataclass(frozen=True)
class Checkpoint:
    """A loaded checkpoint. config is None for a released one, which carries none."""

    path: str
    sha256: str  # of a packed one, that of the file that was packed: both sample alike
    model: dict[str, torch.Tensor]
    ema: dict[str, torch.Tensor]
    optimizer: dict[str, Any] | None
    step: int
    config: Config | None
    log_window: torch.Tensor | None  # losses since the last log line
    cpu_minutes: float = 0.0  # of the training so far, all cores together


def save_checkpoint(work_dir: str, step: int, payload: Mapping[str, Any], keep_last: int = 0) -> str:
    """Write <work_dir>/checkpoint/diffusion_NNNNNN.pt and its digest, then point `latest` at it, then drop all but
    `keep_last` (0: none). payload: the other keys. Returns the path. Raises InputError; all is then as it was."""
    folder, name, buffer = bf.join(work_dir, FOLDER), f"diffusion_{step:06d}.pt", io.BytesIO()
    torch.save({**payload, "step": step, "format_version": FORMAT_VERSION}, buffer)
    data = buffer.getvalue()
    remove_inside(folder, name + DIGEST, folder)  # of a file that is replaced now: no kill may leave it beside the new
    remedy = "free space or name another --work_dir; the same command goes on from the last checkpoint"
    for file, content in ((name, data), (name + DIGEST, digest(data, name)), (LATEST, name.encode())):
        write_atomic(bf.join(folder, file), content, remedy=remedy)
    if keep_last:
        files = _by_step(folder)
        for old in sorted(s for s in files if s <= step)[:-keep_last]:
            try:
                for end in (DIGEST, ""):
                    remove_inside(folder, bf.basename(files[old]) + end, folder)
            except InputError as error:
                warn_once(files[old], f"an old checkpoint stays: {error}")
    return bf.join(folder, name)


def digest(data: bytes, name: str) -> bytes:
    """What stands beside a file, for sha256sum -c."""
    return f"{hashlib.sha256(data).hexdigest()}  {name}\n".encode()


def as_packed(checkpoint: Checkpoint, config: Config) -> bytes:
    """A packed checkpoint, `config` in the place of its own. Raises InputError where safetensors is not installed."""
    about = {key: getattr(checkpoint, key) for key in ("step", "cpu_minutes", "sha256")}
    about |= {"config": config.to_dict(), "format_version": FORMAT_VERSION}
    weights = {key: value.float().contiguous() for key, value in checkpoint.ema.items()}
    return _safetensors().save(weights, {"defect_gen": json.dumps(about)})


def _read_packed(data: bytes, name: str) -> dict[str, Any]:
    """What a packed checkpoint holds, as torch.load would say it. Raises InputError, and what safetensors does."""
    weights, header = _safetensors().load(data), parse_json(data[8 : 8 + int.from_bytes(data[:8], "little")], name)
    return {**parse_json(header["__metadata__"]["defect_gen"], name), "model": weights, "ema": weights}


def _safetensors() -> ModuleType:
    try:
        import safetensors.torch
    except ImportError:
        raise InputError("packed networks need safetensors; pip install safetensors") from None
    return safetensors.torch


def latest_checkpoint(work_dir: str) -> str | None:
    """Path of the newest complete checkpoint of a work_dir, or None. Raises InputError where `latest` names no file."""
    folder = bf.join(work_dir, FOLDER)
    pointer = bf.join(folder, LATEST)
    if bf.exists(pointer):
        name = read_bytes(pointer)[:1000].decode(errors="replace").strip()
        path = inside(folder, name, f"{pointer}:", links=True)
        if bf.exists(path):
            return path
    files = _by_step(folder) if bf.isdir(folder) else {}  # the released code writes no pointer
    return files[max(files)] if files else None


def _by_step(folder: str) -> dict[int, str]:
    return {int(m[1]): bf.join(folder, m[0]) for m in map(_FILE_NAME.fullmatch, bf.listdir(folder)) if m}


def _instead(path: str) -> str:
    """What to do where a checkpoint cannot be used."""
    folder, name = bf.dirname(path) or ".", _FILE_NAME.fullmatch(bf.basename(path))
    older = {step: file for step, file in _by_step(folder).items() if step < int(name[1])} if name else {}
    return f"take the one before, {older[max(older)]}" if older else "copy it again, or take another"


def read_weights(path: str, name: str) -> tuple[Any, str]:
    """What torch.save wrote, on the CPU, and the SHA-256 of the file. Runs no code from it. Every byte is verified by
    the digest beside the file, else by the checksums in it. name: for errors. Raises InputError."""
    if not bf.exists(path):
        raise InputError(f"{name}: no such checkpoint file; check the path")
    data = read_bytes(path)
    sha256 = hashlib.sha256(data).hexdigest()
    if bf.exists(path + DIGEST):
        if read_bytes(path + DIGEST)[:64] != sha256.encode():
            other = f"{_instead(path)}, or remove {bf.basename(path)}{DIGEST}, if another file was put in its place"
            raise InputError(f"{name}: damaged, its SHA-256 is not the one written beside it; {other}")
    elif data.startswith(b"PK\3\4") and (fault := _fault(data)):
        raise InputError(f"{name}: damaged or cut off ({fault}); {_instead(path)}")
    try:
        if path.endswith(PACKED):
            packed = _read_packed(data, name)
            return packed, str(packed.pop("sha256"))[:64]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about pickle protocols; what cannot be read is an error anyway
            return torch.load(io.BytesIO(data), map_location="cpu", weights_only=True), sha256
    except InputError:
        raise
    except Exception as error:  # what torch.load, pickle and safetensors raise has no common type
        fault = f"damaged, truncated or not a checkpoint; {_instead(path)}"
        pickled = data.startswith((b"PK\3\4", b"\x80"))
        if pickled and isinstance(error, pickle.UnpicklingError) and re.search("Unsupported|GLOBAL|REDUCE", str(error)):
            fault = "holds pickled objects other than weights, which could run code; not loaded"
        raise InputError(f"{name}: {fault}") from None


def _fault(data: bytes) -> str | None:
    """What is wrong with the bytes of a zip that torch wrote; None where every record has its checksum."""
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as records:
            if len(set(records.namelist())) < len(records.namelist()):
                return "a record stands twice"
            for record in records.infolist():  # torch packs nothing, but a bomb does; a folder it reads as noise
                if record.compress_type or record.external_attr & _FOLDER:
                    return f"{record.filename} is no plain record"
            wrong = records.testzip()
            return wrong and f"{wrong} has another checksum"
    except Exception as error:  # what zipfile raises has no common type
        return str(error)


def load_checkpoint(path: str, flag: str) -> Checkpoint:
    """Load a checkpoint file, ours or a released one, to the CPU; of a work_dir the latest. flag: how the user named
    it. Raises InputError."""
    if bf.isdir(path):
        if (latest := latest_checkpoint(path)) is None:
            remedy = "name the work_dir above, or a file in it" if _by_step(path) else "train first, or name a file"
            raise InputError(f"{flag} {path}: no checkpoint in this folder; {remedy}")
        path = latest
    name = f"{flag} {path}"
    raw, sha256 = read_weights(path, name)
    if not isinstance(raw, dict) or not isinstance(raw.get("model"), dict):
        raise InputError(f"{name}: not a Defect-Gen checkpoint; it has no weights under 'model'")
    written, config, window = raw.get("format_version", 0), raw.get("config"), raw.get("log_window")
    if isinstance(written, int) and written > FORMAT_VERSION:
        raise InputError(f"{name}: of a newer version (format {written}, not {FORMAT_VERSION}); update the program")
    if config is not None:
        try:
            config = load_config(config if isinstance(config, dict) else {"config": config})
        except InputError as error:
            raise InputError(f"{name}: its configuration is not one ({error}); {_instead(path)}") from None
    try:
        model, ema = (_network_state(raw.get(key) or raw["model"], key) for key in ("model", "ema"))
        if window is not None:
            _network_state({"log_window": window}, "log")
        optimizer, step = raw.get("optimizer"), raw.get("step")
        if optimizer is not None:
            # A released checkpoint does not say its step, but AdamW counts it for each parameter.
            counts = [int(entry["step"]) for entry in optimizer["state"].values() if "step" in entry.keys()]
            step = max(counts, default=0) if step is None else step
        minutes = float(raw.get("cpu_minutes", 0))
        if type(step or 0) is not int or not 0 <= (step or 0) < 2**53 or type(written) is not int:
            raise ValueError(f"step {brief(step)} of format {brief(written)}")
        if not 0 <= minutes < math.inf:
            raise ValueError(f"cpu_minutes {minutes}")
    except (ValueError, TypeError, KeyError, AttributeError, OverflowError, RuntimeError) as error:
        raise InputError(f"{name}: its content is not that of a checkpoint ({error}); {_instead(path)}") from None
    return Checkpoint(path, sha256, model, ema, optimizer, step or 0, config, window, minutes)


def _network_state(state: Mapping[str, torch.Tensor], what: str) -> dict[str, torch.Tensor]:
    """A state dict without the prefixes of _WRAPPERS. Raises ValueError unless all is numbers."""
    for key, value in state.items():
        if not isinstance(value, torch.Tensor) or value.dtype not in _DTYPES or value.layout != torch.strided:
            raise ValueError(f"{what} {brief(key)} is no tensor of numbers")
        if value.device.type != "cpu" or value.nbytes > value.untyped_storage().nbytes():  # a shape without content
            raise ValueError(f"{what} {brief(key)} is no whole tensor")
        if not np.isfinite(value.detach().float().numpy()).all():  # ten times as quick as torch's
            raise ValueError(f"{what} {brief(key)} is not finite")
    while prefix := next((one for one in _WRAPPERS if state and all(key.startswith(one) for key in state)), ""):
        state = {key.removeprefix(prefix): value for key, value in state.items()}
    return dict(state)


# What two networks must share to exchange x_t; and what else a resumed one must keep.
SHARED = ("diffusion.schedule", "diffusion.num_timestep", "diffusion.parameterization")
_WIDTHS = "patch model_channels num_res_blocks channel_mult attention_downsample num_head_channels num_heads"
_KEYS = f"{_WIDTHS} norm_groups use_scale_shift_norm class_cond".split()
ARCHITECTURE = (*(f"model.{key}" for key in _KEYS), "train.separate_channel_loss")


def differences(a: Config, b: Config, keys: Iterable[str]) -> Iterator[str]:
    """The keys in which two configurations differ, and both values."""
    for key in keys:
        get = operator.attrgetter(key)
        ours, theirs = (", ".join(c.layout.class_names) if key == "data.label_map" else get(c) for c in (a, b))
        if ours != theirs:
            ours, theirs = (list(value) if isinstance(value, tuple) else value for value in (ours, theirs))
            yield f"{key}: {ours} against {theirs}"


def check_agreement(a: Config, a_name: str, b: Config, b_name: str, extra: tuple[str, ...] = ()) -> None:
    """Raise InputError naming the first key in which two configurations may not differ, and both values."""
    for found in differences(a, b, (*SHARED, *extra, "data.background", "data.label_map")):
        raise InputError(f"{a_name} and {b_name} disagree in {found}; take a configuration, or checkpoint, that fits")


def load_weights(model: nn.Module, weights: Mapping[str, torch.Tensor], path: str) -> None:
    """Load a state dict strictly. Raises InputError with the first parameters that do not fit."""
    try:
        model.load_state_dict(weights, strict=True)
    except RuntimeError as error:
        reason = textwrap.shorten(str(error).partition(":")[2], 240, placeholder=" ...")
        raise InputError(f"{path}: another architecture ({reason}); use the configuration of its training") from None
