"""Images as the extractor sees them, whole or inside their masks, and the measures between two such sets.

All of a block of quality.json: {"counts": {"samples", "real", "real_groups"}, the measures of fidelity.py, "diversity",
"cluster_diversity"}, or the counts and "too_few" alone.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image
from tqdm import tqdm

from ..keyed_random import Key
from .bootstrap import halves
from .features import LEAST_SIZE, Extractor
from .fidelity import measure_fidelity
from .image_sets import ImageSet
from .labels import regions
from .perceptual import cluster_diversity, diversity, embed, within_memory

LEAST_IMAGES = 8  # of fewer, nothing is measured
LEAST_CROP = 16  # pixels
CONTEXT = 1.5  # side of a crop over the longer side of the region in it
SHOW_PROGRESS_FROM = 8  # batches
MOST_CROPS = 4  # of one type in one image: its largest regions


@dataclass(frozen=True)
class Seen:
    """N images, or crops, as the extractor sees them."""

    features: np.ndarray  # float32 [N, D]
    embedded: np.ndarray  # float32 [N', K]: those that perceptual.within_memory chose
    embedded_at: np.ndarray  # int64 [N']: which of the N these are
    has: np.ndarray  # bool [N, types + 1]: which types each holds; column 0 is of no use
    groups: list[str]
    sources: list[str]  # the images they show, windows and crops of one image being of one source

    def __len__(self) -> int:
        return len(self.groups)

    def take(self, indices: np.ndarray) -> Seen:
        """The images at these places, ascending."""
        kept = np.isin(self.embedded_at, indices)
        return Seen(
            self.features[indices],
            self.embedded[kept],
            np.searchsorted(indices, self.embedded_at[kept]),
            self.has[indices],
            [self.groups[i] for i in indices],
            [self.sources[i] for i in indices],
        )

    def having(self, index: int) -> Seen:
        """Those that hold the type `index`."""
        return self.take(np.flatnonzero(self.has[:, index]))


def look(images: ImageSet, extractor: Extractor, *key: Key) -> Seen:
    """Show images of one size, as arrays, to the extractor."""
    has = np.stack([np.bincount(mask.ravel(), minlength=len(images.class_names) + 1) > 0 for mask in images.masks])
    return _look(images.images, has, images.groups, sources(images), extractor, key)


def look_inside(images: ImageSet, extractor: Extractor, *key: Key) -> Seen:
    """Show the extractor crops around the regions of images of one size, a type each.

    A crop is CONTEXT times as wide and high as its region is at the longer side, LEAST_CROP at least, moved into the
    image and stretched to a square. At most MOST_CROPS of one type come from one image, those of its largest regions.
    """
    size = min(extractor.size, max(LEAST_SIZE, *images.images.shape[1:3]))
    crops, which, types = [], [], []
    for i, (image, mask) in enumerate(zip(images.images, images.masks, strict=True)):
        taken = np.zeros(len(images.class_names) + 1, np.int64)
        for region in regions(mask):
            taken[region.type] += 1
            if taken[region.type] <= MOST_CROPS:
                crops.append(_stretched(image, _with_context(region.box, mask.shape), size))
                which.append(i)
                types.append(region.type)
    has = np.eye(len(images.class_names) + 1, dtype=bool)[np.array(types, np.int64)]
    if not crops:
        nothing = np.empty((0, 1), np.float32)
        return Seen(nothing, nothing, np.empty(0, np.int64), has, [], [])
    source = sources(images)
    groups = [images.groups[i] for i in which]
    return _look(np.stack(crops), has, groups, [source[i] for i in which], extractor, key)


def compare(samples: Seen, real: Seen, train: Seen | None, class_names: Sequence[str], *key: Key) -> dict[str, Any]:
    """{"overall": block, "per_type": {name: block}} of samples against real images; clusters are around `train`."""
    per_type = {
        name: _block(samples.having(k), real.having(k), samples.having(k), train and train.having(k), key)
        for k, name in enumerate(class_names, start=1)
    }
    return {"overall": _block(samples, real, samples, train, key), "per_type": per_type}


def compare_halves(real: Seen, train: Seen | None, class_names: Sequence[str], *key: Key) -> dict[str, Any]:
    """The same of real images in the samples' place: distances between two halves, diversity of all of them."""

    def block(real: Seen, train: Seen | None) -> dict[str, Any]:
        one, other = (real.take(half) for half in halves(real.groups, *key))
        return _block(one, other, real, train, key)

    per_type = {name: block(real.having(k), train and train.having(k)) for k, name in enumerate(class_names, start=1)}
    return {"overall": block(real, train), "per_type": per_type}


def _block(samples: Seen, real: Seen, varied: Seen, train: Seen | None, key: Sequence[Key]) -> dict[str, Any]:
    """Fidelity of samples to real images; diversity of `varied`."""
    counts = {"samples": len(samples), "real": len(real), "real_groups": len(set(real.groups))}
    if min(len(samples), len(real)) < LEAST_IMAGES:
        return {"counts": counts, "too_few": f"{len(samples)} against {len(real)}"}
    embedded, at = varied.embedded, varied.embedded_at
    groups = [varied.groups[i] for i in at]
    clusters = None
    if train is not None and len(train.embedded):
        sources = [train.sources[i] for i in train.embedded_at]
        clusters = cluster_diversity(embedded, train.embedded, sources, groups, key)
    return {
        "counts": counts,
        **measure_fidelity(samples.features, real.features, real.groups, samples.groups, key),
        "diversity": diversity(embedded, groups, key),
        "cluster_diversity": clusters,
    }


def _look(
    images: np.ndarray,
    has: np.ndarray,
    groups: list[str],
    sources: list[str],
    extractor: Extractor,
    key: Sequence[Key],
) -> Seen:
    def progress(starts: range) -> Iterable[int]:
        return tqdm(starts, desc="features", unit="batch", leave=False, disable=len(starts) < SHOW_PROGRESS_FROM)

    at = within_memory(extractor, images, *key)
    features, embedded = extractor(images, progress=progress), embed(extractor, images[at], progress=progress)
    return Seen(features, embedded, at, has, list(groups), sources)


def sources(images: ImageSet) -> list[str]:
    """The images that they are or that they are windows of."""
    return [re.sub(r"#\d+$", "", name) for name in images.names]


def _with_context(box: tuple[int, int, int, int], shape: tuple[int, ...]) -> tuple[int, int, int, int]:
    """The crop (top, left, bottom, right) around a region's box in a mask of this shape."""
    top, left, bottom, right = box
    side = max(LEAST_CROP, math.ceil(CONTEXT * max(bottom - top, right - left)))
    height, width = min(side, shape[0]), min(side, shape[1])
    top = min(max(0, (top + bottom - height) // 2), shape[0] - height)
    left = min(max(0, (left + right - width) // 2), shape[1] - width)
    return top, left, top + height, left + width


def _stretched(image: np.ndarray, box: tuple[int, int, int, int], size: int) -> np.ndarray:
    """uint8 [size, size, 3] of a box of an image [H, W, 3]."""
    top, left, bottom, right = box
    crop = Image.fromarray(image[top:bottom, left:right])
    return np.array(crop.resize((size, size), Image.Resampling.BICUBIC))
