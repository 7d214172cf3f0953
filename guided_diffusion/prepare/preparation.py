"""From samples in any layout to data sets in the released one: converted in parallel, and continued after a kill."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from typing import Any

import blobfile as bf

from ..data.image_files import open_image
from ..data.index_masks import DrawingRule, read_labelled
from ..data.prepared import check_no_strangers, clear_temporaries, read_records, write_pair
from ..errors import InputError
from ..file_io import ensure_writable, read_bytes, write_json
from ..parallel import parallel_map
from . import shaping
from .layouts import DATASET_FILE, UNFINISHED_FILE, ColourMask, IndexMask, Sample, Shapes, TypeMasks

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


@dataclass(frozen=True)
class Job:
    """A sample to convert. source: its path for the record. group: of images that show one part.

    former: what a run before noted of it, with the key None where a file is not there.
    """

    sample: Sample
    source: str
    group: str | None = None
    former: tuple[dict[str, Any], ...] = ()


@dataclass(frozen=True)
class Plan:
    """A data set to be written into `root`.

    content: dataset.json but for its images. former: the records of a run before, by source. finished: what
    dataset.json holds already, {} where there is none.
    """

    root: str
    jobs: Sequence[Job]
    recipe: Recipe
    content: Mapping[str, Any]
    former: Mapping[str, Sequence[dict[str, Any]]]
    finished: Mapping[str, Any]


def plan_set(root: str, jobs: Sequence[Job], recipe: Recipe, about: Mapping[str, Any], *, workers: int) -> Plan:
    """Look at what `root` holds, and write nothing yet.

    about: what stands in dataset.json beside label_map and images; another run must say the same to go on in `root`.
    Raises InputError where it holds something else, or a file in it was changed by hand.
    """
    content = json.loads(json.dumps({"label_map": dict(recipe.label_map), **about}))
    found, finished = read_records(root)
    _check_same(root, found, content)
    records = found.get("images", [])
    expected = {f"{job.sample.name}.png" for job in jobs} | {_file(record) for record in records}
    if not (recipe.tile and found):  # where tiles were cut off, not all are noted
        check_no_strangers(root, expected)
    there = parallel_map(partial(_is_there, root), records, workers=workers, description="comparing")
    former: dict[str, list[dict[str, Any]]] = {}
    for record, whole in zip(records, there, strict=True):
        former.setdefault(record["source"], []).append(record if whole else {**record, "key": None})
    jobs = [replace(job, former=tuple(former.get(job.source, ()))) for job in jobs]
    return Plan(root, jobs, recipe, content, former, found if finished else {})


def write_set(plan: Plan, *, workers: int) -> tuple[list[dict[str, Any]], int, int]:
    """Write a data set in the released layout: its records, how many files had to be written, and how many removed,
    because their source is gone or gives them no longer.

    While the set is incomplete, UNFINISHED_FILE stands in it, so that nothing trains on it.
    """
    root, left = plan.root, dict(plan.former)
    ensure_writable(root, "OUT")
    clear_temporaries(root, [job.sample.name for job in plan.jobs])
    marker = bf.join(root, UNFINISHED_FILE)

    def note(records: Sequence[Mapping[str, Any]]) -> None:
        write_json(marker, {**plan.content, "images": [*records, *(record for own in left.values() for record in own)]})

    note([])
    noted = time.monotonic()
    records: list[dict[str, Any]] = []
    written = 0
    results = parallel_map(
        partial(convert, root, plan.recipe), plan.jobs, workers=workers, description=f"writing {root}"
    )
    for job, (new, count) in zip(plan.jobs, results, strict=True):
        records += new
        written += count
        left.pop(job.source, None)
        if time.monotonic() - noted > NOTE_EVERY:
            note(records)
            noted = time.monotonic()
    formerly = [record for own in plan.former.values() for record in own]
    gone = sorted({*_files(formerly)} - {*_files(records)})
    gone = [path for path in gone if bf.exists(bf.join(root, path))]
    for path in gone:
        bf.remove(bf.join(root, path))
    content = {**plan.content, "images": records}
    if plan.finished != content:
        write_json(bf.join(root, DATASET_FILE), content)
        written += 1
    bf.remove(marker)
    return records, written, len(gone)


def _files(records: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """The files of records, below the data set's folder."""
    return (record[kind] for record in records for kind in ("image", "mask") if kind in record)


def convert(root: str, recipe: Recipe, job: Job) -> tuple[list[dict[str, Any]], int]:
    """Write what becomes of one sample unless it is there: its records, and how many files were written."""
    sample = job.sample
    key = _key(sample, recipe)
    if job.former and all(record["key"] == key for record in job.former):
        return [_with_group(record, job.group) for record in job.former], 0
    num_defect = len(recipe.label_map)
    found = read_labelled(sample, num_defect, recipe.rule)
    image, mask = found.image, found.mask
    if recipe.fit:
        pieces = [("", *shaping.fit(image, mask, recipe.size, recipe.fit))]
    elif recipe.tile:
        draw = f"{recipe.seed} {sample.name}"
        pieces = shaping.tiles(image, mask, recipe.tile, recipe.overlap, recipe.keep_empty, draw)
    else:
        pieces = [("", image, mask)]
    records, written = [], 0
    for ending, piece, piece_mask in pieces:
        record, new = write_pair(root, sample.name + ending, piece, piece_mask, recipe.label_map)
        record |= {"source": job.source, "key": key}
        records.append(_with_group(record, job.group))
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
    elif isinstance(mask, (IndexMask, ColourMask)):
        digest.update(read_bytes(mask.path))
        digest.update(repr(sorted(mask.colours.items())).encode() if isinstance(mask, ColourMask) else b"")
    return digest.hexdigest()


def _is_there(root: str, record: Mapping[str, Any]) -> bool:
    """Whether the files of a record hold what was written. Raises InputError where they are other, whole images."""
    for kind in ("image", "mask"):
        if kind not in record:
            continue
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


def _with_group(record: Mapping[str, Any], group: str | None) -> dict[str, Any]:
    kept = {key: value for key, value in record.items() if key != "group"}
    return kept if group is None else {**kept, "group": group}


def _file(record: Mapping[str, Any]) -> str:
    """A record's file below test/."""
    return str(record.get("image", "")).partition("/")[2]


def _check_same(root: str, former: Mapping[str, Any], content: Mapping[str, Any]) -> None:
    """Refuse to go on in a folder that was prepared in another way."""
    if not former:
        return
    for key, value in content.items():
        if former.get(key) != value:
            raise InputError(
                f"{root}: already holds files of another data set: its {key} is {_short(former.get(key))}, not "
                f"{_short(value)}; name another OUT or remove this one"
            )


def _short(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 120 else text[:117] + "..."
