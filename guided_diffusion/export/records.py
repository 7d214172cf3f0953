"""The images of an export: read and checked before anything is written, then written into a folder of their own."""

import io
import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import blobfile as bf
import numpy as np
from PIL import Image
from tqdm import tqdm

from .. import MAX_TYPES, file_io
from ..data.files import check_lengths, check_no_links
from ..data.image_files import EXIF_ORIENTATION, present_types
from ..data.prepared import SAMPLES, Sample, find_good, find_samples, read_pair
from ..data.records import read_manifest
from ..errors import InputError
from ..generation.sample_io import WRITERS, common_class_names
from ..prepare.layouts.tables import EXPORT_FILE

LEFT_BY_READERS = (".cache", ".npy")  # ultralytics leaves labels/train.cache and, where asked to, images as arrays


@dataclass(frozen=True)
class Record:
    """An image of the export."""

    name: str  # of its files, without suffix; starts with the origin
    origin: Literal["gen", "real", "val"]
    number: int  # among those of its origin; a sample's own
    sample: Sample
    types: dict[str, int]  # pixel count of each that occurs
    seed: int | None = None  # where a manifest tells

    @property
    def part(self) -> str:
        return "val" if self.origin == "val" else "train"

    @property
    def source(self) -> str:
        return "generated" if self.origin == "gen" else "real"


Files = dict[str, Callable[[np.ndarray], bytes] | None]  # by path: what makes it of the index mask; None: the image


class Layout(NamedTuple):
    """What a format makes of an export, by paths below OUT."""

    files: Callable[[Record], Files]  # {} leaves a record out
    index_files: dict[str, bytes]  # those that lead to the others
    notes: Sequence[str] = ()  # lines for the user


def by_name(templates: Files, parts: Mapping[str, str] | None = None) -> Callable[[Record], Files]:
    """Layout.files by templates of paths with {name} and {part}; parts: what these are called."""

    def files(record: Record) -> Files:
        words = {"name": record.name, "part": (parts or {}).get(record.part, record.part)}
        return {template.format(**words): make for template, make in templates.items()}

    return files


@dataclass(frozen=True)
class Export:
    """What is exported, and by which types."""

    records: list[Record]
    label_map: dict[str, int]
    settings: dict[str, Any]  # of generating, if known
    segmentation: str = "polygon"  # of COCO, or "rle"
    object_name: str = "object"  # of MVTec AD

    @property
    def parts(self) -> dict[str, list[Record]]:
        """The records of "train", and of "val" if there are held-out images."""
        parts = {part: [record for record in self.records if record.part == part] for part in ("train", "val")}
        return {part: records for part, records in parts.items() if records}


def read_export(samples: str, real: str | None, val: str | None, *, keep_good: bool, **options: str) -> Export:
    """Read every image and mask once, so that whatever is wrong shows before anything is written. Raises InputError.

    samples: a sample folder; or a prepared set, whose images are real ones. keep_good: take the defect-free images of
    real sets too. options: further fields of Export."""
    folders = {flag: path for flag, path in (("SAMPLES", samples), ("--real", real), ("--val", val)) if path}
    class_names, generated = common_class_names(folders), bf.isdir(bf.join(samples, SAMPLES[1]))
    rows = {f"{index:06d}": row for index, row in (read_manifest(samples) or {}).items()} if generated else {}
    settings = next(iter(rows.values()))["settings"] if rows else {}
    origins = {"SAMPLES": "gen" if generated else "real", "--real": "real", "--val": "val"}
    found = []
    for flag, folder in folders.items():
        pairs = find_samples(folder) + (find_good(folder) if keep_good and origins[flag] != "gen" else [])
        found += [(flag, pair, rows.get(pair.name, {}) if flag == "SAMPLES" else {}) for pair in pairs]

    records, numbers, with_defect = [], Counter(), set()
    names = safe_names(f"{origins[flag]}_{pair.name}" for flag, pair, _ in found)
    for name, (flag, pair, row) in zip(names, tqdm(found, "checking", unit="image", disable=None), strict=True):
        origin, types = origins[flag], present_types(read_pair(pair, len(class_names))[1], class_names)
        records.append(Record(name, origin, row.get("index", numbers[origin]), pair, types, row.get("seed")))
        numbers[origin] += 1
        with_defect |= {flag} if types else set()
    for flag, folder in folders.items():
        if flag not in with_defect:
            raise InputError(f"{flag} {folder}: no mask holds a defect, so there is nothing to export")
    return Export(records, {name: index for index, name in enumerate(class_names, start=1)}, settings, **options)


