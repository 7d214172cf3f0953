"""One look at each sample of a data set: what prepare_data.py and check_data.py know of it afterwards."""

import hashlib
from collections.abc import Mapping, Sequence
from functools import partial

import cv2
import numpy as np
from PIL import Image
from scipy import ndimage

from ..data.image_files import View, resize_mask
from ..data.prepared import IndexMask, Sample
from ..data.regions import number_regions
from ..errors import InputError
from ..file_io import read_bytes
from ..parallel import parallel_map
from .check import Record, TypeFacts, border_share, plain_types
from .layouts.drawing import read_labelled
from .layouts.mask_values import Values
from .layouts.model import DrawingRule

SHORT_SIDES = (64, 96, 128, 192, 256, 384, 512, 768, 1024)  # of resolutions to suggest
SLIM = 16  # parts of the image's long side: a region that holds a square of one stays at any sensible size
HASH_SIDE = 8


def look(
    samples: Sequence[Sample],
    num_defect: int,
    rule: DrawingRule,
    view: View | None = None,
    *,
    seen: Mapping[str, Values] | None = None,
    workers: int,
    description: str,
) -> list[Record]:
    """Records of samples, in their order. view: how training sees them; None: regions are not looked for. seen: what is
    known of mask files, see Dataset.

    Raises nothing that is due to the files: that is in Record.problem.
    """
    look_at = partial(_look_at, num_defect=num_defect, rule=rule, view=view)
    jobs = [(one, (seen or {}).get(one.mask.path) if one.mask and not view else None) for one in samples]
    return list(parallel_map(look_at, jobs, workers=workers, description=description))


def _look_at(job: tuple[Sample, Values | None], num_defect: int, rule: DrawingRule, view: View | None) -> Record:
    sample, values = job
    indices = values.above_zero(sample.mask.void) if values and isinstance(sample.mask, IndexMask) else []
    if indices and (max(indices) > num_defect or sample.mask.numbers):
        values = None  # reading says what is wrong, or numbers them otherwise
    files = (sample.image, sample.mask.path if sample.mask else sample.image)
    own = partial(Record, sample.name, *files, sample.folder, sample.part, sample.mask is None)
    try:
        found = read_labelled(sample, num_defect, rule, values)
        digest = hashlib.sha256(read_bytes(sample.image)).hexdigest()
    except InputError as error:
        return own(problem=str(error))
    if values:
        counts, border = values.types(sample.mask, rule)
        types = {index: TypeFacts(pixels, pixels) for index, pixels in counts.items()}
    else:
        mask = found.pair()[1]
        types, border = look_at_types(mask, view) if view else plain_types(mask), border_share(mask)
    return own(
        size=found.image.shape[:2],
        types=types,
        overlaps=dict(found.overlaps),
        border=border,
        sha256=digest,
        perceptual_hash=perceptual_hash(found.image),
        top=found.top,
    )


def look_at_types(mask: np.ndarray, view: View) -> dict[int, TypeFacts]:
    """Facts of the types in an index mask uint8 [H, W]."""
    types = {}
    for index, plain in plain_types(mask).items():
        numbered, count = number_regions(mask == index)
        kept = np.bincount(resize_mask(numbered, view.size_of(mask.shape)).ravel(), minlength=count + 1)[1:]
        inner = cv2.distanceTransform(np.pad(numbered > 0, 1).astype(np.uint8), cv2.DIST_C, 3)[1:-1, 1:-1]
        squares = 2 * ndimage.maximum(inner, numbered, range(1, count + 1)).astype(int) - 1
        labels = numbered[numbered > 0]
        pixels = np.argwhere(numbered)[np.argsort(labels, kind="stable")].astype(np.int32)
        by_region = np.split(pixels, np.cumsum(np.bincount(labels)[1:-1]))
        fat = squares * SLIM >= max(mask.shape)
        slim = tuple(own for own, large in zip(by_region, fat, strict=True) if not large)
        square = int(squares[fat].min(initial=max(mask.shape)))
        types[index] = TypeFacts(plain.pixels, int(kept.sum()), count, int(np.count_nonzero(kept == 0)), slim, square)
    return types


def keeps_regions(record: Record, size: tuple[int, int]) -> bool:
    """Whether stretching a mask to `size` keeps all its regions, pixels of those that are slim, for certain."""
    seen = [np.zeros(side, bool) for side in record.size]
    for axis, (side, new) in enumerate(zip(record.size, size, strict=True)):
        seen[axis][resize_mask(np.arange(side, dtype=np.int32)[:, None], (new, 1))] = True  # the rows, or columns
    return all(
        all(facts.square * new >= side for side, new in zip(record.size, size, strict=True))
        and all((seen[0][own[:, 0]] & seen[1][own[:, 1]]).any() for own in facts.slim)
        for facts in record.types.values()
    )


def perceptual_hash(image: np.ndarray) -> str:
    """128 bits, hexadecimal: whether brightness rises to the right and downwards on a coarse grid.

    The difference hash (N. Krawetz, "Kind of like that", 2013) along both axes; exposure does not change it much.
    image: uint8 [H, W] or [H, W, 3].
    """
    side = HASH_SIDE + 1
    small = Image.fromarray(image).convert("L").resize((side, side), Image.Resampling.BILINEAR)
    grey = np.asarray(small).astype(np.int16)
    rises = [grey[:-1, 1:] > grey[:-1, :-1], grey[1:, :-1] > grey[:-1, :-1]]
    return np.packbits(np.stack(rises)).tobytes().hex()
