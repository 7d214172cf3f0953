"""Which images train and which are held out, so that photographs of one object never stand on both sides."""

import re
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import numpy as np
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from ..data.files import read_groups, read_rows
from ..data.prepared import TRAIN, FirstShots, Sample
from ..data.records import check_label_map
from ..errors import InputError, brief, unknown_name
from ..file_io import read_json
from ..keyed_random import numpy_generator
from .check import ALIKE, MANY, NEARLY_EQUAL, Record, alike, near_pairs

VAL = "val"
# What a split file tells of an image, and of what kinds.
ENTRY = {"part": (str, int)} | dict.fromkeys(("type", "group", "tile"), (str, int, type(None)))
NOT_IN_NAMES = {*'/\\:*?"<>|'}  # of folders, on some system


@dataclass
class Item:
    """An image to be prepared. source: its path below SOURCE. group: of images that show one object, None: unknown.
    part: the folder of OUT that it goes to, "": OUT itself, None: it is left out. record: once it was looked at."""

    sample: Sample
    source: str
    group: str | None = None
    part: str | None = ""
    record: Record | None = None

    @property
    def object(self) -> str:
        """What it shows: its group, or itself."""
        return self.group or f"\0{self.sample.name}"


def read_split(path: str) -> tuple[dict[str, dict[str, Any]], dict[str, int] | None]:
    """{image path below SOURCE: {"part": ...}}, maybe with `type` and `group` or `tile`; and the label map, if told. Of
    JSON {"label_map": ..., "files": ...}, or CSV with rows image,part. Raises InputError."""
    if path.lower().endswith(".csv"):
        rows, content = read_rows(path), {}
        rows = rows[1:] if rows and rows[0][1:] == ["part"] else rows  # a head
        files = {row[0]: {"part": row[1]} for row in rows if len(row) == 2}
        if not rows or len(files) != len(rows):
            raise InputError(f"{path}: should hold rows 'image,part', each image once; correct it")
    else:
        content = read_json(path)
        files = content.get("files") if isinstance(content, dict) else None
        if not isinstance(files, dict) or not files:
            raise InputError(f"{path}: should hold 'files': {{image path: {{'part': ..., 'type': ...}}}}")
    for file, entry in files.items():
        told = entry if isinstance(entry, dict) else {}
        if wrong := [key for key, kinds in ENTRY.items() if type(told.get(key)) not in kinds]:
            raise InputError(f"{path}: the {wrong[0]} of {brief(file)} is {brief(told.get(wrong[0]))}; correct it")
        part = str(told["part"])
        if not part.isprintable() or not part.strip(" .") or part.strip(" .") != part or NOT_IN_NAMES & {*part}:
            raise InputError(f"{path}: the part {brief(part)} of {brief(file)} can be no folder; name it otherwise")
    label_map = content.get("label_map")
    return files, None if label_map is None else check_label_map(label_map, path)


def apply_split(path: str, files: Mapping[str, Mapping[str, Any]], items: Sequence[Item]) -> None:
    """Set the part of each item, None for those that the split file `path` does not list, and its group. Raises
    InputError where it lists what is not there, or a type other than that of the item's folder."""
    sources = {item.source for item in items}
    if missing := [file for file in files if file not in sources]:
        raise InputError(f"{path}: lists {missing[0]}, which SOURCE does not hold; correct either")
    for item in items:
        entry, folder = files.get(item.source, {}), item.sample.folder
        named, group = entry.get("type"), entry.get("group", entry.get("tile"))
        if None not in (named, folder) and str(named) != folder:
            raise InputError(f"{path}: calls {item.source} a {named}, its folder {folder}; correct either")
        item.part = str(entry["part"]) if entry else None
        item.group = str(group) if item.group is None and group is not None else item.group


def take_parts(items: Sequence[Item], wanted: Sequence[str]) -> None:
    """Send the items of the `wanted` parts to OUT itself, and leave out the others. Raises InputError."""
    known = {item.part for item in items if item.part}
    if not known:
        raise InputError("`part`: SOURCE has no parts; give a split file with `split`")
    if unknown := [part for part in wanted if part not in known]:
        raise InputError(f"`part`: {unknown_name('part', unknown[0], known)}")
    for item in items:
        item.part = "" if item.part in wanted else None


