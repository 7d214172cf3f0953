"""YAML -> Config. The layout is the released one (`target`, `params`, `ckpt`), so released files load unchanged.

A key may stand in its section or under the section's `params`.
"""

import math
import os
import re
import types
import typing
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import replace
from numbers import Integral, Real
from typing import Any

import blobfile as bf
import yaml
from yaml.composer import ComposerError
from yaml.constructor import ConstructorError
from yaml.reader import ReaderError

from . import GOOD, MAX_TYPES
from .config import GLOBAL, KEYS, PATCH, SECTIONS, Config
from .errors import InputError, brief, reason, unknown_name, whole
from .file_io import as_path, read_bytes

Source = str | Mapping[str, Any]  # the path of a YAML file, or what it would hold
Sections = dict[str, dict[str, Any]]
WORDS = {int: "a whole number", float: "a number", bool: "true or false", str: "a text", tuple: "a list"}
WORDS[Mapping] = "name: number pairs"
MAX_BYTES, MAX_DEPTH, MAX_VALUES = 10**6, 20, 10_000  # of a file


class _Loader(yaml.SafeLoader):
    """YAML whose numbers are what they look like: none is octal or of base 60."""

    def construct_object(self, node: yaml.Node, deep: bool = False) -> Any:
        number = node.tag in ("tag:yaml.org,2002:int", "tag:yaml.org,2002:float")
        try:
            if number and re.match(r"[-+]?0[\d_]+$|.*:", node.value):
                raise ValueError
            return super().construct_object(node, deep)
        except yaml.YAMLError:
            raise
        except Exception:  # a tag that does not fit, an octal or sexagesimal number, a date of month 13
            kind = "decimal number" if number else node.tag.rpartition(":")[2]
            raise ConstructorError(None, None, f"{brief(node.value)} is no {kind}", node.start_mark) from None


def read_yaml(path: str) -> Any:
    """The value in a YAML file, 1 MB at most. Raises InputError, or FileNotFoundError."""
    return _parse_yaml(read_bytes(path), path)[0]


def _parse_yaml(text: str | bytes, name: str) -> tuple[Any, dict[str, int]]:
    """The value in YAML, and the line of each key in it, "section.key" (params are left out). Raises InputError."""
    if len(text) > MAX_BYTES:
        raise InputError(f"{name}: has more than {MAX_BYTES:,} bytes, which no such file needs; name another")
    lines: dict[str, int] = {}
    try:
        loader = _Loader(text)
        if (node := loader.get_single_node()) is None:
            return None, {}
        for count, (key, mark) in enumerate(_keys(node)):
            if count > MAX_VALUES:
                raise ComposerError(None, None, f"more than {MAX_VALUES:,} values, an alias's counted anew", mark)
            lines.setdefault(key, mark.line + 1)
        return loader.construct_document(node), lines
    except RecursionError:
        raise InputError(f"{name}: not valid YAML: nested more than {MAX_DEPTH} deep") from None
    except ReaderError as error:  # another encoding, or a control character
        line = text[: error.position].count(b"\n" if isinstance(text, bytes) else "\n") + 1
        raise InputError(f"{name}: not valid YAML at line {line}: {error.reason}; save it as UTF-8 text") from None
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1
        keys = "".join(f" ({key})" for key, place in lines.items() if place == line)
        raise InputError(f"{name}: not valid YAML at line {line}{keys}: {error.problem}") from None


def _keys(node: yaml.Node, path: str = "", depth: int = 1) -> Iterator[tuple[str, yaml.Mark]]:
    """The key, "section.key", and the place of every value; aliases are followed. Raises ComposerError."""
    if depth > MAX_DEPTH:
        raise ComposerError(None, None, f"nested more than {MAX_DEPTH} deep", node.start_mark)
    seen: dict[str, int] = {}
    for item in node.value if isinstance(node, yaml.CollectionNode) else ():
        key, value = item if isinstance(node, yaml.MappingNode) else (None, item)
        mark, name = (key or value).start_mark, path
        if isinstance(key, yaml.ScalarNode):
            if first := seen.get(key.value):
                text = f"the key {brief(key.value)} is given twice, first in line {first}"
                raise ComposerError(None, None, text, mark)
            seen[key.value] = mark.line + 1
            name = f"{path}.{key.value}".strip(".")
        yield name, mark
        yield from _keys(value, name.removesuffix(".params"), depth + 1)


