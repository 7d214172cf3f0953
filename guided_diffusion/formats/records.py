"""What an export is made of: generated samples, and real images that join them, under names that tell them apart."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import blobfile as bf
import numpy as np
from tqdm import tqdm

from ..class_names import common_class_names
from ..errors import InputError
from ..index_masks import read_pair
from ..layouts import Sample, find_good, find_samples, stem_of
from ..masks import present_types
from ..sample_io import read_manifest, recorded_settings

Origin = Literal["gen", "real", "val"]
_FLAGS: dict[Origin, str] = {"gen": "SAMPLES", "real": "--real", "val": "--val"}


@dataclass(frozen=True)
class Record:
    """An image of the export.

    name: of its files, without suffix; starts with the origin. number: among those of its origin; a sample's own.
    sample: where it is taken from. size: height and width in pixels. types: pixel count of each type that occurs.
    seed: of a generated image, where its manifest tells.
    """

    name: str
    origin: Origin
    number: int
    sample: Sample
    size: tuple[int, int]
    types: dict[str, int]
    seed: int | None = None

    @property
    def part(self) -> str:
        return "val" if self.origin == "val" else "train"

    @property
    def source(self) -> str:
        return "generated" if self.origin == "gen" else "real"

    def read(self, num_defect: int) -> tuple[np.ndarray, np.ndarray]:
        """Image uint8 [H, W, 3] and index mask uint8 [H, W]. Raises InputError where they cannot be read."""
        return read_pair(self.sample, num_defect)


@dataclass(frozen=True)
class Export:
    """All records with what they have in common.

    settings: how the samples were generated; {} where nothing tells. segmentation: of COCO, "polygon" or "rle".
    object_name: MVTec AD's name of the object.
    """

    records: list[Record]
    class_names: tuple[str, ...]
    settings: dict[str, Any] = field(default_factory=dict)
    segmentation: str = "polygon"
    object_name: str = "object"

    @property
    def parts(self) -> dict[str, list[Record]]:
        """The records of each part that there is: "train", and "val" if held-out images were given."""
        parts = {part: [record for record in self.records if record.part == part] for part in ("train", "val")}
        return {part: records for part, records in parts.items() if records}

    @property
    def label_map(self) -> dict[str, int]:
        return {name: index for index, name in enumerate(self.class_names, start=1)}


def read_export(samples: str, real: str | None, val: str | None, *, keep_good: bool, **options: str) -> Export:
    """Read every image and mask once, so that whatever is wrong shows before anything is written.

    keep_good: take the defect-free images of `real` and `val` too. options: further fields of Export.
    Raises InputError.
    """
    folders: dict[Origin, str] = {"gen": samples} | ({"real": real} if real else {}) | ({"val": val} if val else {})
    for origin, folder in folders.items():
        if not bf.isdir(folder):
            raise InputError(f"{_FLAGS[origin]} {folder}: is not a folder; name a sample folder or a data set")
    class_names = common_class_names({_FLAGS[origin]: folder for origin, folder in folders.items()})
    records: list[Record] = []
    for origin, folder in folders.items():
        records += _read_records(origin, folder, class_names, keep_good and origin != "gen")
    return Export(records, class_names, recorded_settings(samples), **options)


def _read_records(origin: Origin, folder: str, class_names: Sequence[str], keep_good: bool) -> list[Record]:
    manifest = _manifest(folder) if origin == "gen" else {}
    try:
        found = list(find_samples(folder))
        if manifest:  # what it does not list is the rest of a run that was cut off
            found = [sample for sample in found if stem_of(sample.image) in manifest]
        found += find_good(folder) if keep_good else []
    except InputError as error:
        raise InputError(f"{_FLAGS[origin]} {error}") from error
    names = safe_names(f"{origin}_{item.name}" for item in found)
    records = []
    progress = tqdm(found, f"checking {folder}", unit="image", disable=None)
    for number, (name, item) in enumerate(zip(names, progress, strict=True)):
        mask = read_pair(item, len(class_names))[1]
        row = manifest.get(stem_of(item.image), {})
        records.append(
            Record(
                name,
                origin,
                row.get("index", number),
                item,
                mask.shape,
                present_types(mask, class_names),
                row.get("seed"),
            )
        )
    if not any(record.types for record in records):
        raise InputError(
            f"{_FLAGS[origin]} {folder}: no mask holds a defect, so there is nothing to export; check them"
        )
    return records


def safe_names(names: Iterable[str]) -> list[str]:
    """Each name in ASCII letters, digits, "-" and "_" only, and no two alike, on disks that do not tell case either."""
    safe: list[str] = []
    taken: set[str] = set()
    for name in names:
        plain = unique = re.sub(r"[^A-Za-z0-9-]+", "_", name)
        count = 1
        while unique.lower() in taken:
            count += 1
            unique = f"{plain}_{count}"
        taken.add(unique.lower())
        safe.append(unique)
    return safe


def _manifest(folder: str) -> dict[str, dict[str, Any]]:
    """The rows of a sample folder's manifest by the stem of their image; {} where there is none."""
    path = bf.join(folder, "manifest.jsonl")
    return {stem_of(row["image"]): row for row in read_manifest(path)} if bf.exists(path) else {}