def safe_names(names: Iterable[str]) -> list[str]:
    """Each name in ASCII letters, digits, "-" and "_" only, and no two alike, on disks that do not tell case either."""
    safe: dict[str, str] = {}  # by the name in lower case
    for name in names:
        plain = unique = re.sub(r"[^A-Za-z0-9-]+", "_", name)
        count = 1
        while unique.lower() in safe:
            count += 1
            unique = f"{plain}_{count}"
        safe[unique.lower()] = unique
    return list(safe.values())


def write_export(out: str, name: str, layout: Layout, export: Export, about: dict[str, Any]) -> int:
    """Write `export` into the folder `out`; returns how many files had to be written: those that are there with the
    same content are left alone, so a run that was cut off goes on. What leads to other files is written last.

    name: of the format. about: where the export came from, for export.json. Raises InputError, before anything is
    written, where `out` holds what does not belong to this export."""
    records = [(record, files) for record in export.records if (files := layout.files(record))]
    paths = {*(path for _, files in records for path in files), *layout.index_files, EXPORT_FILE}

    check_lengths(paths, f"OUT {out}")

    def write(path: str, data: bytes) -> bool:
        return file_io.write_if_changed(bf.join(out, path), data, "OUT", "the same command goes on from there")

    def write_record(record: Record, files: Files) -> int:
        image, mask = read_pair(record.sample, MAX_TYPES)
        data = file_io.read_bytes(record.sample.image)
        # Copied: PNG files of 8-bit grey or RGB, unless EXIF (or XMP) rotates them.
        plain = data.startswith(b"\x89PNG\r\n\x1a\n") and data[24:26] in (b"\x08\0", b"\x08\2")
        if not plain or Image.open(io.BytesIO(data)).getexif().get(EXIF_ORIENTATION, 1) != 1:
            data = file_io.encode_png(image)
        return sum(write(path, make(mask) if make else data) for path, make in files.items())

    sources = {next(iter(files)): record.sample.image for record, files in records}
    content = {"format": name, **about, "label_map": export.label_map, "generation": export.settings, "files": sources}
    index_files = {**layout.index_files, EXPORT_FILE: file_io.as_json(content)}
    with file_io.lock_folder(out, "OUT"), ThreadPoolExecutor(WRITERS) as pool:
        _check_no_strangers(out, name, paths)
        check_no_links(out, paths)
        for folder in {bf.dirname(bf.join(out, path)) for path in paths}:
            file_io.remove_temporaries(folder)
        if not bf.exists(bf.join(out, EXPORT_FILE)):  # marks the folder as ours, should this run be cut off
            write(EXPORT_FILE, file_io.as_json({"format": name}))
        done = pool.map(write_record, *zip(*records, strict=True))
        written = sum(tqdm(done, "writing", len(records), unit="image", disable=None))
        return written + sum(write(path, data) for path, data in index_files.items())


def _check_no_strangers(out: str, name: str, expected: set[str]) -> None:
    """Refuse to write over or among files that are not of this export; hidden ones and readers' notes do not count."""
    walked = list(bf.walk(out))  # begins with OUT, perhaps spelled otherwise
    found = {bf.join(folder, file)[len(walked[0][0]) + 1 :] for folder, _, files in walked for file in files}
    found = {path for path in found if not path.endswith(LEFT_BY_READERS) and "/." not in f"/{path}"}
    content = file_io.read_json(bf.join(out, EXPORT_FILE)) if EXPORT_FILE in found else None
    theirs = content.get("format") if isinstance(content, dict) else None
    if found and theirs != name:
        what = f"holds an export as {theirs}" if theirs else "is not empty and holds no export"
    elif strangers := sorted(found - expected):
        what = f"holds {len(strangers)} files that are not of this export, such as {strangers[0]}"
    else:
        return
    raise InputError(f"OUT {out}: {what}; name a new folder, or remove what is there")
