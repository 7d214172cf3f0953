"""What the masks of samples say against those of real images: empty ones, specks, types, regions and their areas.

A region is a connected part of one type (scipy.ndimage.label; diagonal neighbours count). Areas are shares of an image.

How far two distributions are apart is their Wasserstein distance, the mean way by which the one must be moved to become
the other: in regions for their number, in doublings (log2) for their area. It is above 0 between two draws of one
distribution, too, the more so the fewer they are, and has a jackknife interval (bootstrap.py). Beside it stands the
shift, the difference of the means, of either sign.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy import ndimage
from scipy.stats import wasserstein_distance

from ..keyed_random import Key, numpy_generator
from .bootstrap import NUM_RESAMPLES, Resampling, jackknife_interval, mean_interval, share_interval, with_interval
from .image_sets import ImageSet

SPECK = 0.5  # of the smallest real region of its type: what is smaller is a speck


@dataclass(frozen=True)
class Region:
    """A connected part of one type in a mask."""

    type: int  # index, 1..number of types
    pixels: int
    box: tuple[int, int, int, int]  # top, left, bottom, right; the latter two are beyond it


def regions(mask: np.ndarray) -> list[Region]:
    """The regions of an index mask uint8 [H, W], type by type, the largest first."""
    found = []
    for index in np.unique(mask[mask > 0]).tolist():
        numbered, count = ndimage.label(mask == index, np.ones((3, 3)))
        sizes = np.bincount(numbered.ravel(), minlength=count + 1)
        boxes = ndimage.find_objects(numbered)
        own = [
            Region(index, int(sizes[n]), (rows.start, columns.start, rows.stop, columns.stop))
            for n, (rows, columns) in enumerate(boxes, start=1)
        ]
        found += sorted(own, key=lambda region: -region.pixels)
    return found


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


def measure_labels(
    samples: ImageSet, real: ImageSet, train: ImageSet, least: int, key: Sequence[Key] = ()
) -> dict[str, Any]:
    """The statistics that quality.json holds as "labels"; its layout stands in quality.py.

    samples, real: as the samples show them. train: whole images, for the types that were trained and the specks.
    least: images with a type that its distributions need on either side.
    """
    names = samples.class_names
    thresholds = speck_thresholds(train.masks, len(names))
    sides = {"samples": samples, "real": real}
    found = {side: [regions(mask) for mask in images.masks] for side, images in sides.items()}
    present = {side: {region.type for own in found[side] for region in own} for side in sides}
    trained = [k for k in range(1, len(names) + 1) if any((mask == k).any() for mask in train.masks)]

    def share(of: dict[str, list[bool]]) -> dict[str, Any]:
        return {side: share_interval(of[side], sides[side].groups) for side in sides}

    return {
        "empty": share({side: [not own for own in found[side]] for side in sides}),
        "speck": {
            **share({side: [is_speck_mask(mask, thresholds) for mask in sides[side].masks] for side in sides}),
            "threshold": {names[k - 1]: float(thresholds[k]) for k in trained},
        },
        "trained": [names[k - 1] for k in trained],
        "missing": [names[k - 1] for k in trained if k not in present["samples"]],
        "missing_in_real": [names[k - 1] for k in trained if k not in present["real"]],
        "per_type": {
            name: {
                "share": share({side: [any(r.type == k for r in own) for own in found[side]] for side in sides}),
                **_distributions(k, found, sides, least, key),
            }
            for k, name in enumerate(names, start=1)
        },
    }


def _distributions(
    index: int, found: dict[str, list[list[Region]]], sides: dict[str, ImageSet], least: int, key: Sequence[Key]
) -> dict[str, Any]:
    """Number and area of a type's regions, in the images that have it."""
    counts, areas, of_counts, of_areas = {}, {}, {}, {}
    for side, images in sides.items():
        own = [[region.pixels for region in image if region.type == index] for image in found[side]]
        has = [i for i, pixels in enumerate(own) if pixels]
        if len(has) < least:
            return {"regions": None, "area": None}
        counts[side] = np.array([len(own[i]) for i in has], np.float64)
        of_counts[side] = [images.groups[i] for i in has]
        areas[side] = np.log2([pixels / images.masks[i].size for i in has for pixels in own[i]])
        of_areas[side] = [images.groups[i] for i in has for _ in own[i]]
    log = {side: mean_interval(areas[side], of_areas[side], key=("labels", *key)) for side in sides}
    typical = {
        side: {
            "value": 2 ** log[side]["value"],
            "interval": log[side]["interval"] and [2**bound for bound in log[side]["interval"]],
        }
        for side in sides
    }
    means = {side: mean_interval(counts[side], of_counts[side], key=("labels", *key)) for side in sides}
    return {"regions": {**means, **_apart(counts, of_counts, key)}, "area": {**typical, **_apart(areas, of_areas, key)}}


def _apart(values: dict[str, np.ndarray], groups: dict[str, list[Hashable]], key: Sequence[Key]) -> dict[str, Any]:
    """Shift and Wasserstein distance of the samples' values from the real ones, as {"value", "interval"}."""
    (x, of_x), (y, of_y) = ((values[side], groups[side]) for side in ("samples", "real"))
    shift = with_interval(x.mean() - y.mean(), None)
    distance = with_interval(wasserstein_distance(x, y), None)
    if min(len(set(of_x)), len(set(of_y))) >= 2:
        drawn = [
            Resampling.draw(of, NUM_RESAMPLES, numpy_generator("labels", side, *key), least=1).weights
            for side, of in (("samples", of_x), ("real", of_y))
        ]
        means = [weights @ z / weights.sum(axis=1) for weights, z in zip(drawn, (x, y), strict=True)]
        shift = with_interval(shift["value"], means[0] - means[1])
        without = [Resampling.leave_out(of, numpy_generator("labels", *key)).weights for of in (of_x, of_y)]
        distance["interval"] = jackknife_interval(
            distance["value"],
            np.array([wasserstein_distance(x, y, u_weights=weights) for weights in without[0]]),
            np.array([wasserstein_distance(x, y, v_weights=weights) for weights in without[1]]),
        )
    return {"shift": shift, "wasserstein": distance}
