"""YAML -> Config. The layout is the released one (`target`, `params`, `ckpt`), so released files load unchanged.

A key may stand in its section or under the section's `params`.
"""

from __future__ import annotations

import dataclasses
import math
import types
import typing
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Any

import blobfile as bf
import yaml

from .config import GOOD, MODEL_TARGETS, SECTIONS, TARGETS, Config
from .errors import InputError, unknown_name
from .file_io import read_bytes
from .joint_tensor import MAX_TYPES


@contextmanager
def _errors_name(source: str | Mapping[str, Any]) -> Iterator[None]:
    """Put the file before the text of an InputError from inside."""
    try:
        yield
    except InputError as error:
        raise InputError(f"{'config' if isinstance(source, Mapping) else source}: {error}") from None


def load_config(
    source: str | Mapping[str, Any], num_defect: int | None = None, overrides: Mapping[str, Any] | None = None
) -> Config:
    """Read, check and resolve a configuration. Looks at no other file.

    source: path of a YAML file, or the dict it would hold. num_defect: number of defect types; needed
    where neither data.label_map nor model.in_channels tells it. overrides: {"section.key": value}, as from
    `--set`. Raises InputError with one line that names the key.
    """
    flat = read_sections(source, overrides)
    with _errors_name(source):
        target = flat["model"].pop("target", None)
        if target is None:
            raise InputError(f"model.target: missing; one of {', '.join(MODEL_TARGETS)}")
        if "patch" in flat["model"]:
            raise InputError("model.patch: not a key; model.target says which network this is")
        flat["model"]["patch"] = MODEL_TARGETS[target]
        if "image_size" in flat["model"]:
            flat["data"].setdefault("resolution", flat["model"]["image_size"])
        return _resolve(Config(**{name: _build(name, cls, flat[name]) for name, cls in SECTIONS.items()}), num_defect)


def read_sections(
    source: str | Mapping[str, Any], overrides: Mapping[str, Any] | None = None
) -> dict[str, dict[str, Any]]:
    """{section: {key: value}} as written and overridden; arguments as for load_config. Values are not checked."""
    raw = source if isinstance(source, Mapping) else _read_yaml(source)
    with _errors_name(source):
        for key in raw:
            if key not in SECTIONS:
                raise InputError(unknown_name("key", str(key), SECTIONS))
        flat = {section: _flatten(section, raw.get(section)) for section in SECTIONS}
        for path, value in (overrides or {}).items():
            section, _, key = path.partition(".")
            key = key.removeprefix("params.")
            if section not in SECTIONS or not key:
                raise InputError(unknown_name("key", path, [f"{s}.{k}" for s in SECTIONS for k in flat[s]]))
            flat[section][key] = value
    return flat


def _read_yaml(path: str) -> dict[str, Any]:
    try:
        raw = yaml.safe_load(read_bytes(path))
    except (OSError, bf.Error) as error:
        raise InputError(f"{path}: cannot read the configuration file ({error}); check --config") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        mark = getattr(error, "problem_mark", None)
        line = f" at line {mark.line + 1}" if mark else ""
        raise InputError(f"{path}: not valid YAML{line}: {getattr(error, 'problem', error)}") from None
    if not isinstance(raw, dict):
        raise InputError(f"{path}: not a configuration; expected the sections {', '.join(SECTIONS)}")
    return raw


def parse_override(text: str) -> tuple[str, Any]:
    """`--set section.key=value`, the value in YAML syntax."""
    key, equals, value = text.partition("=")
    if not equals or "." not in key:
        raise InputError(f"--set {text}: expected section.key=value, e.g. train.iterations=1000")
    try:
        return key, yaml.safe_load(value)
    except yaml.YAMLError:
        raise InputError(f"--set {text}: the value is not valid YAML") from None


def _flatten(section: str, raw: Any) -> dict[str, Any]:
    """Merge `params` into its section; check the target against the table."""
    flat = _mapping(section, raw)
    for key, value in _mapping(f"{section}.params", flat.pop("params", None)).items():
        if key in flat:
            raise InputError(f"{section}.{key}: given twice, in the section and under params; remove one")
        flat[key] = value
    target = flat.get("target")
    if section in TARGETS and target is not None and target not in TARGETS[section]:
        raise InputError(unknown_name(f"{section}.target", str(target), TARGETS[section]))
    if section != "model":
        flat.pop("target", None)
    return flat


def _mapping(where: str, raw: Any) -> dict[str, Any]:
    if raw is not None and not isinstance(raw, Mapping):
        raise InputError(f"{where}: expected a section with keys, got {raw!r}")
    return dict(raw or {})


