"""One look at each sample of a data set, and what by it is wrong or odd in the set. Every rule stands here once.

scripts/check_data.py applies all of them; training, before step 0, those that the masks in memory tell.
"""

import hashlib
import zlib
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import combinations
from statistics import median
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from ..data.image_files import View, border_of, histogram, number_regions, resize_regions
from ..data.prepared import TRAIN, Sample
from ..errors import InputError
from ..file_io import read_bytes
from ..parallel import parallel_map
from .layouts.drawing import read_labelled
from .layouts.mask_values import INVERTED, INVERTED_BORDER
from .layouts.model import DrawingRule

if TYPE_CHECKING:
    from ..data.image_datasets import DefectDataset

ERROR, WARNING, NOTE = "error", "warning", "note"
RULES = {  # what is wrong, and what to do
    "no_samples": "holds no image with a mask that can be read; add some",
    "absent": "no mask shows {types}, which the label map names; add images, or take it out of the label map",
    "empty": "its mask is empty, so training takes it for defect-free; draw the defect, or leave it if right",
    "inverted": "its mask calls most of the image defective: background and defect exchanged? Invert it if so",
    "few_pixels": "{type} keeps {pixels:g} px in its median image at {size}, too few to learn; {remedy}",
    "vanishes": "{type} vanishes at {size} from {extent} {count} images that show it; {remedy}",
    "speck": "{type} is a speck of at most {most:.0f} px here, against {pixels:,.0f} in the median; draw or erase it",
    "overlap": "{pixels:,} pixels are called {types} at once; say which wins with scripts/prepare_data.py --priority",
    "equal_files": "is the same file as {first}{leak}; merge their masks, or remove one",
    "leak": "shows the same as {first} in part {part}, so figures on {other} come out too good; {together}",
    "all_alike": "most images of {part} and {other} look alike, so near-copies cannot be told from others; {together}",
}
TOGETHER = "keep what shows one part on one side (scripts/prepare_data.py --val_fraction, --group_regex)"
REMEDY = "train at a higher resolution or on windows (data.fit random_crop)"
FEW_PIXELS = 4  # a type whose median image holds fewer is hardly learned
SPECK, SPECK_SHARE = 2, 1e-3  # pixels, or share of those in a type's median image: nobody drew less on purpose
LARGE = 50  # pixels in the median image of a type, from which on a speck is odd
# Bits of the perceptual hash. On magnetic tile ALIKE finds 82% of the pairs of photographs of one tile under other
# exposures, and calls 4 of 10,000 pairs of different tiles alike. NEARLY_EQUAL is none of 700,000 pairs of drawn demo
# images, which are as alike as parts in one pose, and a tenth of those pairs of one tile, so that a leak shows.
ALIKE, NEARLY_EQUAL = 12, 2
HASH_SIDE = 8
MOST, MANY = 0.1, 10  # share and number of the pairs of two parts, above which the hash cannot tell images apart


@dataclass(frozen=True)
class TypeFacts:
    """One type in one mask, in pixels. trained: at the size that training sees. lost: regions that it does not see.
    numbered: int32 [H, W], the number of each pixel's region, compressed."""

    pixels: int
    trained: int
    regions: int = 0
    lost: int = 0
    numbered: bytes = field(default=b"", repr=False)


@dataclass(frozen=True)
class Record:
    """What one look at a sample tells. image, mask: the files to name. problem: why it cannot be read, then all else is
    empty. size: (H, W). types: by index. overlaps, top: see drawing.Labelled. border: share of the mask's outermost
    pixels that are defective. perceptual_hash: hexadecimal."""

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
    top: int = 0

    def share(self, index: int | None = None) -> float:
        """Of the image, of one type or of all together."""
        pixels = sum(facts.pixels for type, facts in self.types.items() if index in (None, type))
        return pixels / (self.size[0] * self.size[1])


def look(
    samples: Sequence[Sample], num_defect: int, rule: DrawingRule, view: View | None = None, *, workers: int, why: str
) -> list[Record]:
    """Records of samples, in their order. view: how training sees them; None: regions are not looked for."""
    look_at = partial(_look_at, num_defect=num_defect, rule=rule, view=view)
    return list(parallel_map(look_at, samples, workers=workers, description=why))


def _look_at(sample: Sample, num_defect: int, rule: DrawingRule, view: View | None) -> Record:
    files = (sample.image, sample.mask.path if sample.mask else sample.image)
    own = partial(Record, sample.name, *files, sample.folder, sample.part, sample.mask is None)
    try:
        found = read_labelled(sample, num_defect, rule)
        digest = hashlib.sha256(read_bytes(sample.image)).hexdigest()
    except InputError as error:
        return own(problem=str(error))
    mask = found.pair()[1]
    types = look_at_types(mask, view) if view else plain_types(mask)
    drawn = {"size": mask.shape, "types": types, "overlaps": dict(found.overlaps), "border": border_share(mask)}
    return own(**drawn, sha256=digest, perceptual_hash=perceptual_hash(found.image), top=found.top)


