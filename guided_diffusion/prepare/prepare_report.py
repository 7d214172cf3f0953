"""What prepare_data.py tells of what it found and made."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import combinations
from typing import Any

from .survey import HASH_BITS, Facts, alike


def report_leaks(parts: Sequence[str | None], sources: Sequence[str], facts: Sequence[Facts]) -> None:
    """Warn of images in different parts that look alike."""
    places = {part: [place for place, own in enumerate(parts) if own == part] for part in dict.fromkeys(parts) if part}
    lines = []
    for (part, ours), (other, theirs) in combinations(places.items(), 2):
        hashes = ([facts[place].perceptual_hash for place in side] for side in (ours, theirs))
        pairs = alike(*hashes)
        if pairs:
            i, j, bits = pairs[0]
            nearest = f"{sources[ours[i]]} and {sources[theirs[j]]}, {bits} of {HASH_BITS} bits"
            lines.append(f"  {part} and {other}: {len(pairs)} pairs; the nearest: {nearest}")
    if lines:
        print("warning: images in different parts look alike")
        print("\n".join(lines))
        print("  if they show one part, keep them together: --group_regex, --group_csv, or group in the split file")


def report_straddling(parts: Sequence[str | None], groups: Sequence[str | None]) -> None:
    """Warn of groups that a split file puts into several parts."""
    sides: dict[str, set[str]] = {}
    for part, group in zip(parts, groups, strict=True):
        if part and group is not None:
            sides.setdefault(group, set()).add(part)
    pairs = Counter(pair for own in sides.values() for pair in combinations(sorted(own), 2))
    for (part, other), count in pairs.items():
        print(f"warning: {count} groups stand both in {part} and in {other}: train on one and validate elsewhere")


def report_overlaps(facts: Sequence[Facts], label_map: Mapping[str, int], priority: str) -> None:
    images, pixels = Counter(), Counter()
    for fact in facts:
        images.update(fact.overlaps.keys())
        pixels.update(fact.overlaps)
    names = {index: name for name, index in label_map.items()}
    for (low, high), count in pixels.items():
        rule = f"decided by --priority {priority}" if priority else "the last drawn wins; --priority decides otherwise"
        print(f"overlap: {names[low]} and {names[high]} in {images[low, high]} images, {count:,} pixels ({rule})")


def report_part(out: str, records: Sequence[Mapping[str, Any]], written: int, removed: int) -> None:
    """One line on what a folder holds now."""
    counts = Counter(name for record in records for name in record.get("types", ()))
    good = sum("mask" not in record for record in records)
    empty = sum("mask" in record and not record["types"] for record in records)
    shown = [f"{name} {count}" for name, count in counts.items()]
    shown += [f"defect-free {good}"] * bool(good) + [f"empty mask {empty}"] * bool(empty)
    print(
        f"{out}: {len(records)} images ({', '.join(shown)}), {written or 'no'} files written"
        + f", {removed} removed" * bool(removed)
    )
