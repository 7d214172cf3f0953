"""Splits and groups as files tell them, and flags that name types or colours."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ..errors import InputError, unknown_name
from ..file_io import read_bytes, read_json
from .layouts import Sample, check_label_map, stem_of


@dataclass(frozen=True)
class SplitFile:
    """A split file: {image path relative to SOURCE: its entry}, where an entry has `part`, and may have `type` and
    `group`; and the label map, if it has one."""

    path: str
    files: Mapping[str, Mapping[str, Any]]
    label_map: dict[str, int] | None

    @property
    def parts(self) -> list[str]:
        return list(dict.fromkeys(str(entry["part"]) for entry in self.files.values()))


def read_split(path: str) -> SplitFile:
    """Read JSON {"label_map": ..., "files": {image: {"part": ..., "type": ..., "group" or "tile": ...}}}, or CSV rows
    image,part. Raises InputError where the file is neither."""
    label_map = None
    if path.lower().endswith(".csv"):
        rows = [row for row in csv.reader(io.StringIO(read_bytes(path).decode("utf-8-sig", "replace"))) if row]
        files: Any = {row[0].strip(): {"part": row[-1].strip()} for row in rows if len(row) == 2}
        if len(files) != len(rows):
            raise InputError(f"{path}: should hold rows 'image,part', each image once; correct it")
    else:
        content = read_json(path)
        files = content.get("files") if isinstance(content, dict) else None
        if isinstance(files, dict) and content.get("label_map") is not None:
            label_map = check_label_map(content["label_map"], path)
    if not isinstance(files, dict) or not files or not all(_is_entry(entry) for entry in files.values()):
        raise InputError(f"{path}: should hold 'files': {{image path: {{'part': ..., 'type': ...}}}}")
    entries = {file: {**entry, "group": entry.get("group", entry.get("tile"))} for file, entry in files.items()}
    return SplitFile(path, entries, label_map)


def _is_entry(entry: Any) -> bool:
    return isinstance(entry, dict) and isinstance(entry.get("part"), (str, int))


def assign(split: SplitFile, samples: Sequence[Sample], sources: Sequence[str]) -> list[Mapping[str, Any] | None]:
    """The entry of each sample, None for those that the split does not list. sources: paths relative to SOURCE.

    Raises InputError where the split lists what is not there, or a type other than that of the sample's folder.
    """
    by_path = {source: place for place, source in enumerate(sources)}
    entries: list[Mapping[str, Any] | None] = [None] * len(samples)
    for file, entry in split.files.items():
        place = by_path.get(file)
        if place is None:
            raise InputError(f"{split.path}: lists {file}, which SOURCE does not hold; correct either")
        folder, named = samples[place].folder, entry.get("type")
        if named is not None and folder is not None and named != folder:
            if split.label_map and named not in split.label_map and named != "good":
                raise InputError(f"{split.path}: {unknown_name('type', str(named), split.label_map)} for {file}")
            raise InputError(f"{split.path}: calls {file} a {named}, its folder {folder}; correct either")
        entries[place] = entry
    return entries


def parse_label_map(text: str) -> dict[str, int]:
    """--label_map: `crack,hole`, `crack=1,hole=2`, or a JSON file of {name: index}, also below the key label_map."""
    if text.lower().endswith(".json"):
        content = read_json_or_fail(text, "--label_map")
        content = content.get("label_map", content) if isinstance(content, dict) else content
        return check_label_map(content, f"--label_map {text}")
    items = [item.strip() for item in text.split(",")]
    pairs = [item.partition("=") for item in items]
    numbered = [(name.strip(), index.strip() or str(k)) for k, (name, _, index) in enumerate(pairs, 1)]
    if not all(name and index.isdecimal() for name, index in numbered) or len(dict(numbered)) < len(numbered):
        raise InputError(f"--label_map: {text!r} should be names, each once, as in crack,hole or crack=1,hole=2")
    return check_label_map({name: int(index) for name, index in numbered}, "--label_map")


def parse_colormap(items: Sequence[str]) -> dict[str, tuple[int, int, int]]:
    """--colormap: `crack=255,0,0`, or `crack=128` for a grey level; {name: (r, g, b)}."""
    colours: dict[str, tuple[int, int, int]] = {}
    for item in items:
        name, _, value = item.partition("=")
        levels = value.split(",")
        levels = levels * 3 if len(levels) == 1 else levels
        valid = len(levels) == 3 and all(level.strip().isdecimal() and int(level) <= 255 for level in levels)
        if not name or not valid or name in colours:
            raise InputError(f"--colormap: {item!r} should be a new NAME=R,G,B or NAME=GREY, levels 0..255")
        colour = tuple(int(level) for level in levels)
        if colour in colours.values():
            raise InputError(f"--colormap: {item!r} gives a colour that another name has already")
        colours[name] = colour
    return colours


def read_json_or_fail(path: str, flag: str) -> Any:
    """read_json, whose missing file is told as the user named it."""
    try:
        return read_json(path)
    except OSError as error:
        raise InputError(f"{flag} {path}: cannot be read ({error.strerror or error})") from error


def relative_to(path: str, root: str) -> str:
    """`path` below `root`, both as found on disk or in a cloud store."""
    return path[len(root.rstrip("/")) + 1 :] if path.startswith(root.rstrip("/") + "/") else stem_of(path)