@contextmanager
def _errors_name(source: Source, lines: Mapping[str, int] | None = None) -> Iterator[None]:
    """Put the file, and the line of the first key that it names, before the text of an InputError from inside; nothing
    where that key is an override's, line 0."""
    try:
        yield
    except InputError as error:
        words = (word.strip(".") for word in re.findall(r"[\w.]+", str(error)))
        line = next((lines[word] for word in words if word in (lines or {})), None)
        place = f"{'config' if isinstance(source, Mapping) else source}{f', line {line}' if line else ''}: "
        raise InputError(f"{'' if line == 0 else place}{error}") from None


def load_config(source: Source, num_defect: int | None = None, overrides: Mapping[str, Any] | None = None) -> Config:
    """Read, check and resolve a configuration. Looks at no other file. Raises InputError naming the key.

    num_defect: number of defect types; needed where neither data.label_map nor model.in_channels tells it. overrides:
    {"section.key": value}, as from `--set`."""
    flat, lines = _read(source, overrides)
    with _errors_name(source, lines):
        if not flat["model"].get("target"):
            raise InputError(f"model.target: missing; one of {GLOBAL}, {PATCH}")
        return _resolve(Config(**{name: _build(name, cls, flat[name]) for name, cls in SECTIONS.items()}), num_defect)


def read_sections(source: Source, overrides: Mapping[str, Any] | None = None) -> Sections:
    """{section: {key: value}} as written and overridden; arguments as for load_config. Values are not checked."""
    return _read(source, overrides)[0]


def _read(source: Source, overrides: Mapping[str, Any] | None) -> tuple[Sections, dict[str, int]]:
    """read_sections, and the lines of the keys that the file gives."""
    source = source if isinstance(source, Mapping) else as_path(source, "config")
    try:
        raw, lines = (source, {}) if isinstance(source, Mapping) else _parse_yaml(read_bytes(source), source)
    except (OSError, bf.Error) as error:
        raise InputError(f"{source}: cannot read the configuration file ({reason(error)}); check --config") from None
    with _errors_name(source, lines):
        if not isinstance(raw, Mapping):
            raise InputError(f"not a configuration; expected the sections {', '.join(SECTIONS)}")
        for key in raw:
            if key not in SECTIONS:
                raise InputError(unknown_name("key", str(key), SECTIONS))
        flat = {section: _mapping(section, raw.get(section)) for section in SECTIONS}
        for section, values in flat.items():
            for key, value in _mapping(f"{section}.params", values.pop("params", None)).items():
                if key in values:
                    raise InputError(f"{section}.{key}: given twice, in the section and under params; remove one")
                values[key] = value
        for name, value in _mapping("overrides", overrides).items():
            path = str(name)
            section, _, key = path.partition(".")
            key = key.removeprefix("params.")
            lines |= {path: 0, f"{section}.{key}": 0}
            if section not in SECTIONS or not key:
                raise InputError(unknown_name("key", path, KEYS))
            flat[section][key] = value
    return flat, lines


def parse_override(text: str) -> tuple[str, Any]:
    """`--set section.key=value`, the value in YAML syntax."""
    key, equals, value = text.partition("=")
    if not equals or "." not in key:
        raise InputError(f"--set {text}: expected section.key=value, e.g. train.iterations=1000")
    return key, _parse_yaml(value, f"--set {text[:80]}")[0]


def _mapping(where: str, raw: Any) -> dict[str, Any]:
    if raw is not None and not isinstance(raw, Mapping):
        raise InputError(f"{where}: expected a section with keys, got {brief(raw)}")
    return dict(raw or {})


def _build(section: str, cls: type, flat: Mapping[str, Any]) -> Any:
    """Make one section's dataclass; unknown keys and wrong types are errors."""
    hints, values = typing.get_type_hints(cls), {}
    for key, value in flat.items():
        if key not in hints:
            raise InputError(unknown_name("key", f"{section}.{key}", [f"{section}.{name}" for name in hints]))
        if value is None and types.NoneType not in typing.get_args(hints[key]):
            continue  # an empty YAML value means the default
        if key == "compile" and (isinstance(value, bool) or value == "auto"):
            value = "on" if value is True else "off"  # YAML takes on for true; old checkpoints' configurations say auto
        values[key] = _convert(f"{section}.{key}", value, hints[key])
    return cls(**values)


