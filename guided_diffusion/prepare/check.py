"""What is wrong or odd in a data set, by what is known of its samples. Every rule stands here once.

scripts/check_data.py applies all of them; training, before step 0, those that the masks in memory tell.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations
from statistics import median
from typing import TYPE_CHECKING

import numpy as np

from ..data.prepared import TRAIN

if TYPE_CHECKING:
    from ..data.image_datasets import DefectDataset

ERROR, WARNING, NOTE = "error", "warning", "note"
FEW_PIXELS = 4  # a type whose median image holds fewer is hardly learned
FULL = 0.95  # share of an image
INVERTED, INVERTED_BORDER = 0.5, 0.75  # shares of an image and of its outermost pixels
SMALL, SMALL_OTHERS = 0.1, 3  # share of an image; how many other images say what is usual
SPECK, SPECK_SHARE = 2, 1e-3  # pixels, or share of those in a type's median image: nobody drew less on purpose
LARGE = 50  # pixels in the median image of a type, from which on a speck is odd
LISTED_TYPES = 12
# Bits of the perceptual hash. On magnetic tile ALIKE finds 82% of the pairs of photographs of one tile under other
# exposures, and calls 4 of 10,000 pairs of different tiles alike. NEARLY_EQUAL is none of 700,000 pairs of drawn demo
# images, which are as alike as parts in one pose, and a tenth of those pairs of one tile, so that a leak shows.
ALIKE, NEARLY_EQUAL = 12, 2
MOST, MANY = 0.1, 10  # share and number of the pairs of two parts, above which the hash cannot tell images apart
OWN_SIZE = "its own size"
REMEDY = "train at a higher resolution or on windows (data.fit random_crop)"


@dataclass(frozen=True)
class TypeFacts:
    """One type in one mask, in pixels. trained: at the size that training sees; candidates: at further sizes.

    regions: how many; lost: how many of them training does not see.
    """

    pixels: int
    trained: int
    candidates: tuple[int, ...] = ()
    regions: int = 0
    lost: int = 0


@dataclass(frozen=True)
class Record:
    """What one look at a sample tells. image, mask: the files to name. size: (H, W). types: by index.

    overlaps: pixels that two types claim, by (lower, higher index). border: share of the mask's outermost pixels that
    are defective. sha256: of the image file. perceptual_hash: hexadecimal, see survey.py. problem: why the sample
    cannot be read; all else is empty then.
    """

    name: str
    image: str
    mask: str
    folder: str | None = None
    part: str | None = None
    good: bool = False
    problem: str | None = None
    size: tuple[int, int] = (0, 0)
    types: Mapping[int, TypeFacts] = field(default_factory=dict)
    overlaps: Mapping[tuple[int, int], int] = field(default_factory=dict)
    border: float = 0.0
    sha256: str = ""
    perceptual_hash: str = ""

    def share(self, index: int | None = None) -> float:
        """Of the image, of one type or of all together."""
        pixels = sum(facts.pixels for type, facts in self.types.items() if index in (None, type))
        return pixels / (self.size[0] * self.size[1])


@dataclass(frozen=True)
class Finding:
    """`text` says what is wrong with files[0] and what to do.

    severity: error (training would go wrong), warning or note. files: all that the rule applies to, the worst first.
    """

    severity: str
    rule: str
    files: Sequence[str]
    text: str

    @property
    def line(self) -> str:
        """What and where, in one line: "warning: <file>: ..."."""
        more = f" [and {len(self.files) - 1} more]" if len(self.files) > 1 else ""
        return f"{self.severity}: {self.files[0]}: {self.text}{more}"


def told(severity: str, rule: str, problem: str, where: str) -> Finding:
    """A finding from a line "<file>: <text>"; `where` stands in for the file where it names none."""
    file, colon, text = problem.partition(": ")
    return Finding(severity, rule, [file], text) if colon else Finding(severity, rule, [where], problem)


def _found(rule: str, files: Iterable[str], text: str, severity: str = WARNING) -> list[Finding]:
    """A finding, where there are files to which the rule applies."""
    return [Finding(severity, rule, files, text)] if (files := list(files)) else []


def check(records: Sequence[Record], names: Mapping[int, str], seen_at: str, where: str) -> list[Finding]:
    """Findings on the files and masks of a data set.

    names: of the types, by index. seen_at: the size at which training sees the masks, in words. where: what to name
    where no file is to blame.
    """
    found = unreadable(records)
    samples = [record for record in records if not record.good and not record.problem]
    if not samples:
        return [*found, Finding(ERROR, "no_samples", [where], "holds no image with a mask that can be read; add some")]
    if not any(record.types for record in samples):
        text = "this mask and all others are empty, so there is nothing to learn; draw the defects"
        return found + _found("all_empty", (record.mask for record in samples), text, ERROR)
    found += check_masks(samples, names, seen_at, where)
    for index, own in _by_type(samples).items():
        gone = [record.mask for record in own if not record.types[index].trained]
        extent = "all" if len(gone) == len(own) else f"{len(gone)} of"
        text = f"{names[index]} vanishes at {seen_at} from {extent} {len(own)} images that show it; {REMEDY}"
        found += _found("vanishes", gone, text, ERROR if extent == "all" else WARNING)
        middle = median(record.types[index].pixels for record in own)
        most = max(SPECK, SPECK_SHARE * middle) if middle >= LARGE else 0
        specks = [record.mask for record in reversed(own) if record.types[index].pixels <= most]
        text = f"{names[index]} is a speck of at most {most:.0f} px here, against {middle:,.0f} in the median image"
        found += _found("speck", specks, f"{text}: a slip of the pen? Draw or erase it")
    return found + find_overlaps(samples, names)


def find_overlaps(records: Sequence[Record], names: Mapping[int, str]) -> list[Finding]:
    """A finding for each pair of types that claim the same pixels."""
    overlaps: dict[tuple[int, int], Counter[str]] = defaultdict(Counter)
    for record in records:
        for pair, count in record.overlaps.items():
            overlaps[pair][record.mask] = count
    found = []
    for (one, other), counts in sorted(overlaps.items()):
        text = (
            f"{max(counts.values()):,} pixels are called {names[one]} and {names[other]} at once, and the one drawn "
            "last counts; say which is to win with scripts/prepare_data.py --priority"
        )
        found += _found("overlap", (mask for mask, _ in counts.most_common()), text)
    return found


def unreadable(records: Sequence[Record]) -> list[Finding]:
    """What cannot be read, a finding each. Training does not read defect-free images, so these are warnings."""
    broken = [record for record in records if record.problem]
    return [told(WARNING if record.good else ERROR, "unreadable", record.problem, record.image) for record in broken]


def training_warnings(dataset: DefectDataset, class_names: Sequence[str]) -> list[str]:
    """Lines "warning: ..." on the masks of a training set in memory, as training sees them; nothing is read."""
    masks = [mask.cpu().numpy() for mask in dataset.masks[: len(dataset) - dataset.num_good]]
    records = [
        Record(name, name, name, size=mask.shape, types=plain_types(mask), border=border_share(mask))
        for name, mask in zip(dataset.names, masks, strict=False)
    ]
    sizes = {mask.shape for mask in masks}
    seen_at = " x ".join(map(str, sizes.pop())) if len(sizes) == 1 else OWN_SIZE
    lost = f", or train at a higher resolution where {seen_at} has lost it"
    names = dict(enumerate(class_names, 1))
    return [finding.line for finding in check_masks(records, names, seen_at, "training set", lost=lost)]


def plain_types(mask: np.ndarray) -> dict[int, TypeFacts]:
    """The types in an index mask [H, W] and their pixels, no regions."""
    counts = np.bincount(mask.ravel(), minlength=256).tolist()
    return {index: TypeFacts(pixels, pixels) for index, pixels in enumerate(counts) if index and pixels}


def border_share(mask: np.ndarray) -> float:
    """Share of the outermost pixels of an index mask [H, W] that are not background."""
    border = np.concatenate([mask[0], mask[-1], mask[1:-1, 0], mask[1:-1, -1]])
    return float((border > 0).mean())


def check_masks(
    records: Sequence[Record], names: Mapping[int, str], seen_at: str, where: str, *, lost: str = ""
) -> list[Finding]:
    """What pixel counts alone tell: types that occur nowhere or hold next to nothing; empty, full, inverted masks.

    lost: a further remedy, where the masks were resized, so that what they lack may be in the files.
    """
    found: list[Finding] = []
    by_type = _by_type(records)
    if absent := [name for index, name in names.items() if index not in by_type]:
        some = ", ".join(absent[:LISTED_TYPES]) + ", ..." * (len(absent) > LISTED_TYPES)
        text = f"no mask shows {some}, which the label map names; add images{lost}, or take it out of the label map"
        found += _found("absent", [where], text)
    for index, own in by_type.items():
        middle = median(record.types[index].trained for record in own)
        if middle < FEW_PIXELS:
            least = min(own, key=lambda record, index=index: record.types[index].trained)
            text = f"{names[index]} keeps {middle:g} px in its median image at {seen_at}, too few to learn; {REMEDY}"
            found += _found("few_pixels", [least.mask], text)
    text = f"its mask is empty, so training takes it for defect-free; draw the defect{lost}, or leave it if right"
    found += _found("empty", (record.mask for record in records if not record.types), text)
    full = (record.mask for record in records if record.share() > FULL)
    found += _found("full", full, f"its mask calls over {FULL:.0%} of the image defective; draw the defect alone")
    inverted = (record.mask for record in records if record.share() <= FULL and _is_inverted(record, by_type))
    text = "its mask calls most of the image defective: background and defect exchanged? Invert it if so"
    return found + _found("inverted", inverted, text)


def _by_type(records: Sequence[Record]) -> dict[int, list[Record]]:
    """The records that show each type, by index, those with the most pixels first."""
    indices = sorted({index for record in records for index in record.types})
    shown = {index: [record for record in records if index in record.types] for index in indices}
    return {index: sorted(own, key=lambda record: -record.types[index].pixels) for index, own in shown.items()}


def _is_inverted(record: Record, by_type: Mapping[int, list[Record]]) -> bool:
    """More than half defective, and most of the border too, or where the type's other masks are small."""
    if record.share() <= INVERTED or record.border >= INVERTED_BORDER:
        return record.share() > INVERTED
    main = max(record.types, key=lambda index: record.types[index].pixels)
    others = [other.share(main) for other in by_type[main] if other is not record]
    return len(others) >= SMALL_OTHERS and median(others) < SMALL


