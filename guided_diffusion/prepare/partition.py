"""Which part and which group each image of a data set belongs to, by whatever the user gives."""

from __future__ import annotations

import re
from collections.abc import Sequence

from ..data.groups import read_groups
from ..errors import InputError, unknown_name
from .layouts import Sample
from .split_file import SplitFile, assign
from .splits import TRAIN, Item, by_fraction, by_shots
from .survey import Facts


def find_groups(names: Sequence[str], sources: Sequence[str], regex: str | None, csv: str | None) -> list[str | None]:
    """The group of each image by --group_regex (its first group, in the path) or --group_csv; None: nobody tells."""
    if csv:
        return list(read_groups(csv, names, "--group_csv"))
    groups: list[str | None] = [None] * len(names)
    if regex:
        for place, source in enumerate(sources):
            match = re.search(regex, source)
            if not match:
                raise InputError(f"--group_regex: {regex!r} finds nothing in {source}; correct it")
            groups[place] = match[1]
    return groups


def listed_parts(
    split: SplitFile | None,
    wanted: Sequence[str] | None,
    samples: Sequence[Sample],
    sources: Sequence[str],
    groups: list[str | None],
) -> list[str | None] | None:
    """The part of each sample by a split file, or by the layout where only some parts are `wanted`; without both None.

    "" stands for all wanted parts together, None for what is not listed or wanted. A split file's groups are filled
    into `groups` where these are None. Raises InputError for unknown parts.
    """
    if split is None and not wanted:
        return None
    parts: list[str | None] = [sample.part for sample in samples]
    if split:
        for place, entry in enumerate(assign(split, samples, sources)):
            parts[place] = None if entry is None else str(entry["part"])
            if entry and groups[place] is None and entry["group"] is not None:
                groups[place] = str(entry["group"])
    if not wanted:
        return parts
    known = {part for part, sample in zip(parts, samples, strict=True) if part and (split or sample.mask)}
    if not known:
        raise InputError("--part: SOURCE has no parts; give a split file with --split")
    for part in wanted:
        if part not in known:
            raise InputError(f"--part: {unknown_name('part', part, known)} in {split.path if split else 'SOURCE'}")
    return ["" if part in wanted else None for part in parts]


def parts_of(
    samples: Sequence[Sample],
    facts: Sequence[Facts],
    groups: Sequence[str | None],
    *,
    shots: int | None,
    val_fraction: float | None,
    seed: int,
) -> list[str | None]:
    """The part of each sample by --shots, --val_fraction, or as the layout has it; "": no parts, None: left out."""
    items = [
        Item(sample.folder, frozenset(fact.types or ()), group or f"\0{sample.name}", sample.mask is None)
        for sample, fact, group in zip(samples, facts, groups, strict=True)
    ]
    if shots is not None:
        return by_shots(items, shots)
    if val_fraction is not None:
        return by_fraction(items, val_fraction, seed)
    if any(sample.part for sample in samples if sample.mask is not None):
        return [sample.part or TRAIN for sample in samples]
    return [""] * len(samples)
