"""What the check of a data set needs to know of each sample: taken in one look, pixels not kept."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from PIL import Image

from ..data.image_files import embedded_image, resize_mask, trained_size
from ..data.index_masks import DrawingRule, read_labelled
from ..errors import InputError
from ..file_io import read_bytes
from .layouts import Sample, TypeMasks
from .survey import Facts, count_types, facts_from

HEADERS = 200  # files whose header is read for the median proportions
SHORT_SIDES = (64, 96, 128, 192, 256, 384, 512, 768, 1024)  # of resolutions to suggest
OWN_SIZE = "its own size"

Size = tuple[int, int]  # height, width


@dataclass(frozen=True)
class View:
    """How a training looks at a data set: resolution (H, W), fit and crop_from as in config.DataConfig.

    candidates: further (H, W) at which to count what a stretched mask keeps.
    """

    resolution: Size
    fit: str = "resize"
    crop_from: tuple[int, ...] = ()
    candidates: tuple[Size, ...] = ()

    def __str__(self) -> str:
        if self.fit == "random_crop" and not self.crop_from:
            return OWN_SIZE
        return " x ".join(map(str, self.crop_from or self.resolution))

    def size_of(self, size: Size) -> Size:
        return trained_size(size, self.resolution, self.fit, self.crop_from)


@dataclass(frozen=True)
class TypeFacts:
    """One type in one mask, in pixels. trained: at the size that training sees; candidates: at each of the view's.

    regions, kept: {pixels of a region (8-connected): how many are of that size}, in the file and as training sees them.
    """

    pixels: int
    trained: int
    candidates: tuple[int, ...] = ()
    regions: Mapping[int, int] = field(default_factory=dict)
    kept: Mapping[int, int] = field(default_factory=dict)


@dataclass(frozen=True)
class Record:
    """What is known of a sample. mask: the file to name when its mask is wrong. mode: Pillow's, of the image file.

    types: by index. border: share of the mask's outermost pixels that are defective. facts.problem: why it cannot be
    read; all else is empty then.
    """

    name: str
    image: str
    mask: str
    facts: Facts
    folder: str | None = None
    part: str | None = None
    good: bool = False
    mode: str = ""
    types: Mapping[int, TypeFacts] = field(default_factory=dict)
    border: float = 0.0

    @property
    def area(self) -> int:
        return self.facts.size[0] * self.facts.size[1]

    @property
    def share(self) -> float:
        """Of the image, all types together."""
        return sum(found.pixels for found in self.types.values()) / self.area


def look_at(sample: Sample, num_defect: int, view: View) -> Record:
    """Read a sample and note what is to be known. Raises nothing that is due to its files: that is in facts.problem."""
    unnamed = isinstance(sample.mask, TypeMasks) and not sample.mask.files
    mask_file = sample.image if sample.mask is None or unnamed else sample.mask.path
    own = (sample.name, sample.image, mask_file)
    place = {"folder": sample.folder, "part": sample.part, "good": sample.mask is None}
    try:
        found = read_labelled(sample, num_defect, DrawingRule())
        facts, mode = facts_from(sample, found), _mode(sample.image)
    except InputError as error:
        return Record(*own, Facts(problem=str(error)), **place)
    mask = np.zeros(facts.size, np.uint8) if found.mask is None else found.mask
    return Record(*own, facts, **place, mode=mode, types=look_at_types(mask, view), border=border_share(mask))


def look_at_mask(name: str, mask: np.ndarray) -> Record:
    """A record of an index mask uint8 [H, W] as training holds it, without regions."""
    counts = count_types(mask)
    types = {index: TypeFacts(pixels, pixels) for index, pixels in counts.items()}
    return Record(name, name, name, Facts(size=mask.shape, types=counts), types=types, border=border_share(mask))


def look_at_types(mask: np.ndarray, view: View) -> dict[int, TypeFacts]:
    """Facts of the types in an index mask uint8 [H, W]."""
    from scipy import ndimage  # not at the top: training imports this module, and needs no scipy

    size = view.size_of(mask.shape)
    present = count_types(mask)
    resized = [count_types(resize_mask(mask, target)) for target in view.candidates] if present else []
    types = {}
    for index, pixels in present.items():
        labels = ndimage.label(mask == index, np.ones((3, 3)))[0]  # int32
        areas = np.bincount(labels.ravel())[1:]
        kept = np.bincount(resize_mask(labels, size).ravel(), minlength=len(areas) + 1)[1:]
        candidates = tuple(counts.get(index, 0) for counts in resized)
        types[index] = TypeFacts(pixels, int(kept.sum()), candidates, _histogram(areas), _histogram(kept))
    return types


def border_share(mask: np.ndarray) -> float:
    """Share of the outermost pixels of an index mask [H, W] that are not background."""
    border = np.concatenate([mask[0], mask[-1], mask[1:-1, 0], mask[1:-1, -1]])
    return float((border > 0).mean())


def candidate_sizes(samples: Sequence[Sample], multiple: int) -> tuple[Size, ...]:
    """Resolutions (H, W) to choose from, ascending: multiples of `multiple` in the median proportions of the images.

    Short sides go from 64 pixels in steps of about one half, to that of the median image. From some headers, evenly
    spread; empty where none can be read.
    """
    places = np.linspace(0, len(samples) - 1, min(len(samples), HEADERS)).round().astype(int)
    sizes = []
    for place in places:
        try:
            sizes.append(_header(samples[place].image).size)
        except (OSError, InputError):
            continue  # told when it is read
    if not sizes:
        return ()
    ratio = float(np.median([width / height for width, height in sizes]))
    longest = max(multiple, float(np.median([min(size) for size in sizes])))
    shorts = [side for side in SHORT_SIDES if side < longest] + [longest]

    def rounded(side: float) -> int:
        return max(1, round(side / multiple)) * multiple

    found = {(rounded(side * max(1, 1 / ratio)), rounded(side * max(1, ratio))) for side in shorts}
    return tuple(sorted(found))


def _mode(path: str) -> str:
    return _header(path).mode


def _header(path: str) -> Image.Image:
    data = read_bytes(path)
    return Image.open(io.BytesIO(embedded_image(data, path) if path.lower().endswith(".json") else data))


def _histogram(values: np.ndarray) -> dict[int, int]:
    """{value: how often}: small even where a mask is noise of many regions, for these have few different areas."""
    return dict(zip(*(part.tolist() for part in np.unique(values, return_counts=True)), strict=True))