def alike(ours: Sequence[Record], theirs: Sequence[Record], limit: int = ALIKE) -> list[tuple[int, int, int]]:
    """Pairs that differ in at most `limit` bits: (place in ours, place in theirs, differing bits), nearest first."""
    bits = [[np.frombuffer(bytes.fromhex(r.perceptual_hash), np.uint8) for r in side] for side in (ours, theirs)]
    one, other = (np.unpackbits(np.array(rows, np.uint8), axis=-1) for rows in bits)
    pairs = []
    for i, row in enumerate(one):
        distance = (other != row).sum(1) if len(other) else np.zeros(0)
        pairs += [(i, j, int(distance[j])) for j in np.flatnonzero(distance <= limit).tolist()]
    return sorted(pairs, key=lambda pair: pair[2])


def find_duplicates(records: Sequence[Record], where: str) -> list[Finding]:
    """Findings on files of the same content, and on nearly equal images with defects in different parts."""
    same: dict[str, list[Record]] = defaultdict(list)
    parts: dict[str, list[Record]] = {TRAIN: []}
    for record in records:
        if not record.problem:
            same[record.sha256].append(record)
            # A picture without any structure hashes to zeros, like all its kind.
            if not record.good and int(record.perceptual_hash, 16):
                parts.setdefault(record.part or TRAIN, []).append(record)
    found = []
    if copies := [own for own in same.values() if len(own) > 1]:
        first, second = copies[0][:2]
        sides = "" if first.part == second.part else f" in part {first.part or TRAIN}, a leak"
        text = f"is the same file as {first.image}{sides}; merge their masks, or remove one"
        found += _found("equal_files", (record.image for own in copies for record in own[1:]), text)
    for (part, ours), (other, theirs) in combinations(parts.items(), 2):
        pairs = alike(ours, theirs, NEARLY_EQUAL)
        if len(pairs) > max(MANY, MOST * len(ours) * len(theirs)):
            text = (
                f"most images of {part} and {other} look alike on a coarse grid, as parts in one pose do: near-copies "
                "cannot be told from others; say what belongs together (scripts/prepare_data.py --group_regex)"
            )
            found += _found("all_alike", [where], text, NOTE)
        elif pairs:
            text = (
                f"shows the same as {ours[pairs[0][0]].image} in part {part}: a leak, figures on {other} come out too "
                "good; keep photographs of one part on one side (scripts/prepare_data.py splits so)"
            )
            found += _found("leak", dict.fromkeys(theirs[j].image for _, j, _ in pairs), text)
    return found
