"""From samples in any layout to prepared sets: looked at first, converted in parallel, continued after a kill."""

import hashlib
import json
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from typing import Any

import blobfile as bf

from ..data.files import check_no_links
from ..data.image_files import MAX_PLAUSIBLE_INDEX
from ..data.prepared import Sample, check_no_strangers, check_problems, clear_temporaries, write_pair
from ..data.records import DATASET_FILE, RELEASED, UNFINISHED_FILE, read_records
from ..errors import InputError
from ..file_io import ensure_writable, read_bytes, remove_inside, write_json
from ..parallel import parallel_map
from . import shaping
from .check import Record
from .layouts import ColourMask, Shapes, TypeMasks
from .layouts.drawing import decide_bits, read_labelled
from .layouts.mask_values import Values
from .layouts.model import DrawingRule
from .splits import Item
from .survey import look


@dataclass(frozen=True)
class Recipe:
    """What decides, beside its files, what becomes of a sample.

    fit: one of shaping.FITS, with size (H, W). tile: side of square tiles, with overlap in pixels and the share
    `keep_empty` of tiles without a defect. Neither: images keep their size.
    """

    label_map: Mapping[str, int]
    rule: DrawingRule
    fit: str | None
    size: tuple[int, int] | None
    tile: int | None
    overlap: int
    keep_empty: float
    seed: int


def look_first(
    items: Sequence[Item],
    label_map: Mapping[str, int] | None,
    rule: DrawingRule,
    *,
    seen: Mapping[str, Values] | None = None,
    workers: int,
) -> tuple[dict[str, int], DrawingRule]:
    """Read every item once and set its record: the label map, made up where the data set does not name its types, and
    the rule with the bits of the images.

    Raises InputError where anything is wrong, so that it shows before anything is written.
    """
    num_defect = len(label_map) if label_map else MAX_PLAUSIBLE_INDEX
    samples = [item.sample for item in items]
    records = look(samples, num_defect, rule, seen=seen, workers=workers, description="checking")
    check_problems([record.problem for record in records if record.problem])
    rule = replace(rule, bits=decide_bits({record.image: record.top for record in records}, rule.bits))
    folders: dict[str | None, list[Record]] = defaultdict(list)
    for item, record in zip(items, records, strict=True):
        item.record = record
        if not record.good:
            folders[record.folder].append(record)
    for folder, own in folders.items():
        if not any(record.types for record in own):
            which = f"{own[0].mask}: like all masks {f'of {folder}' if folder else 'here'}"
            raise InputError(f"{which}, shows no defect; check them, or give 0/1 masks a `mask_threshold` of 0")
    if label_map:
        return dict(label_map), rule
    first = {index: record for record in reversed(records) for index in record.types}  # to show each type
    for index in sorted(first):
        if index > 1 and index - 1 not in first:
            raise InputError(
                f"{first[index].mask}: holds value {index}, but no mask holds {index - 1}: a stray value, or a type "
                "that does not occur? Correct it, or name all types with `label_map`"
            )
    return {f"defect_{index}": index for index in sorted(first)}, rule


