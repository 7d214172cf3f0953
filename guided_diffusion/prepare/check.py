"""What is wrong or odd in a data set: findings from what is known of its samples. Every rule stands here once.

scripts/check_data.py looks for all of them, training before step 0 for those that the pixels in memory tell.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import TYPE_CHECKING

from .data_check_facts import OWN_SIZE, Record, View, look_at_mask

if TYPE_CHECKING:
    from ..data.image_datasets import DefectDataset

ERROR, WARNING, NOTE = "error", "warning", "note"
FEW_PIXELS = 4  # a type whose median image holds fewer is hardly learned
FULL = 0.95  # share of an image
INVERTED, INVERTED_BORDER = 0.5, 0.75  # shares of an image and of its outermost pixels
SMALL, SMALL_OTHERS = 0.1, 3  # share of an image; how many other images say what is usual
SPECK = 2  # pixels of a region that nobody drew on purpose
SPECK_SHARE = 1e-3  # of the pixels that a type has in its median image: what is less there is a slip
NOISE_SPECKS, NOISE_LARGEST = 5, 50  # so many of them beside a region of so many pixels
# Of a type that is rounding debris: pixels in an image, unless that is less than two; its share; share of the images.
STRAY_PIXELS, STRAY_SHARE, STRAY_IMAGES = 16, 1e-4, 0.02
LISTED_TYPES = 12
REMEDY = "train at a higher resolution or on windows (data.fit random_crop)"


@dataclass(frozen=True)
class Finding:
    """`text` says what is wrong with files[0] and what to do.

    severity: error (training would go wrong), warning or note. files: all that the rule applies to, the worst first.
    """

    severity: str
    rule: str
    files: tuple[str, ...]
    text: str

    @property
    def rank(self) -> int:
        """Place of its severity, the gravest first."""
        return (ERROR, WARNING, NOTE).index(self.severity)

    @property
    def line(self) -> str:
        """What and where, in one line: "warning: <file>: ..."."""
        more = len(self.files) - 1
        others = f" [and {more} more]" if more else ""
        return f"{self.severity}: {self.files[0]}: {self.text}{others}"


def check(records: Sequence[Record], names: Mapping[int, str], view: View, where: str) -> list[Finding]:
    """Findings on the files and masks of a data set.

    names: of the types, by index. where: what to name where no file is to blame.
    """
    found = unreadable(records)
    samples = [record for record in records if not record.good and not record.facts.problem]
    if not samples:
        text = "holds no image with a mask that can be read; add some"
        return [*found, Finding(ERROR, "no_samples", (where,), text)]
    if not any(record.types for record in samples):
        files = tuple(record.mask for record in samples)
        text = "this mask and all others are empty, so there is nothing to learn; draw the defects"
        return [*found, Finding(ERROR, "all_empty", files, text)]
    stray = stray_types(samples, names)
    found += [*_vanishing(samples, names, view), *_stray(samples, names, stray)]
    found += check_masks(samples, names, where, str(view))
    return [*found, *_specks(samples, names, stray), *_noise(samples, names), *_overlaps(samples, names)]


def unreadable(records: Sequence[Record]) -> list[Finding]:
    """What cannot be read, a finding each. Training does not read defect-free images, so these are warnings."""
    broken = [record for record in records if record.facts.problem]
    return [
        told(WARNING if record.good else ERROR, "unreadable", record.facts.problem, record.image) for record in broken
    ]


def told(severity: str, rule: str, problem: str, where: str) -> Finding:
    """A finding from a line "<file>: <text>"; `where` stands in for the file where it names none."""
    file, colon, text = problem.partition(": ")
    return Finding(severity, rule, (file,), text) if colon else Finding(severity, rule, (where,), problem)


def check_masks(
    records: Sequence[Record], names: Mapping[int, str], where: str, size: str, *, resized: bool = False
) -> list[Finding]:
    """What pixel counts alone tell: types that occur nowhere or hold next to nothing; empty, full, inverted masks.

    where: what to name where no file is to blame. size: at which training sees the masks, in words.
    resized: the records are of masks at that size already, so that what they lack may be in the files.
    """
    found = []
    by_type = _by_type(records)
    lost = f", or train at a higher resolution where {size} has lost it" if resized else ""
    absent = [name for index, name in names.items() if index not in by_type]
    if absent:
        some = ", ".join(absent[:LISTED_TYPES]) + (", ..." if len(absent) > LISTED_TYPES else "")
        text = f"no mask shows {some}, which the label map names; add images{lost}, or take it out of the label map"
        found.append(Finding(WARNING, "absent", (where,), text))
    for index, own in by_type.items():
        middle = median(record.types[index].trained for record in own)
        if middle < FEW_PIXELS:
            least = min(own, key=lambda record: record.types[index].trained)
            text = f"{names[index]} keeps {middle:g} px in its median image at {size}, too few to learn; {REMEDY}"
            found.append(Finding(WARNING, "few_pixels", (least.mask,), text))
    empty = tuple(record.mask for record in records if not record.types)
    if empty:
        text = f"its mask is empty, so training takes it for defect-free; draw the defect{lost}, or leave it if right"
        found.append(Finding(WARNING, "empty", empty, text))
    full = [record for record in records if record.share > FULL]
    if full:
        text = f"its mask calls {full[0].share:.0%} of the image defective; draw the defect alone"
        found.append(Finding(WARNING, "full", tuple(record.mask for record in full), text))
    inverted = [record for record in records if record.share <= FULL and _looks_inverted(record, by_type)]
    if inverted:
        text = (
            f"its mask calls {inverted[0].share:.0%} of the image and {inverted[0].border:.0%} of its border "
            "defective: background and defect exchanged? Invert it if so"
        )
        found.append(Finding(WARNING, "inverted", tuple(record.mask for record in inverted), text))
    return found


def training_warnings(dataset: DefectDataset, class_names: Sequence[str]) -> list[str]:
    """Lines "warning: ..." on the masks of a training set in memory, as training sees them; nothing is read."""
    marked = len(dataset) - dataset.num_good
    pairs = list(zip(dataset.names, dataset.masks, strict=True))[:marked]
    records = [look_at_mask(name, mask.cpu().numpy()) for name, mask in pairs]
    names = dict(enumerate(class_names, 1))
    sizes = {record.facts.size for record in records}
    size = " x ".join(map(str, sizes.pop())) if len(sizes) == 1 else OWN_SIZE
    return [finding.line for finding in check_masks(records, names, "training set", size, resized=True)]


def stray_types(records: Sequence[Record], names: Mapping[int, str]) -> dict[int, list[Record]]:
    """Types that are likely rounding debris, with the images that show them: a few pixels in very few images."""
    few = max(1, int(STRAY_IMAGES * len(records)))

    def debris(record: Record, index: int) -> bool:
        limit = max(SPECK, min(STRAY_PIXELS, STRAY_SHARE * record.area))
        return record.types[index].pixels <= limit

    return {
        index: own
        for index, own in _by_type(records).items()
        if len(own) <= few < len(records) and all(debris(record, index) for record in own)
    }


def _by_type(records: Sequence[Record]) -> dict[int, list[Record]]:
    """The records that show each type, by index."""
    found: dict[int, list[Record]] = defaultdict(list)
    for record in records:
        for index in record.types:
            found[index].append(record)
    return dict(sorted(found.items()))


def _vanishing(records: Sequence[Record], names: Mapping[int, str], view: View) -> list[Finding]:
    found = []
    for index, own in _by_type(records).items():
        gone = [record for record in own if not record.types[index].trained]
        if not gone:
            continue
        gone.sort(key=lambda record: -record.types[index].pixels)
        pixels = gone[0].types[index].pixels
        extent = "all" if len(gone) == len(own) else f"{len(gone)} of"
        what = f"vanishes at {view} from {extent} {len(own)} images that show it ({pixels} pixels here)"
        text = f"{names[index]} {what}; {REMEDY}"
        severity = ERROR if len(gone) == len(own) else WARNING
        found.append(Finding(severity, "vanishes", tuple(record.mask for record in gone), text))
    return found


def _stray(records: Sequence[Record], names: Mapping[int, str], stray: Mapping[int, list[Record]]) -> list[Finding]:
    found = []
    for index, own in stray.items():
        own = sorted(own, key=lambda record: -record.types[index].pixels)
        text = (
            f"{names[index]} occurs in {len(own)} of {len(records)} masks, with at most {own[0].types[index].pixels} "
            "pixels: left over from resizing? Erase it there, and from the label map"
        )
        found.append(Finding(WARNING, "stray", tuple(record.mask for record in own), text))
    return found


def _looks_inverted(record: Record, by_type: Mapping[int, list[Record]]) -> bool:
    """More than half defective, and most of the border too, or where the type's other masks are small."""
    if record.share <= INVERTED:
        return False
    if record.border >= INVERTED_BORDER:
        return True
    main = max(record.types, key=lambda index: record.types[index].pixels)
    others = [other.types[main].pixels / other.area for other in by_type[main] if other is not record]
    return len(others) >= SMALL_OTHERS and median(others) < SMALL


