"""One look at each sample of a data set: what prepare_data.py and check_data.py know of it afterwards."""

import hashlib
import zlib
from collections.abc import Sequence
from functools import partial

import numpy as np
from PIL import Image

from ..data.image_files import View, number_regions, resize_regions
from ..data.prepared import Sample
from ..errors import InputError
from ..file_io import read_bytes
from ..parallel import parallel_map
from .check import Record, TypeFacts, border_share, plain_types
from .layouts.drawing import read_labelled
from .layouts.model import DrawingRule

SHORT_SIDES = (64, 96, 128, 192, 256, 384, 512, 768, 1024)  # of resolutions to suggest
HASH_SIDE = 8


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
