"""From samples in any layout to prepared sets: looked at first, converted in parallel, continued after a kill."""

from __future__ import annotations

import hashlib
import json
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from itertools import chain, combinations
from typing import Any

import blobfile as bf

from ..data.image_files import MAX_PLAUSIBLE_INDEX, open_image
from ..data.prepared import (
    DATASET_FILE,
    UNFINISHED_FILE,
    Sample,
    check_no_strangers,
    check_problems,
    clear_temporaries,
    read_records,
    write_pair,
)
from ..errors import InputError
from ..file_io import ensure_writable, read_bytes, write_json
from ..parallel import parallel_map
from . import shaping
from .check import Record, alike
from .layouts import ColourMask, Shapes, TypeMasks
from .layouts.drawing import DrawingRule, read_labelled
from .splits import Item
from .survey import HASH_BITS, look

NOTE_EVERY = 10.0  # seconds between notes of what is done


@dataclass(frozen=True)
class Recipe:
    """What decides, beside its files, what becomes of a sample.

    fit: one of shaping.FITS, with size (H, W). tile: side of square tiles, with overlap in pixels and the share
    `keep_empty` of tiles without a defect. Neither: images keep their size.
    """

    label_map: Mapping[str, int]
    rule: DrawingRule = field(default_factory=DrawingRule)
    fit: str | None = None
    size: tuple[int, int] | None = None
    tile: int | None = None
    overlap: int = 0
    keep_empty: float = 0.1
    seed: int = 0


def look_first(
    items: Sequence[Item], label_map: Mapping[str, int] | None, rule: DrawingRule, *, workers: int
) -> dict[str, int]:
    """Read every item once and set its record: the label map, made up where the data set does not name its types.

    Raises InputError where anything is wrong, so that it shows before anything is written.
    """
    num_defect = len(label_map) if label_map else MAX_PLAUSIBLE_INDEX
    records = look([item.sample for item in items], num_defect, rule, workers=workers, description="checking")
    check_problems([record.problem for record in records if record.problem])
    by_folder: dict[str | None, list[Item]] = {}
    first: dict[int, Record] = {}  # the first to show each type
    for item, record in zip(items, records, strict=True):
        item.record = record
        first = dict.fromkeys(record.types, record) | first
        if not record.good:
            by_folder.setdefault(record.folder, []).append(item)
    for folder, own in by_folder.items():
        if not any(item.record.types for item in own):
            text = "is empty; check them"
            if isinstance(own[0].sample.mask, TypeMasks):
                threshold = f"`mask_threshold` {rule.mask_threshold}"
                text = f"is nowhere above {threshold}; 0/1 masks need `mask_threshold` 0"
            raise InputError(f"{own[0].record.mask}: like all masks {f'of {folder}' if folder else 'here'}, {text}")
    for index in () if label_map else sorted(first):
        if index > 1 and index - 1 not in first:
            raise InputError(
                f"{first[index].mask}: holds value {index}, but no mask holds {index - 1}: a stray value, or a type "
                "that does not occur? Correct it, or name all types with `label_map`"
            )
    return dict(label_map or {f"defect_{index}": index for index in sorted(first)})


def plan_set(
    root: str, items: Sequence[Item], recipe: Recipe, about: Mapping[str, Any], *, workers: int
) -> Callable[[], tuple[list[dict[str, Any]], int, int]]:
    """Look at what `root` holds, and write nothing yet. Returns what writes the set, and then returns its records, how
    many files had to be written and how many removed; meanwhile UNFINISHED_FILE stands there, so that nothing trains.

    about: what stands in dataset.json beside label_map and images; another run must say the same to go on in `root`.
    Raises InputError where `root` holds something else, or a file in it was changed by hand.
    """
    content = json.loads(json.dumps({"label_map": dict(recipe.label_map), **about}))
    unfinished = read_records(root, UNFINISHED_FILE)
    found = unfinished or read_records(root)
    for key, value in content.items():
        if found and found.get(key) != value:
            former, new = (json.dumps(one, ensure_ascii=False)[:120] for one in (found.get(key), value))
            raise InputError(
                f"{root}: already holds files of another data set: its {key} is {former}, not {new}; name another OUT "
                "or remove this one"
            )
    records = found.get("images", [])
    expected = {f"{item.sample.name}.png" for item in items}
    if not (recipe.tile and found):  # where tiles were cut off, not all are noted
        check_no_strangers(root, expected | {str(record.get("image", "")).partition("/")[2] for record in records})
    there = parallel_map(partial(_is_there, root), records, workers=workers, description="comparing")
    former: dict[str, list[dict[str, Any]]] = {}  # by source; key None: a file is not there
    for record, whole in zip(records, there, strict=True):
        former.setdefault(record["source"], []).append(record if whole else {**record, "key": None})
    finished = {} if unfinished else found

    def write() -> tuple[list[dict[str, Any]], int, int]:
        ensure_writable(root, "OUT")
        clear_temporaries(root, [item.sample.name for item in items])
        marker, left = bf.join(root, UNFINISHED_FILE), dict(former)
        new: list[dict[str, Any]] = []
        written, noted = 0, time.monotonic()
        write_json(marker, {**content, "images": [*chain.from_iterable(left.values())]})
        jobs = [(item, former.get(item.source, ())) for item in items]
        results = parallel_map(partial(convert, root, recipe), jobs, workers=workers, description=f"writing {root}")
        for item, (own, count) in zip(items, results, strict=True):
            new += own
            written += count
            left.pop(item.source, None)
            if time.monotonic() - noted >= NOTE_EVERY:
                write_json(marker, {**content, "images": [*new, *chain.from_iterable(left.values())]})
                noted = time.monotonic()
        before, now = (
            {record[kind] for record in some for kind in ("image", "mask") if kind in record} for some in (records, new)
        )
        gone = [path for path in sorted(before - now) if bf.exists(bf.join(root, path))]
        for path in gone:
            bf.remove(bf.join(root, path))
        if finished != {**content, "images": new}:
            write_json(bf.join(root, DATASET_FILE), {**content, "images": new})
            written += 1
        bf.remove(marker)
        return new, written, len(gone)

    return write