def look_at_types(mask: np.ndarray, view: View) -> dict[int, TypeFacts]:
    """Facts of the types in an index mask uint8 [H, W]."""
    types = {}
    for index, plain in plain_types(mask).items():
        numbered, count = number_regions(mask == index)
        kept = np.bincount(resize_regions(numbered, view.size_of(mask.shape)).ravel(), minlength=count + 1)[1:]
        lost, packed = int(np.count_nonzero(kept == 0)), zlib.compress(numbered.astype(np.int32).tobytes(), 1)
        types[index] = TypeFacts(plain.pixels, int(kept.sum()), count, lost, packed)
    return types


def keeps_regions(record: Record, size: Sequence[int]) -> bool:
    """Whether stretching a mask to `size` keeps all its regions."""
    for facts in record.types.values():
        numbered = np.frombuffer(zlib.decompress(facts.numbered), np.int32).reshape(record.size)
        if np.count_nonzero(np.unique(resize_regions(numbered, size))) < facts.regions:
            return False
    return True


def perceptual_hash(image: np.ndarray) -> str:
    """128 bits, hexadecimal, of an image uint8 [H, W] or [H, W, 3]: whether brightness rises to the right and downwards
    on a coarse grid (difference hash, N. Krawetz, "Kind of like that", 2013); exposure does not change it much."""
    side = HASH_SIDE + 1
    small = Image.fromarray(image).convert("L").resize((side, side), Image.Resampling.BILINEAR)
    grey = np.asarray(small).astype(np.int16)
    rises = [grey[:-1, 1:] > grey[:-1, :-1], grey[1:, :-1] > grey[:-1, :-1]]
    return np.packbits(np.stack(rises)).tobytes().hex()


Pair = tuple[Record, Record]


@dataclass(frozen=True)
class Finding:
    """`text` says what is wrong with files[0], the worst of those that the rule applies to, and what to do; without
    files it names what is wrong itself. severity: error (training would go wrong), warning or note."""

    severity: str
    rule: str
    files: Sequence[str]
    text: str

    @property
    def line(self) -> str:
        """What and where, in one line: "warning: <file>: ..."."""
        more = f" [and {len(self.files) - 1} more]" if len(self.files) > 1 else ""
        return ": ".join([self.severity, *self.files[:1], self.text]) + more


def _find(rule: str, files: Iterable[str], severity: str = WARNING, **words: object) -> list[Finding]:
    """A finding, where there are files to which the rule applies."""
    return [Finding(severity, rule, files, RULES[rule].format(**words))] if (files := list(files)) else []


def check(
    records: Sequence[Record], held_out: Sequence[Record], names: Mapping[int, str], seen_at: str, where: str
) -> list[Finding]:
    """Findings on a data set, and on held-out images that should share nothing with it. names: of the types, by index.
    seen_at: the size at which training sees the masks, in words. where: what to name where no file is to blame."""
    every = [*records, *held_out]
    broken = [record for record in every if record.problem]
    # Training does not read defect-free images, so these are warnings.
    found = [Finding(WARNING if one.good else ERROR, "unreadable", [], one.problem) for one in broken]
    samples = [record for record in records if not record.good and not record.problem]
    if not samples:
        found += _find("no_samples", [where], ERROR)
    found += check_masks(samples, names, seen_at, where)
    return found + find_overlaps(samples, names) + _find_copies([r for r in every if not r.problem], where)


def training_warnings(dataset: "DefectDataset", class_names: Sequence[str]) -> list[str]:
    """Lines "warning: ..." on the masks of a training set in memory, as training sees them; nothing is read."""
    masks = [mask.cpu().numpy() for mask in dataset.masks[: len(dataset) - dataset.num_good]]
    records = [
        Record(name, name, name, size=mask.shape, types=plain_types(mask), border=border_share(mask))
        for name, mask in zip(dataset.names, masks, strict=False)
    ]
    seen_at = size_text(masks[0].shape if len({mask.shape for mask in masks}) == 1 else ())
    found = check_masks(records, dict(enumerate(class_names, 1)), seen_at, "training set")
    return [f"{finding.line} (masks at {seen_at})" for finding in found]


def size_text(size: Sequence[int]) -> str:
    """ "H x W"; a size that is empty is each image's own."""
    return " x ".join(map(str, size)) or "its own size"


def plain_types(mask: np.ndarray) -> dict[int, TypeFacts]:
    """The types in an index mask [H, W] and their pixels, no regions."""
    return {index: TypeFacts(pixels, pixels) for index, pixels in enumerate(histogram(mask)) if index and pixels}


def border_share(mask: np.ndarray) -> float:
    """Share of the outermost pixels of an index mask [H, W] that are not background."""
    return float((border_of(mask) > 0).mean())


def by_type(records: Sequence[Record]) -> dict[int, list[Record]]:
    """The records that show each type, by index, those with the largest share of the image first."""
    indices = sorted({index for record in records for index in record.types})
    return {k: sorted((r for r in records if k in r.types), key=lambda r, k=k: -r.share(k)) for k in indices}


