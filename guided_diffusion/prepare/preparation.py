"""From samples in any layout to prepared sets: looked at first, converted in parallel, continued after a kill."""

import hashlib
import json
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import blobfile as bf

from ..data.files import check_lengths, check_no_links, list_folder
from ..data.image_files import MAX_PLAUSIBLE_INDEX
from ..data.prepared import check_no_strangers, check_problems, clear_temporaries, write_pair
from ..data.records import DATASET_FILE, RELEASED, UNFINISHED_FILE, read_records
from ..errors import InputError, brief
from ..file_io import ensure_writable, read_bytes, remove_inside, write_json
from ..parallel import parallel_map
from . import shaping
from .check import look
from .layouts.drawing import decide_bits, read_labelled
from .layouts.model import DrawingRule
from .splits import Item


@dataclass(frozen=True)
class Recipe:
    """What to make of a sample's files: shaping.fit to size (H, W), or shaping.tiles; with neither, images keep their
    size."""

    label_map: Mapping[str, int]
    rule: DrawingRule
    fit: str | None
    size: tuple[int, int] | None
    tile: int | None
    overlap: int
    keep_empty: float
    seed: int


def look_first(
    items: Sequence[Item], label_map: Mapping[str, int] | None, rule: DrawingRule, *, workers: int
) -> tuple[dict[str, int], DrawingRule]:
    """Read every item once and set its record: the label map, made up where the data set does not name its types, and
    the rule with the bits of the images. Raises InputError where anything is wrong, before anything is written."""
    num_defect = len(label_map) if label_map else MAX_PLAUSIBLE_INDEX
    records = look([item.sample for item in items], num_defect, rule, workers=workers, why="checking")
    check_problems([record.problem for record in records if record.problem])
    rule = replace(rule, bits=decide_bits({record.image: record.top for record in records}, rule.bits))
    for item, record in zip(items, records, strict=True):
        item.record = record
    shown = {record.folder for record in records if record.types}
    if blank := [record for record in records if not record.good and record.folder not in shown]:
        which = f"{blank[0].mask}: like all masks {f'of {blank[0].folder}' if blank[0].folder else 'here'}"
        remedy = "call a folder of good ones good, or give 0/1 masks a `mask_threshold` of 0"
        raise InputError(f"{which}, shows no defect; {remedy}")
    if label_map:
        return dict(label_map), rule
    first = {index: record for record in reversed(records) for index in record.types}  # to show each type
    if gap := next((index for index in sorted(first) if index > 1 and index - 1 not in first), None):
        remedy = "a stray value? Correct it, or name all types with `label_map`"
        raise InputError(f"{first[gap].mask}: holds value {gap}, but no mask holds {gap - 1}: {remedy}")
    return {f"defect_{index}": index for index in sorted(first)}, rule


def check_no_other_kind(out: str, parts: Collection[str]) -> None:
    """Raise InputError where `out` is a set, or holds one, that is none of the parts to be written ("": `out` itself):
    its images may stand in another part now."""
    for part in sorted({"", *list_folder(out)[1]}.difference(parts)):
        if any(bf.exists(bf.join(out, part, name)) for name in (DATASET_FILE, UNFINISHED_FILE)):
            what = f"holds the data set {part}, which this run does not make" if part else "is a data set without parts"
            raise InputError(f"OUT {out}: {what}; give the flags that made it, delete it, or name another OUT")


def plan_set(
    root: str, items: Sequence[Item], recipe: Recipe, about: Mapping[str, Any], *, workers: int
) -> Callable[[], str]:
    """Look at what `root` holds, and write nothing yet. Returns what writes the set, UNFINISHED_FILE first, so that
    nothing trains, and says in a line what it holds. about: what stands in dataset.json beside label_map and images.
    Raises InputError where `root` holds another set, or a file in it was changed by hand."""
    named = {"label_map": dict(recipe.label_map)} if recipe.label_map else {}  # defect-free images alone have none
    content = json.loads(json.dumps({**named, **about}))
    check_no_links(root, (DATASET_FILE, UNFINISHED_FILE))
    check_lengths((f"{item.sample.name}{'_y00000_x00000' if recipe.tile else ''}.png" for item in items), root)
    unfinished = read_records(root, UNFINISHED_FILE)
    found = unfinished or read_records(root)
    for section, value in content.items() if found else ():
        there = found.get(section) or {}
        if key := next((key for key in (*value, *there) if there.get(key) != value.get(key)), None):
            theirs, ours = (brief(one[key]) if one.get(key) is not None else "none" for one in (there, value))
            told = f"{section} {key} is {theirs} there, {ours} in this run"
            remedy = "give the flags that made it, delete it, or name another OUT"
            raise InputError(f"{root}: already holds files of another data set: {told}; {remedy}")
    records = found.get("images", [])
    before, names = _files(records), [item.sample.name for item in items]
    check_no_links(root, [*before, *(f"{part}/{name}.png" for part in RELEASED for name in names)])
    if not (recipe.tile and found):  # where tiles were cut off, not all are noted
        check_no_strangers(root, {f"{name}.png" for name in names} | {path.partition("/")[2] for path in before})
    if not unfinished:  # else a run that was killed may have written others
        unchanged = partial(_check_unchanged, root)
        list(parallel_map(unchanged, before.items(), workers=workers, description="comparing"))

    def write() -> str:
        ensure_writable(root, "OUT")
        clear_temporaries(root, names)
        marker = bf.join(root, UNFINISHED_FILE)
        write_json(marker, {**content, "images": records})
        one = partial(convert, root, recipe)
        results = list(parallel_map(one, items, workers=workers, description=f"writing {root}"))
        new, written = [record for own, _ in results for record in own], sum(count for _, count in results)
        gone = sum(remove_inside(root, path, root) for path in sorted(before.keys() - _files(new).keys()))
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


def _files(records: Iterable[Mapping[str, Any]]) -> dict[str, str | None]:
    """The files of records, and their SHA-256."""
    return {r[kind]: r.get(f"{kind}_sha256") for r in records for kind in ("image", "mask") if kind in r}


def _check_unchanged(root: str, file: tuple[str, str | None]) -> None:
    """Raise InputError where a file of a finished set holds another thing than was written: somebody edited it."""
    path = bf.join(root, file[0])
    if bf.exists(path) and hashlib.sha256(read_bytes(path)).hexdigest() != file[1]:
        raise InputError(f"{path}: was changed after it was prepared; move it away, or name another OUT")


def convert(root: str, recipe: Recipe, item: Item) -> tuple[list[dict[str, Any]], int]:
    """Write what becomes of one item unless it is there: its records, and how many files were written."""
    sample = item.sample
    found = read_labelled(sample, len(recipe.label_map), recipe.rule)
    pair = found.image, found.pair()[1]
    pieces = [("", *(shaping.fit(*pair, recipe.size, recipe.fit) if recipe.fit else pair))]
    if recipe.tile:
        pieces = shaping.tiles(*pair, recipe.tile, recipe.overlap, recipe.keep_empty, f"{recipe.seed} {sample.name}")
    extra = {"source": item.source} | ({} if item.group is None else {"group": item.group})
    if recipe.fit:  # pixels of the photograph to one of the image, down and across
        sizes = zip(pair[1].shape, shaping.scaled_size(pair[1].shape, recipe.size, recipe.fit), strict=True)
        extra["scale"] = [round(before / after, 4) for before, after in sizes]
    records, written = [], 0
    for ending, piece, drawn in pieces:
        own = None if found.mask is None else drawn
        record, new = write_pair(root, sample.name + ending, piece, own, recipe.label_map)
        records.append(record | extra)
        written += new
    return records, written
