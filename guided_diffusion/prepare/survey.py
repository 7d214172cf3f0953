"""One look at each sample of a data set: what prepare_data.py and check_data.py know of it afterwards."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Sequence
from contextlib import suppress
from functools import partial

import numpy as np
from PIL import Image

from ..data.image_files import View, resize_mask
from ..data.prepared import Sample
from ..data.regions import number_regions
from ..errors import InputError
from ..file_io import read_bytes
from ..parallel import parallel_map
from .check import Record, TypeFacts, border_share, plain_types
from .layouts import TypeMasks
from .layouts.drawing import DrawingRule, image_bytes, read_labelled

HEADERS = 200  # files whose header is read for the median proportions
SHORT_SIDES = (64, 96, 128, 192, 256, 384, 512, 768, 1024)  # of resolutions to suggest
HASH_SIDE = 8
HASH_BITS = 2 * HASH_SIDE**2


def look(
    samples: Sequence[Sample],
    num_defect: int,
    rule: DrawingRule | None = None,
    *,
    view: View | None = None,
    candidates: Sequence[tuple[int, int]] = (),
    workers: int,
    description: str,
) -> list[Record]:
    """Records of samples, in their order. view: how training sees them; None: regions are not looked for.

    candidates: further (H, W) at which to count what a stretched mask keeps. Raises nothing that is due to the files:
    that is in Record.problem.
    """
    one = partial(_look_at, num_defect=num_defect, rule=rule, view=view, candidates=candidates)
    return list(parallel_map(one, samples, workers=workers, description=description))


def _look_at(
    sample: Sample,
    num_defect: int,
    rule: DrawingRule | None,
    view: View | None,
    candidates: Sequence[tuple[int, int]],
) -> Record:
    unnamed = sample.mask is None or (isinstance(sample.mask, TypeMasks) and not sample.mask.files)
    files = (sample.image, sample.image if unnamed else sample.mask.path)
    own = partial(Record, sample.name, *files, sample.folder, sample.part, sample.mask is None)
    try:
        found = read_labelled(sample, num_defect, rule)
        digest = hashlib.sha256(read_bytes(sample.image)).hexdigest()
    except InputError as error:
        return own(problem=str(error))
    mask = found.pair()[1]
    return own(
        size=mask.shape,
        types=look_at_types(mask, view, candidates) if view else plain_types(mask),
        overlaps=dict(found.overlaps),
        border=border_share(mask),
        sha256=digest,
        perceptual_hash=perceptual_hash(found.image),
    )


def look_at_types(mask: np.ndarray, view: View, candidates: Sequence[tuple[int, int]] = ()) -> dict[int, TypeFacts]:
    """Facts of the types in an index mask uint8 [H, W]."""
    present = plain_types(mask)
    resized = [plain_types(resize_mask(mask, size)) for size in candidates] if present else []
    types = {}
    for index, plain in present.items():
        numbered, count = number_regions(mask == index)
        kept = resize_mask(numbered, view.size_of(mask.shape))
        at_candidates = tuple(counts[index].pixels if index in counts else 0 for counts in resized)
        lost = count - int(np.count_nonzero(np.unique(kept)))
        types[index] = TypeFacts(plain.pixels, int(np.count_nonzero(kept)), at_candidates, count, lost)
    return types


def perceptual_hash(image: np.ndarray) -> str:
    """HASH_BITS bits, hexadecimal: whether brightness rises to the right and downwards on a coarse grid.

    The difference hash (N. Krawetz, "Kind of like that", 2013) along both axes; exposure does not change it much.
    image: uint8 [H, W] or [H, W, 3].
    """
    side = HASH_SIDE + 1
    small = Image.fromarray(image).convert("L").resize((side, side), Image.Resampling.BILINEAR)
    grey = np.asarray(small).astype(np.int16)
    rises = [grey[:-1, 1:] > grey[:-1, :-1], grey[1:, :-1] > grey[:-1, :-1]]
    return np.packbits(np.stack(rises)).tobytes().hex()


def candidate_sizes(samples: Sequence[Sample], multiple: int) -> tuple[tuple[int, int], ...]:
    """Resolutions (H, W) to choose from, ascending: multiples of `multiple` in the median proportions of the images.

    Short sides go from 64 pixels in steps of about one half, to that of the median image. From some headers, evenly
    spread; empty where none can be read.
    """
    sizes = []
    for place in np.linspace(0, len(samples) - 1, min(len(samples), HEADERS)).round().astype(int):
        with suppress(OSError, InputError):  # told when it is read
            sizes.append(Image.open(io.BytesIO(image_bytes(samples[place].image))).size)
    if not sizes:
        return ()
    ratio = float(np.median([width / height for width, height in sizes]))
    longest = max(multiple, float(np.median([min(size) for size in sizes])))
    shorts = [side for side in SHORT_SIDES if side < longest] + [longest]
    sides = [(side * max(1, 1 / ratio), side * max(1, ratio)) for side in shorts]
    return tuple(sorted({tuple(max(1, round(side / multiple)) * multiple for side in size) for size in sides}))
