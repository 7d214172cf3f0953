"""Which images belong together, such as all photographs of one object: read from a file, for the bootstrap."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Sequence
from typing import Any

from ..errors import InputError
from ..file_io import read_bytes, read_json
from ..prepare.layouts import stem_of


def read_groups(path: str, names: Sequence[str], flag: str = "--real_groups") -> list[str]:
    """The group of each image, `names` being "<type>/<stem>" or "<stem>" as in DefectDataset.

    The file is CSV with rows `file,group`; or JSON {file: group}; or a JSON split file, {"files": {file: {"tile":
    group}}}. A file may be named with folders and suffix; type and stem count, the stem alone where it occurs once.
    flag: how the user named the file. Raises InputError where the file is none of these or leaves an image of `names`
    without a group.
    """
    known: dict[str, str | None] = {}  # None: the stem alone does not tell
    for file, group in _read_pairs(path, flag):
        folders, stem = file.split("/")[:-1], stem_of(file)
        known[stem] = group if known.get(stem, group) == group else None
        if folders:
            known[f"{folders[-1]}/{stem}"] = group
    groups = []
    for name in names:
        group = known.get(name) or known.get(name.rpartition("/")[2])
        if group is None:
            raise InputError(f"{flag} {path}: names no group for the image {name}, or several; add <type>/<file>")
        groups.append(group)
    return groups


def _read_pairs(path: str, flag: str) -> Iterable[tuple[str, str]]:
    """(file, group) for each entry of the file."""
    try:
        content = _read_json(path) if path.endswith(".json") else _read_csv(path)
    except OSError as error:
        raise InputError(f"{flag} {path}: cannot be read ({error.strerror or error})") from error
    if content is None:
        raise InputError(f"{flag} {path}: should hold rows 'file,group' (CSV) or {{file: group}} (JSON)")
    return content


def _read_json(path: str) -> list[tuple[str, str]] | None:
    content: Any = read_json(path)
    if isinstance(content, dict) and isinstance(content.get("files"), dict):
        content = {
            file: entry.get("tile") if isinstance(entry, dict) else None for file, entry in content["files"].items()
        }
    if not isinstance(content, dict) or not all(isinstance(group, (str, int)) for group in content.values()):
        return None
    return [(file, str(group)) for file, group in content.items()]


def _read_csv(path: str) -> list[tuple[str, str]] | None:
    rows = list(csv.reader(io.StringIO(read_bytes(path).decode("utf-8-sig", "replace"))))
    rows = [[cell.strip() for cell in row] for row in rows if row]
    return [(file, group) for file, group in rows] if all(len(row) == 2 and all(row) for row in rows) else None