def _convert(path: str, value: Any, hint: Any) -> Any:
    """Check a YAML value against a field's type."""
    kinds = typing.get_args(hint) if isinstance(hint, types.UnionType) else (hint,)
    if isinstance(value, os.PathLike):
        value = os.fsdecode(value)
    elif isinstance(value, Real) and type(value) not in (bool, int, float):  # numpy's
        value = int(value) if isinstance(value, Integral) else float(value)
    if value is None and types.NoneType in kinds:
        return None
    expected = []
    for kind in kinds:
        origin = typing.get_origin(kind) or kind
        if origin is Mapping and isinstance(value, Mapping) and all(type(k) is str and _is_sane(k) for k in value):
            return {name: _convert(f"{path}.{name}", one, typing.get_args(kind)[1]) for name, one in value.items()}
        if kind is float and type(value) in (int, float, str):
            with suppress(ValueError, OverflowError):  # of a text too: YAML 1.1 reads 1e-4 as one
                if math.isfinite(number := float(value)):
                    return number
        if kind in (bool, str, int) and type(value) is kind and (kind is bool or _is_sane(value)):
            return value
        if origin is tuple and isinstance(value, (list, tuple)):
            return tuple(_convert(path, one, typing.get_args(kind)[0]) for one in value)
        expected += [WORDS[origin]] if origin in WORDS else []
    raise InputError(f"{path}: expected {' or '.join(expected)}, got {brief(value)}")


def _is_sane(value: int | str) -> bool:
    """Whether a number has 63 bits at most, and a text can be a path in UTF-8."""
    return abs(value) < 2**63 if isinstance(value, int) else not re.search("[\0\ud800-\udfff]", value)


def _resolve(config: Config, num_defect: int | None) -> Config:
    """Fill in what is derived: label map, channels, resolution; and check that all of it adds up."""
    model, data = config.model, config.data
    num_defect = None if num_defect is None else whole("num_defect", num_defect, MAX_TYPES)
    in_channels = model.in_channels or model.out_channels
    if num_defect is None and data.label_map is not None:
        num_defect = len(data.label_map)
    elif num_defect is None and in_channels:
        num_defect = in_channels - 3 - (data.background is not False)
    if num_defect is None:
        raise InputError("number of defect types unknown; give --num_defect, or data.label_map in the YAML")
    if not 1 <= num_defect <= MAX_TYPES:
        raise InputError(f"num_defect: {num_defect} must be from 1 to {MAX_TYPES}")
    label_map = data.label_map or {f"defect_{k}": k for k in range(1, num_defect + 1)}
    if (count := len(label_map)) != num_defect:
        raise InputError(f"num_defect is {num_defect}, but data.label_map names {count} types: {', '.join(label_map)}")
    background = in_channels != 3 + num_defect if data.background is None else data.background
    total = 3 + background + num_defect
    for key in ("in_channels", "out_channels"):
        if (given := getattr(model, key)) not in (0, total):
            counted = f"3 (RGB) + {int(background)} (background) + {num_defect} (num_defect) = {total}"
            raise InputError(f"model.{key} is {given}, but {counted}; remove {key}")
    height, width = size = data.resolution or (model.image_size,) * 2
    if height % (multiple := model.size_multiple) or width % multiple:
        raise InputError(f"data.resolution: {height} x {width} must be a multiple of {multiple}, by model.channel_mult")
    if any(side < window for side, window in zip(data.crop_from, size, strict=False)):
        shown = " x ".join(map(str, data.crop_from))
        raise InputError(f"data.crop_from: {shown} is smaller than data.resolution, {height} x {width}")
    if config.train.micro_batch and data.bs_per_gpu % config.train.micro_batch:
        raise InputError(f"train.micro_batch: must divide data.bs_per_gpu, which is {data.bs_per_gpu}")
    if config.train.separate_channel_loss and config.diffusion.parameterization != "x0":
        raise InputError("separate_channel_loss works with diffusion.parameterization x0 only")
    T = config.diffusion.num_timestep
    t_range = config.train.t_range or (0, T)
    if len(t_range) != 2 or not 0 <= t_range[0] < t_range[1] <= T:
        raise InputError(f"train.t_range: {brief(list(t_range))} must be two timesteps that rise, from 0 to {T}")
    for name in data.type_rates or {}:
        if name not in (GOOD, *label_map):
            raise InputError(unknown_name("type in data.type_rates", name, (GOOD, *label_map)))
    told = num_defect if model.class_cond else 0
    resolved = replace(
        config,
        model=replace(model, in_channels=total, out_channels=total, num_defect=told),
        data=replace(data, label_map=label_map, background=background, resolution=size),
        train=replace(config.train, t_range=t_range),
    )
    if resolved.rates is not None and not any(resolved.rates):
        raise InputError("data.type_rates: all are 0 (that of good without data.include_good too); raise one")
    return resolved
