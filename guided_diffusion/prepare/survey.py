"""What a first look at the pixels of a sample tells: the facts that splits, leak checks and dataset.json need."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from PIL import Image

from ..data.index_masks import DrawingRule, Labelled, read_labelled
from ..errors import InputError
from ..file_io import read_bytes
from .layouts import Sample

HASH_SIDE = 8
HASH_BITS = 2 * HASH_SIDE**2
# Of HASH_BITS. On magnetic tile it finds 82% of the pairs of photographs of one tile under other exposures, and calls 4
# of 10,000 pairs of different tiles alike.
ALIKE = 12


@dataclass(frozen=True)
class Facts:
    """size: (H, W). types: {index: pixels}, None for defect-free images. overlaps: {(lower, higher index): pixels}.

    sha256: of the image file. perceptual_hash: hexadecimal, see there. Or else problem: why the sample cannot be read.
    """

    size: tuple[int, int] = (0, 0)
    types: dict[int, int] | None = None
    overlaps: dict[tuple[int, int], int] = field(default_factory=dict)
    sha256: str = ""
    perceptual_hash: str = ""
    problem: str | None = None


def facts_of(sample: Sample, num_defect: int, rule: DrawingRule) -> Facts:
    """Read a sample and take its facts. Raises nothing that is due to its files: that is in `problem`."""
    try:
        return facts_from(sample, read_labelled(sample, num_defect, rule))
    except InputError as error:
        return Facts(problem=str(error))


def facts_from(sample: Sample, found: Labelled) -> Facts:
    """The facts of a sample that has been read."""
    return Facts(
        size=found.image.shape[:2],
        types=None if found.mask is None else count_types(found.mask),
        overlaps=dict(found.overlaps),
        sha256=hashlib.sha256(read_bytes(sample.image)).hexdigest(),
        perceptual_hash=perceptual_hash(found),
    )


def count_types(mask: np.ndarray) -> dict[int, int]:
    """{type index: pixels} of an index mask."""
    counts = np.bincount(mask.ravel(), minlength=256)
    return {int(index): int(counts[index]) for index in np.flatnonzero(counts[1:]) + 1}


def perceptual_hash(found: Labelled) -> str:
    """HASH_BITS bits, hexadecimal: whether brightness rises to the right and downwards on a coarse grid.

    The difference hash (N. Krawetz, "Kind of like that", 2013) along both axes; exposure does not change it much.
    """
    side = HASH_SIDE + 1
    small = Image.fromarray(found.image).convert("L").resize((side, side), Image.Resampling.BILINEAR)
    grey = np.asarray(small).astype(np.int16)
    rises = [grey[:-1, 1:] > grey[:-1, :-1], grey[1:, :-1] > grey[:-1, :-1]]
    return np.packbits(np.stack(rises)).tobytes().hex()


def alike(hashes: Sequence[str], others: Sequence[str], limit: int = ALIKE) -> list[tuple[int, int, int]]:
    """Pairs that differ in at most `limit` bits: (place in hashes, place in others, differing bits), nearest first."""
    if not hashes or not others:
        return []
    ours, theirs = (_bits(texts) for texts in (hashes, others))
    pairs = []
    for start in range(0, len(ours), 256):  # bounds the memory
        block = ours[start : start + 256]
        distance = block.sum(1)[:, None] + theirs.sum(1)[None] - 2 * block @ theirs.T
        rows, columns = np.nonzero(distance <= limit)
        pairs += [(int(i) + start, int(j), int(distance[i, j])) for i, j in zip(rows, columns, strict=True)]
    return sorted(pairs, key=lambda pair: pair[2])


def _bits(hashes: Sequence[str]) -> np.ndarray:
    """float32 [N, HASH_BITS] of zeros and ones."""
    data = np.frombuffer(bytes.fromhex("".join(hashes)), np.uint8).reshape(len(hashes), -1)
    return np.unpackbits(data, axis=1).astype(np.float32)