def _build(section: str, cls: type, flat: Mapping[str, Any]) -> Any:
    """Make one section's dataclass; unknown keys and wrong types are errors."""
    hints = typing.get_type_hints(cls)
    values = {}
    for key, value in flat.items():
        if key not in hints:
            known = [f"{section}.{name}" for name in hints if name != "patch"]
            raise InputError(unknown_name("key", f"{section}.{key}", known))
        if value is None and key not in ("ckpt", "dir") and types.NoneType not in typing.get_args(hints[key]):
            continue  # an empty YAML value means the default
        if key == "compile" and (isinstance(value, bool) or value == "auto"):
            value = "on" if value is True else "off"  # YAML takes on for true; old checkpoints' configurations say auto
        values[key] = _convert(f"{section}.{key}", value, hints[key])
    return cls(**values)


def _convert(path: str, value: Any, hint: Any) -> Any:
    """Check a YAML value against a field's type."""
    options = typing.get_args(hint) if isinstance(hint, types.UnionType) else (hint,)
    for option in options:
        origin = typing.get_origin(option) or option
        if origin is types.NoneType and value is None:
            return None
        if origin is float and type(value) in (int, float, str):
            with suppress(ValueError, OverflowError):  # of a text too: YAML 1.1 reads 1e-4 as one
                if math.isfinite(number := float(value)):
                    return number
        if origin in (bool, str, int) and type(value) is origin:
            return value
        if origin is tuple and isinstance(value, (list, tuple)) and all(type(v) is int for v in value):
            return tuple(value)
        if origin is Mapping and isinstance(value, Mapping):
            if typing.get_args(option)[1] is float:
                return {str(name): _convert(f"{path}.{name}", rate, float) for name, rate in value.items()}
            if all(isinstance(k, str) and type(v) is int for k, v in value.items()):
                return dict(value)
    names = {int: "a whole number", float: "a number", bool: "true or false", str: "a text", tuple: "a list"}
    pairs = "name: rate pairs" if path.endswith("type_rates") else "name: index pairs"
    expected = [names.get(typing.get_origin(o) or o, pairs) for o in options if o is not types.NoneType]
    raise InputError(f"{path}: expected {' or '.join(expected)}, got {value!r}")


def _resolve(config: Config, num_defect: int | None) -> Config:
    """Fill in what is derived: label map, channels, resolution; and check that all of it adds up."""
    model, data = config.model, config.data
    in_channels = model.in_channels or model.out_channels
    if num_defect is None and data.label_map is not None:
        num_defect = len(data.label_map)
    elif num_defect is None and in_channels:
        num_defect = in_channels - 3 - (data.background is not False)
    if num_defect is None:
        raise InputError(
            "number of defect types unknown; give --num_defect, or data.label_map (name: index) in the YAML"
        )
    if not 1 <= num_defect <= MAX_TYPES:
        raise InputError(f"num_defect: {num_defect} must be from 1 to {MAX_TYPES}")
    label_map = data.label_map or {f"defect_{k}": k for k in range(1, num_defect + 1)}
    if len(label_map) != num_defect:
        raise InputError(
            f"num_defect is {num_defect}, but data.label_map names {len(label_map)} types: {', '.join(label_map)}"
        )
    background = in_channels != 3 + num_defect if data.background is None else data.background
    total = 3 + background + num_defect
    for key in ("in_channels", "out_channels"):
        if getattr(model, key) not in (0, total):
            raise InputError(
                f"model.{key} is {getattr(model, key)}, but 3 (RGB) + {int(background)} (background) + {num_defect} "
                f"(num_defect) = {total}; remove {key} or change num_defect"
            )
    height, width = size = data.resolution or (model.image_size,) * 2
    if height % model.size_multiple or width % model.size_multiple:
        raise InputError(
            f"data.resolution: {height} x {width} must be a multiple of {model.size_multiple} "
            f"({len(model.channel_mult)} levels in model.channel_mult)"
        )
    if data.crop_from and (data.crop_from[0] < height or data.crop_from[1] < width):
        raise InputError(
            f"data.crop_from: {data.crop_from[0]} x {data.crop_from[1]} is smaller than data.resolution, "
            f"{height} x {width}, the size of the windows"
        )
    if config.train.separate_channel_loss and config.diffusion.parameterization != "x0":
        raise InputError("separate_channel_loss works with diffusion.parameterization x0 only")
    for name in data.type_rates or {}:
        if name not in (GOOD, *label_map):
            raise InputError(unknown_name("type in data.type_rates", name, (GOOD, *label_map)))
    channels = {"in_channels": total, "out_channels": total, "num_defect": num_defect if model.class_cond else 0}
    model = dataclasses.replace(model, **channels)
    data = dataclasses.replace(data, label_map=label_map, background=background, resolution=size)
    resolved = dataclasses.replace(config, model=model, data=data)
    if resolved.rates is not None and not any(resolved.rates):
        raise InputError("data.type_rates: all are 0 (that of good without data.include_good too); raise one")
    return resolved