def _specks(records: Sequence[Record], names: Mapping[int, str], stray: Mapping[int, list[Record]]) -> list[Finding]:
    """Images in which a type that is large elsewhere is next to nothing."""
    found = []
    for index, own in _by_type(records).items():
        middle = median(record.types[index].pixels for record in own)
        specks = [record for record in own if record.types[index].pixels <= max(SPECK, SPECK_SHARE * middle)]
        if specks and middle >= NOISE_LARGEST and index not in stray:
            specks.sort(key=lambda record: record.types[index].pixels)
            text = (
                f"{names[index]} is a speck of {specks[0].types[index].pixels} px here, against {middle:,.0f} in the "
                "median image: a slip of the pen? Draw or erase it"
            )
            found.append(Finding(WARNING, "speck", tuple(record.mask for record in specks), text))
    return found


def _noise(records: Sequence[Record], names: Mapping[int, str]) -> list[Finding]:
    found = []
    for index, own in _by_type(records).items():
        counts = {record.mask: _count_specks(record, index) for record in own}
        noisy = sorted((mask for mask, count in counts.items() if count >= NOISE_SPECKS), key=lambda m: -counts[m])
        if noisy:
            text = (
                f"{names[index]} has {counts[noisy[0]]} specks of {SPECK} pixels or fewer beside larger regions: noise "
                "of thresholding or compression? Remove them from the mask"
            )
            found.append(Finding(WARNING, "noise", tuple(noisy), text))
    return found


def _count_specks(record: Record, index: int) -> int:
    """Regions of a type that are specks, 0 where none of its regions is large."""
    regions = record.types[index].regions
    if max(regions) < NOISE_LARGEST:
        return 0
    return sum(count for area, count in regions.items() if area <= SPECK)


def _overlaps(records: Sequence[Record], names: Mapping[int, str]) -> list[Finding]:
    pixels: dict[tuple[int, int], dict[str, int]] = defaultdict(dict)
    for record in records:
        for pair, count in record.facts.overlaps.items():
            pixels[pair][record.mask] = count
    found = []
    for pair, counts in sorted(pixels.items()):
        files = sorted(counts, key=lambda file: -counts[file])
        one, other = (names[index] for index in pair)
        text = (
            f"{counts[files[0]]:,} pixels are called {one} and {other} at once, and the one drawn last counts; say "
            "which is to win with scripts/prepare_data.py --priority"
        )
        found.append(Finding(WARNING, "overlap", tuple(files), text))
    return found
