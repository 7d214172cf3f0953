"""What an export is made of: generated samples, and real images that join them, under names that tell them apart."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, Literal

import blobfile as bf
import numpy as np
from tqdm import tqdm

from ..data.index_masks import present_types, read_pair
from ..errors import InputError
from ..generation.class_names import common_class_names
from ..generation.sample_io import read_manifest, recorded_settings
from ..prepare.layouts import Sample, find_good, find_samples, read_layout, stem_of

Origin = Literal["gen", "real", "val"]


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

    samples: a sample folder; or another data set, whose images are real ones. keep_good: take the defect-free images
    of real data sets too. options: further fields of Export. Raises InputError.
    """
    folders = {"SAMPLES": samples} | ({"--real": real} if real else {}) | ({"--val": val} if val else {})
    for flag, folder in folders.items():
        if not bf.isdir(folder):
            raise InputError(f"{flag} {folder}: is not a folder; name a sample folder or a data set")
    class_names = common_class_names(folders)
    origins: dict[str, Origin] = {
        "SAMPLES": "gen" if is_generated(samples) else "real",
        "--real": "real",
        "--val": "val",
    }
    found = [
        (flag, sample, seed, index)
        for flag, folder in folders.items()
        for sample, seed, index in _find(flag, folder, keep_good and origins[flag] != "gen")
    ]
    names = safe_names(f"{origins[flag]}_{sample.name}" for flag, sample, _, _ in found)
    numbers: Counter[Origin] = Counter()
    records = []
    progress = tqdm(found, "checking", unit="image", disable=None)
    for name, (flag, sample, seed, index) in zip(names, progress, strict=True):
        origin = origins[flag]
        mask = read_pair(sample, len(class_names))[1]
        number = numbers[origin] if index is None else index
        numbers[origin] += 1
        records.append(Record(name, origin, number, sample, mask.shape, present_types(mask, class_names), seed))
    with_defects = {flag for (flag, *_), record in zip(found, records, strict=True) if record.types}
    for flag in folders.keys() - with_defects:
        raise InputError(f"{flag} {folders[flag]}: no mask holds a defect, so there is nothing to export; check them")
    return Export(records, class_names, recorded_settings(samples), **options)


def is_generated(folder: str) -> bool:
    """Whether the images of a folder are known to be generated: by a manifest, or the layout of Defect Spectrum's."""
    return bool(recorded_settings(folder)) or read_layout(folder).format == "synthetic"


def _find(flag: str, folder: str, keep_good: bool) -> list[tuple[Sample, int | None, int | None]]:
    """The samples in a folder, with seed and index where a manifest tells; what that does not list is left out, being
    the rest of a run that was cut off."""
    manifest = _manifest(folder)
    try:
        found = list(find_samples(folder)) + (find_good(folder) if keep_good else [])
    except InputError as error:
        raise InputError(f"{flag} {error}") from error
    if not manifest:
        return [(sample, None, None) for sample in found]
    rows = [(sample, manifest.get(stem_of(sample.image))) for sample in found]
    return [(sample, row.get("seed"), row["index"]) for sample, row in rows if row]


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