def plan_set(
    root: str, items: Sequence[Item], recipe: Recipe, about: Mapping[str, Any], *, workers: int
) -> Callable[[], str]:
    """Look at what `root` holds, and write nothing yet. Returns what writes the set and then says in a line what it
    holds; meanwhile UNFINISHED_FILE stands there, so that nothing trains.

    about: what stands in dataset.json beside label_map and images; another run must say the same to go on in `root`.
    Raises InputError where `root` holds something else, or a file in it was changed by hand.
    """
    content = json.loads(json.dumps({"label_map": dict(recipe.label_map), **about}))
    check_no_links(root, (DATASET_FILE, UNFINISHED_FILE))
    unfinished = read_records(root, UNFINISHED_FILE)
    found = unfinished or read_records(root)
    if other := ", ".join(key for key, value in content.items() if found and found.get(key) != value):
        remedy = f"{DATASET_FILE} tells another {other}; name another OUT or remove this one"
        raise InputError(f"{root}: already holds files of another data set: its {remedy}")
    records = found.get("images", [])
    names = [item.sample.name for item in items]
    check_no_links(root, (record[kind] for record in records for kind in ("image", "mask") if kind in record))
    check_no_links(root, (f"{part}/{name}.png" for part in RELEASED for name in names))
    if not (recipe.tile and found):  # where tiles were cut off, not all are noted
        known = {record["image"].partition("/")[2] for record in records}
        check_no_strangers(root, {f"{name}.png" for name in names} | known)
    is_there = partial(_is_there, root, finished=not unfinished)
    former: dict[str, list[dict[str, Any]]] = defaultdict(list)  # by source; key None: a file is not there
    there = parallel_map(is_there, records, workers=workers, description="comparing")
    for record, whole in zip(records, there, strict=True):
        former[record.get("source", "")].append(record if whole else record | {"key": None})

    def write() -> str:
        ensure_writable(root, "OUT")
        clear_temporaries(root, names)
        marker = bf.join(root, UNFINISHED_FILE)
        write_json(marker, {**content, "images": records})
        jobs = [(item, former.get(item.source, [])) for item in items]
        one = partial(convert, root, recipe)
        results = list(parallel_map(one, jobs, workers=workers, description=f"writing {root}"))
        new = [record for own, _ in results for record in own]
        written = sum(count for _, count in results)
        before, now = ({r[kind] for r in some for kind in ("image", "mask") if kind in r} for some in (records, new))
        gone = sum(remove_inside(root, path, root) for path in sorted(before - now))
        if unfinished or found != {**content, "images": new}:
            write_json(bf.join(root, DATASET_FILE), {**content, "images": new})
            written += 1
        bf.remove(marker)
        counts = Counter(name for record in new for name in record.get("types", ()))
        counts["defect-free"] = sum("mask" not in record for record in new)
        counts["empty mask"] = sum("mask" in record and not record["types"] for record in new)
        shown = ", ".join(f"{name} {count}" for name, count in counts.items() if count)
        removed = f", {gone} removed" if gone else ""
        return f"{root}: {len(new)} images ({shown}), {written or 'no'} files written{removed}"

    return write


def _is_there(root: str, record: Mapping[str, Any], *, finished: bool) -> bool:
    """Whether the files of a record hold what was written. Raises InputError where a finished set's hold another thing:
    somebody edited them."""
    for kind in {"image", "mask"} & record.keys():
        path = bf.join(root, record[kind])
        if not bf.exists(path):
            return False
        if hashlib.sha256(read_bytes(path)).hexdigest() != record.get(f"{kind}_sha256"):
            if finished:
                text = "was changed after it was prepared; move it away to have it made anew, or name another OUT"
                raise InputError(f"{path}: {text}")
            return False  # by a run that was killed
    return True


def convert(root: str, recipe: Recipe, job: tuple[Item, Sequence[dict[str, Any]]]) -> tuple[list[dict[str, Any]], int]:
    """Write what becomes of one item unless it is there: its records, and how many files were written.

    job: the item, and its former records.
    """
    (item, former), sample = job, job[0].sample
    key = _key(sample, recipe)
    extra = {"source": item.source, "key": key} | ({} if item.group is None else {"group": item.group})
    if former and all(record.get("key") == key for record in former):
        return [{**{k: v for k, v in record.items() if k != "group"}, **extra} for record in former], 0
    found = read_labelled(sample, len(recipe.label_map), recipe.rule)
    image, mask = found.image, found.pair()[1]
    pieces = [("", image, mask)]
    if recipe.fit:
        pieces = [("", *shaping.fit(image, mask, recipe.size, recipe.fit))]
    elif recipe.tile:
        draw = f"{recipe.seed} {sample.name}"
        pieces = shaping.tiles(image, mask, recipe.tile, recipe.overlap, recipe.keep_empty, draw)
    records, written = [], 0
    for ending, piece, drawn in pieces:
        own = None if found.mask is None else drawn
        record, new = write_pair(root, sample.name + ending, piece, own, recipe.label_map)
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
        told = sorted(mask.colours.items()) if isinstance(mask, ColourMask) else (mask.void, mask.numbers)
        digest.update(b"" if told == (None, ()) else repr(told).encode())
    return digest.hexdigest()