def check_masks(records: Sequence[Record], names: Mapping[int, str], seen_at: str, where: str) -> list[Finding]:
    """Types that occur nowhere, are too small to train or to be meant; empty and inverted masks."""
    shown = by_type(records)
    absent = ", ".join(name for index, name in names.items() if index not in shown)
    found = _find("absent", [where] if absent and shown else [], types=absent)
    for index, own in shown.items():
        words = {"type": names[index], "size": seen_at, "count": len(own), "remedy": REMEDY}
        gone = [record.mask for record in own if not record.types[index].trained]
        everywhere = len(gone) == len(own)
        extent = "all" if everywhere else f"{len(gone)} of"
        found += _find("vanishes", gone, ERROR if everywhere else WARNING, extent=extent, **words)
        trained, pixels = (median(getattr(r.types[index], kind) for r in own) for kind in ("trained", "pixels"))
        found += _find("few_pixels", [own[-1].mask] if trained < FEW_PIXELS else [], pixels=trained, **words)
        most = max(SPECK, SPECK_SHARE * pixels) if pixels >= LARGE else 0
        specks = (record.mask for record in reversed(own) if record.types[index].pixels <= most)
        found += _find("speck", specks, most=most, pixels=pixels, **words)
    found += _find("empty", (record.mask for record in records if not record.types), WARNING if shown else ERROR)
    return found + _find("inverted", (r.mask for r in records if r.share() > INVERTED and r.border >= INVERTED_BORDER))


def find_overlaps(records: Sequence[Record], names: Mapping[int, str]) -> list[Finding]:
    """A finding for each pair of types that claim the same pixels."""
    found = []
    for pair in sorted({pair for record in records for pair in record.overlaps}):
        own = sorted((-record.overlaps[pair], record.mask) for record in records if pair in record.overlaps)
        types = " and ".join(names[index] for index in pair)
        found += _find("overlap", (mask for _, mask in own), pixels=-own[0][0], types=types)
    return found


def _find_copies(records: Sequence[Record], where: str) -> list[Finding]:
    """Files of the same content, and nearly equal images with defects in different parts."""
    same: dict[str, list[Record]] = defaultdict(list)
    parts: dict[str, list[Record]] = defaultdict(list)
    for record in records:
        same[record.sha256].append(record)
        if not record.good:
            parts[record.part or TRAIN].append(record)
    copies = [own for own in same.values() if len(own) > 1]
    found = []
    if copies:
        leaks = [own for own in copies if len({record.part or TRAIN for record in own}) > 1]
        first = [*leaks, *copies][0][0]
        leak = f" in part {first.part or TRAIN}, a leak" if leaks else ""
        found = _find("equal_files", (r.image for own in copies for r in own[1:]), first=first.image, leak=leak)
    for part, other, pairs in alike(parts, NEARLY_EQUAL):
        if len(pairs) > max(MANY, MOST * len(parts[part]) * len(parts[other])):
            found += _find("all_alike", [where], NOTE, part=part, other=other, together=TOGETHER)
        else:
            theirs = dict.fromkeys(record.image for _, record in pairs)
            found += _find("leak", theirs, first=pairs[0][0].image, part=part, other=other, together=TOGETHER)
    return found


def alike(parts: Mapping[str, Sequence[Record]], limit: int = ALIKE) -> Iterator[tuple[str, str, list[Pair]]]:
    """Two parts, and the pairs of their images that differ in at most `limit` bits of the hash, the nearest first.
    Pictures without structure hash to zeros, and count for nothing."""
    for (part, ours), (other, theirs) in combinations(parts.items(), 2):
        bits, pairs = near_pairs(ours, theirs, limit)
        if len(pairs):
            nearest = pairs[np.argsort(bits, kind="stable")].tolist()
            yield part, other, [(ours[one], theirs[another]) for one, another in nearest]


def near_pairs(ours: Sequence[Record], theirs: Sequence[Record], limit: int) -> tuple[np.ndarray, np.ndarray]:
    """Bits in which hashes of ours and theirs differ, at most `limit`; and their places, int [pairs, 2]."""
    one, other = _hashes(ours), _hashes(theirs)
    bits, pairs = [np.zeros(0, int)], [np.zeros((0, 2), int)]
    for place in np.flatnonzero(one.any(axis=1)):
        differ = np.bitwise_count(other ^ one[place]).sum(axis=1, dtype=int)
        near = np.flatnonzero((differ <= limit) & other.any(axis=1))
        bits.append(differ[near])
        pairs.append(np.stack([np.full(len(near), place), near], axis=1))
    return np.concatenate(bits), np.concatenate(pairs)


def _hashes(records: Sequence[Record]) -> np.ndarray:
    """Perceptual hashes, uint64 [records, 2]."""
    text = "".join(record.perceptual_hash.zfill(32) for record in records)
    return np.frombuffer(bytes.fromhex(text), ">u8").astype(np.uint64).reshape(-1, 2)