def convert(root: str, recipe: Recipe, job: tuple[Item, Sequence[dict[str, Any]]]) -> tuple[list[dict[str, Any]], int]:
    """Write what becomes of one item unless it is there: its records, and how many files were written.

    job: the item, and its former records.
    """
    (item, former), sample = job, job[0].sample
    key = _key(sample, recipe)
    extra = {"source": item.source, "key": key} | ({} if item.group is None else {"group": item.group})
    if former and all(record["key"] == key for record in former):
        return [{**{k: v for k, v in record.items() if k != "group"}, **extra} for record in former], 0
    found = read_labelled(sample, len(recipe.label_map), recipe.rule)
    pieces = [("", found.image, found.mask)]
    if recipe.fit:
        pieces = [("", *shaping.fit(found.image, found.mask, recipe.size, recipe.fit))]
    elif recipe.tile:
        draw = f"{recipe.seed} {sample.name}"
        pieces = shaping.tiles(found.image, found.mask, recipe.tile, recipe.overlap, recipe.keep_empty, draw)
    records, written = [], 0
    for ending, image, mask in pieces:
        record, new = write_pair(root, sample.name + ending, image, mask, recipe.label_map)
        records.append(record | extra)
        written += new
    return records, written


def _key(sample: Sample, recipe: Recipe) -> str:
    """A hash of all that decides what becomes of a sample."""
    digest = hashlib.sha256(json.dumps(asdict(recipe), sort_keys=True).encode())
    digest.update(read_bytes(sample.image))
    mask = sample.mask
    if isinstance(mask, Shapes):
        digest.update(repr((mask.shapes, mask.size)).encode())
    elif isinstance(mask, TypeMasks):
        for index, path in mask.files:
            digest.update(str(index).encode() + read_bytes(path))
    elif mask is not None:
        digest.update(read_bytes(mask.path))
        digest.update(repr(sorted(mask.colours.items())).encode() if isinstance(mask, ColourMask) else b"")
    return digest.hexdigest()


def _is_there(root: str, record: Mapping[str, Any]) -> bool:
    """Whether the files of a record hold what was written. Raises InputError where they are other, whole images."""
    for kind in {"image", "mask"} & record.keys():
        path = bf.join(root, record[kind])
        if not bf.exists(path):
            return False
        if hashlib.sha256(read_bytes(path)).hexdigest() != record.get(f"{kind}_sha256"):
            try:
                open_image(path)
            except InputError:
                return False
            raise InputError(
                f"{path}: was changed after it was prepared; move it away to have it made anew, or name another OUT"
            )
    return True


def report_split(items: Sequence[Item]) -> None:
    """Warn of groups that a split file puts into several parts, and of images in different parts that look alike."""
    sides: dict[str, set[str]] = {}
    parts: dict[str, list[Item]] = {}
    for item in items:
        if item.part:
            parts.setdefault(item.part, []).append(item)
            if item.group is not None:
                sides.setdefault(item.group, set()).add(item.part)
    straddling = Counter(pair for own in sides.values() for pair in combinations(sorted(own), 2))
    for (part, other), count in straddling.items():
        print(f"warning: {count} groups stand both in {part} and in {other}: train on one and validate elsewhere")
    leaks = []
    for (part, ours), (other, theirs) in combinations(parts.items(), 2):
        if pairs := alike(*([item.record for item in side] for side in (ours, theirs))):
            i, j, bits = pairs[0]
            nearest = f"{ours[i].source} and {theirs[j].source}, {bits} of {HASH_BITS} bits"
            leaks.append(f"  {part} and {other}: {len(pairs)} pairs; the nearest: {nearest}")
    if leaks:
        print("warning: images in different parts look alike", *leaks, sep="\n")
        print("  if they show one part, keep them together: --group_regex, --group_csv, or group in the split file")


def report_set(root: str, records: Sequence[Mapping[str, Any]], written: int, removed: int) -> None:
    """One line on what a folder holds now."""
    counts = Counter(name for record in records for name in record.get("types", ()))
    counts["defect-free"] = sum("mask" not in record for record in records)
    counts["empty mask"] = sum("mask" in record and not record["types"] for record in records)
    shown = ", ".join(f"{name} {count}" for name, count in counts.items() if count)
    gone = f", {removed} removed" if removed else ""
    print(f"{root}: {len(records)} images ({shown}), {written or 'no'} files written{gone}")
