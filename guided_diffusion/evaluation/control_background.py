"""Samples drawn into photographs: whether all that was to stay did stay."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from scipy.ndimage import maximum_filter

from ..errors import InputError
from ..generation.conditions import Photographs
from ..prepare.layouts import stem_of
from .image_sets import ImageSet

MOST_NAMES = 8  # of differing samples, in the result


def read_photographs(folder: str, files: Sequence[str], size: tuple[int, int]) -> np.ndarray:
    """uint8 [N, H, W, 3]: those files of the folder, brought to `size` (H, W) as for generating.

    Raises InputError where one is missing or cannot be used.
    """
    photographs = Photographs.read(folder, size)
    if missing := [file for file in files if stem_of(file) not in photographs.places]:
        raise InputError(f"--background {folder}: has no {missing[0]}; name the folder that inference.py was given")
    return photographs.images[[photographs.places[stem_of(file)] for file in files]]


def measure_outside(samples: ImageSet, photographs: np.ndarray, margin: int) -> dict[str, Any]:
    """The largest difference of samples from their photographs [N, H, W, 3] further than `margin` px from a defect.

    {"samples", "pixels": compared ones, "largest": 0..255, "differ": number of samples, "names": of some of these}.
    """
    largest, pixels = [], 0
    for image, mask, photograph in zip(samples.images, samples.masks, photographs, strict=True):
        kept = far_from_defects(mask, margin)
        apart = np.abs(image[kept].astype(np.int16) - photograph[kept])
        largest.append(int(apart.max(initial=0)))
        pixels += int(kept.sum())
    differ = [name for name, most in zip(samples.names, largest, strict=True) if most]
    return {
        "samples": len(samples),
        "pixels": pixels,
        "largest": max(largest),
        "differ": len(differ),
        "names": differ[:MOST_NAMES],
    }


def far_from_defects(mask: np.ndarray, distance: int) -> np.ndarray:
    """bool [H, W]: pixels of an index mask further than `distance` from a defect, along rows and along columns."""
    return ~maximum_filter(mask > 0, 2 * distance + 1, mode="constant")