def find_groups(items: Sequence[Item], regex: str | None, groups_file: str | None) -> None:
    """Set the group of each item by a regular expression (its first group, in the path) or a file of groups."""
    if groups_file:
        groups = read_groups(groups_file, [item.sample.name for item in items], "`group_csv`")
        for item, group in zip(items, groups, strict=True):
            item.group = group
    elif regex:
        for item in items:
            if not (match := re.search(regex, item.source)):
                raise InputError(f"`group_regex`: {regex!r} finds nothing in {item.source}; correct it")
            item.group = match[1]


def group_alike(items: Sequence[Item]) -> int:
    """Group the images that look alike, whoever stands between them; returns how many are in a group with others. The
    limit of the hash falls until no group holds most images, as where parts stand in one pose; at last only copies of a
    file are alike."""
    records = [item.record for item in items]
    bits, pairs = near_pairs(records, records, ALIKE)
    files = np.unique([record.sha256 for record in records], return_inverse=True)[1]
    copies = files[pairs[:, 0]] == files[pairs[:, 1]]
    for limit in (*range(ALIKE, NEARLY_EQUAL - 1, -2), None):
        first, second = pairs[copies if limit is None else bits <= limit].T
        links = coo_array((np.ones(len(first)), (first, second)), shape=(len(items), len(items)))
        places = connected_components(links, directed=False)[1]
        sizes = np.bincount(places)
        if 2 * sizes.max() <= len(items) or sizes.max() <= min(MANY, len(items) - 1):
            break
    names: dict[int, str] = {}
    for item, place in zip(items, places.tolist(), strict=True):
        if sizes[place] > 1:
            item.group = names.setdefault(place, item.source)
    return int(sizes[sizes > 1].sum())


def split_by_shots(items: Sequence[Item], count: int) -> None:
    """TRAIN for the first `count` images per type and defect-free ones; VAL for others, None if their object trains."""
    shots = FirstShots(count)
    defective = [item for item in items if not item.record.good]
    for item in defective:
        item.part = TRAIN if shots.takes(item.record.folder, item.record.types.keys()) else VAL
    trained = {item.object for item in defective if item.part == TRAIN}
    held_out = {item.object for item in defective} - trained
    for item in items:
        own = TRAIN if item.record.good else item.part
        item.part = None if item.object in (held_out if own == TRAIN else trained) else own


def split_by_fraction(items: Sequence[Item], fraction: float, seed: int) -> None:
    """VAL for about `fraction` of each type's images, whole groups at a time, TRAIN for the rest. The rarest type
    chooses first, among its groups in an order that depends on `seed` alone; one of several groups keeps one on either
    side. Images with an empty mask and defect-free ones are spread like types."""
    kinds: dict[str, Counter[object]] = defaultdict(Counter)  # of each group
    for item in items:
        kinds[item.object].update(item.record.types.keys() or (("good",) if item.record.good else ("empty",)))
    order = list(kinds)
    numpy_generator("split", seed).shuffle(order)
    totals: Counter[object] = sum(kinds.values(), Counter())
    left = Counter(kind for own in kinds.values() for kind in own)  # groups of each kind that train
    held: set[str] = set()
    for kind in sorted(totals, key=lambda kind: (totals[kind], str(kind))):
        own = [group for group in order if kinds[group][kind]]
        count = sum(kinds[group][kind] for group in own if group in held)
        for group in own:
            missing = fraction * totals[kind] - count
            if group in held or missing <= 0 or any(left[other] < 2 for other in kinds[group]):
                continue
            if kinds[group][kind] <= 2 * missing or count == 0:  # nearer to the target with it than without
                held.add(group)
                left.subtract(kinds[group].keys())
                count += kinds[group][kind]
    for item in items:
        item.part = VAL if item.object in held else TRAIN


def report_split(items: Sequence[Item]) -> None:
    """Warn of groups that a split file puts into several parts, and of images in different parts that look alike."""
    sides: dict[str, set[str]] = defaultdict(set)
    parts: dict[str, list[Record]] = defaultdict(list)
    for item in items:
        if item.part:
            parts[item.part].append(item.record)
            if item.group is not None:
                sides[item.group].add(item.part)
    straddling = Counter(pair for own in sides.values() for pair in combinations(sorted(own), 2))
    for (part, other), count in straddling.items():
        print(f"warning: {count} groups stand both in {part} and in {other}: train on one and validate elsewhere")
    for part, other, pairs in alike(parts):
        nearest = " and ".join(record.image for record in pairs[0])
        remedy = "keep what shows one part together: --group_regex, --group_csv or the split file"
        print(f"warning: {len(pairs)} pairs of images of {part} and {other} look alike, as {nearest}; {remedy}")
