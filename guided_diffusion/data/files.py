"""Names of files: listing, natural order, stems, and what a list of names pairs up to."""

import os
import re
import unicodedata
from collections.abc import Iterable, Mapping

import blobfile as bf

from ..errors import InputError

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
        first = paths.setdefault(stem_of(name), bf.join(folder, name))
        if bf.basename(first) != name:
            path = bf.join(folder, name)
            problems.append(f"{path}: shares its stem with {bf.basename(first)}; rename or remove one")
    return paths
