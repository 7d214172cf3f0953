"""What masks hold: empty ones, specks, types, regions and their areas, of samples and of real images."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from ..data.regions import regions
from ..keyed_random import Key
from .bootstrap import mean_interval, share_interval, with_interval
from .image_sets import ImageSet

SPECK = 0.5  # of the smallest real region of its type: what is smaller is a speck


def speck_thresholds(masks: Sequence[np.ndarray], num_types: int) -> np.ndarray:
    """Pixels float64 [num_types + 1] below which a region of each type is a speck, by real index masks.

    SPECK times the smallest of the masks' largest regions of that type; 0 for types that are in none.
    """
    thresholds = np.full(num_types + 1, np.inf)
    for mask in masks:
        for index, pixels in _largest(mask).items():
            thresholds[index] = min(thresholds[index], SPECK * pixels)
    return np.where(np.isinf(thresholds), 0, thresholds)


def is_speck_mask(mask: np.ndarray, thresholds: np.ndarray) -> bool:
    """Whether the index mask [H, W] holds regions, but only specks."""
    largest = _largest(mask)
    return bool(largest) and all(pixels < thresholds[index] for index, pixels in largest.items())


def _largest(mask: np.ndarray) -> dict[int, int]:
    """Pixels of the largest region of each type in a mask."""
    return {region.type: region.pixels for region in reversed(regions(mask))}


def measure_labels(sides: dict[str, ImageSet], train: ImageSet, key: Sequence[Key] = ()) -> dict[str, Any]:
    """What quality.json holds as "labels", of each of `sides` ("samples", "real" and others), as the samples show them.

    train: whole images, for the specks and the types that were trained. "regions" is the mean number in images that
    have the type, "area" the median share of the image; None where no image has it.
    """
    names, thresholds = train.class_names, speck_thresholds(train.masks, len(train.class_names))
    found = {side: _measure(images, thresholds, key) for side, images in sides.items()}
    trained = [name for k, name in enumerate(names, start=1) if any((mask == k).any() for mask in train.masks)]
    return {
        **{part: {side: own[part] for side, own in found.items()} for part in ("empty", "speck")},
        "trained": trained,
        "missing": [name for name in trained if not found["samples"]["per_type"][name]["area"]],
        "missing_in_real": [name for name in trained if not found["real"]["per_type"][name]["area"]],
        "per_type": {
            name: {
                part: {side: own["per_type"][name][part] for side, own in found.items()}
                for part in ("share", "regions", "area")
            }
            for name in names
        },
    }


def _measure(images: ImageSet, thresholds: np.ndarray, key: Sequence[Key]) -> dict[str, Any]:
    """{"empty", "speck": CI, "per_type": {name: {"share", "regions", "area": CI}}}."""
    found = [regions(mask) for mask in images.masks]
    result: dict[str, Any] = {
        "per_type": {},
        "empty": share_interval([not own for own in found], images.groups),
        "speck": share_interval([is_speck_mask(mask, thresholds) for mask in images.masks], images.groups),
    }
    for k, name in enumerate(images.class_names, start=1):
        pixels = [[region.pixels for region in own if region.type == k] for own in found]
        areas = [one / mask.size for own, mask in zip(pixels, images.masks, strict=True) for one in own]
        counts = [len(own) or np.nan for own in pixels]
        result["per_type"][name] = {
            "share": share_interval([bool(own) for own in pixels], images.groups),
            "regions": mean_interval(counts, images.groups, key=("labels", *key)),
            "area": with_interval(np.median(areas), None) if areas else None,
        }
    return result
