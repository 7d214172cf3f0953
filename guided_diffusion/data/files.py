"""Names of files: listing, natural order, stems, and what a list of names pairs up to."""

from __future__ import annotations

import csv
import io
import os
import re
import unicodedata
from collections.abc import Iterable, Mapping, Sequence

import blobfile as bf

from ..errors import InputError
from ..file_io import read_bytes, read_json

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp")
PARTS = ("train", "val", "valid", "validation", "test")
GOOD = "good"  # the type folder of defect-free images, which have no mask


def list_folder(folder: str, suffixes: tuple[str, ...] = IMAGE_SUFFIXES) -> tuple[list[str], list[str]]:
    """Names of the files with these suffixes and of the folders in `folder`, hidden ones left out, in natural order.

    Raises InputError where it cannot be listed.
    """
    try:
        entries = [entry for entry in bf.scandir(folder) if not entry.name.startswith(".")]
    except OSError as error:
        raise InputError(f"{folder}: cannot be listed ({error.strerror or error})") from error
    files = [entry.name for entry in entries if entry.is_file and entry.name.lower().endswith(suffixes)]
    folders = [entry.name for entry in entries if entry.is_dir]
    return sorted(files, key=natural_key), sorted(folders, key=natural_key)


def natural_key(name: str) -> list[tuple[int, int, str]]:
    """Sort key under which img2 comes before img10."""
    parts = re.split(r"(\d+)", name)
    return [(0, int(part), part) if part.isdecimal() else (1, 0, part) for part in parts if part]


def is_good(folder: str) -> bool:
    """Whether a type folder of this name holds defect-free images."""
    return folder.lower() == GOOD


def stem_of(path: str) -> str:
    """File name without folder and suffix, its accents composed (some systems store them apart)."""
    return unicodedata.normalize("NFC", os.path.splitext(os.path.basename(path))[0])  # blobfile's is slow


def name_of(stem: str, prefix: str | None, stems: Mapping[str, int]) -> str:
    """A sample's name: its stem, after `prefix` where several have that stem (counted in `stems`)."""
    return f"{prefix}_{stem}" if prefix and stems[stem] > 1 else stem


def part_in(name: str) -> str | None:
    """The part (train, val, ...) that a folder or file is called after, as train2017 or instances_train.json."""
    return next((word for word in re.findall("[a-z]+", name.lower()) if word in PARTS), None)


def by_stem(folder: str, files: Iterable[str], problems: list[str]) -> dict[str, str]:
    """{stem: path} of the files in `folder`. Where two share a stem, a problem is noted and the first is kept."""
    paths: dict[str, str] = {}
    for name in files:
        path = bf.join(folder, name)
        if (first := paths.setdefault(stem_of(name), path)) != path:
            problems.append(f"{path}: shares its stem with {bf.basename(first)}; rename or remove one")
    return paths


def read_rows(path: str) -> list[list[str]]:
    """The rows of a CSV file, cells stripped, empty rows left out."""
    rows = csv.reader(io.StringIO(read_bytes(path).decode("utf-8-sig", "replace")))
    return [[cell.strip() for cell in row] for row in rows if row]


def read_groups(path: str, names: Sequence[str], flag: str) -> list[str]:
    """The group of each image (of one object, say), `names` being "<type>/<stem>" or "<stem>" as in DefectDataset.

    The file is CSV with rows `file,group`; or JSON {file: group}; or a split file, {"files": {file: {"tile": group}}}.
    Type and stem of a file count, the stem alone where it tells. flag: how the user named it. Raises InputError where
    the file is none of these or leaves an image without a group.
    """
    try:
        rows = _json_rows(path) if path.endswith(".json") else read_rows(path)
    except OSError as error:
        raise InputError(f"{flag} {path}: cannot be read ({error.strerror or error})") from error
    if not rows or not all(len(row) == 2 and isinstance(row[1], (str, int)) and "" not in row for row in rows):
        raise InputError(f"{flag} {path}: should hold rows 'file,group' (CSV) or {{file: group}} (JSON)")
    known: dict[str, str | None] = {}  # None: the stem alone does not tell
    for file, group in ((file, str(group)) for file, group in rows):
        folders, stem = file.split("/")[:-1], stem_of(file)
        known[stem] = group if known.get(stem, group) == group else None
        if folders:
            known[f"{folders[-1]}/{stem}"] = group
    groups = [known.get(name) or known.get(name.rpartition("/")[2]) for name in names]
    if None in groups:
        name = names[groups.index(None)]
        raise InputError(f"{flag} {path}: names no group for the image {name}, or several; add <type>/<file>")
    return groups


def _json_rows(path: str) -> list[Sequence]:
    content = read_json(path)
    if isinstance(content, dict) and isinstance(content.get("files"), dict):
        entries = content["files"].items()
        content = {file: entry.get("tile") if isinstance(entry, dict) else None for file, entry in entries}
    return list(content.items()) if isinstance(content, dict) else []
