"""Images that are there twice: equal files, pictures that are nearly equal, and those on both sides of a split."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

from .check import NOTE, WARNING, Finding
from .data_check_facts import Record
from .survey import HASH_BITS, alike

# Bits of the perceptual hash. Of 700,000 pairs of drawn demo images, which are as alike as parts in one pose, none is
# that close; of the pairs of photographs of one magnetic tile under other exposures a tenth, so that a leak shows.
NEARLY_EQUAL = 2
BLOCK = 256  # images compared with all others at a time: bounds the memory
MOST, MANY = 0.5, 10  # share and number of the images in one group, above which the hash cannot tell them apart


def find_duplicates(records: Sequence[Record], where: str) -> list[Finding]:
    """Findings on equal and nearly equal images; those with defects are also compared between parts (record.part)."""
    readable = [record for record in records if not record.facts.problem]
    found = _equal_files(readable)
    # A picture without any structure hashes to zeros, like all its kind.
    samples = [r for r in readable if not r.good and int(r.facts.perceptual_hash, 16)]
    groups, leaks = _nearly_equal(samples)
    if groups and len(groups[0]) > max(MANY, MOST * len(samples)):
        text = (
            f"{len(groups[0])} of {len(samples)} images look alike on a coarse grid, as parts in one pose do: "
            "near-copies cannot be told from others here; name what belongs together when you split "
            "(scripts/prepare_data.py --group_regex)"
        )
        return [*found, Finding(NOTE, "all_alike", (where,), text)]
    if leaks:
        held, trained = leaks[0]
        text = (
            f"shows the same as {trained.image} in part {trained.part or 'train'}: a leak, figures on {held.part} come "
            "out too good; keep photographs of one part on one side (scripts/prepare_data.py splits so)"
        )
        found.append(Finding(WARNING, "leak", tuple(held.image for held, _ in leaks), text))
    elif groups:
        files = tuple(record.image for own in groups for record in own)
        text = (
            f"nearly equals {groups[0][1].image}; {len(files)} images have such a double: keep these on one side of a "
            "split (scripts/prepare_data.py does)"
        )
        found.append(Finding(NOTE, "alike", files, text))
    return found


def _equal_files(records: Sequence[Record]) -> list[Finding]:
    """Files of the same content; between parts that is a leak too, which the pictures tell."""
    same: dict[str, list[Record]] = defaultdict(list)
    for record in records:
        same[record.facts.sha256].append(record)
    copies = [own for own in same.values() if len(own) > 1]
    if not copies:
        return []
    first, second = copies[0][:2]
    sides = "" if first.part == second.part else f" in part {first.part or 'train'}, a leak"
    text = f"is the same file as {first.image}{sides}; merge their masks, or remove one"
    files = [record.image for own in copies for record in own[1:]]
    return [Finding(WARNING, "equal_files", (second.image, *files[1:]), text)]


def _nearly_equal(records: Sequence[Record]) -> tuple[list[list[Record]], list[tuple[Record, Record]]]:
    """Groups of two or more, connected by nearly equal pairs, largest first; and (held out, trained) pairs of different
    parts, the nearest of each held-out image, nearest first."""
    hashes = [record.facts.perceptual_hash for record in records]
    parent = list(range(len(records)))
    nearest: dict[int, tuple[int, int]] = {}  # held-out image: (bits, training image)

    def root(i: int) -> int:
        while parent[i] != i:
            parent[i] = parent[parent[i]]
            i = parent[i]
        return i

    for start in range(0, len(hashes), BLOCK):
        for i, j, bits in alike(hashes[start : start + BLOCK], hashes[start:], NEARLY_EQUAL):
            i, j = start + i, start + j
            if i == j:
                continue
            parent[root(j)] = root(i)
            parts = [records[k].part or "train" for k in (i, j)]
            if parts[0] != parts[1]:
                trained, held = (i, j) if parts[0] == "train" else (j, i)
                nearest[held] = min(nearest.get(held, (HASH_BITS, trained)), (bits, trained))
    members: dict[int, list[Record]] = defaultdict(list)
    for i, record in enumerate(records):
        members[root(i)].append(record)
    groups = sorted((own for own in members.values() if len(own) > 1), key=len, reverse=True)
    leaks = [(records[held], records[trained]) for held, (_, trained) in sorted(nearest.items(), key=lambda x: x[1][0])]
    return groups, leaks
