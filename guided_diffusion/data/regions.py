"""Connected regions of index masks: pixels of one type that touch, at a corner too, are one region."""

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
from scipy import ndimage


class Region(NamedTuple):
    """A connected part of one type in a mask. box: top, left, bottom, right; the latter two are beyond it."""

    type: int  # index, 1..number of types
    pixels: int
    box: tuple[int, int, int, int]


def number_regions(where: np.ndarray) -> tuple[np.ndarray, int]:
    """The regions of a boolean mask [H, W] as int32 [H, W], 0 where it is False, else 1..N; and N."""
    return ndimage.label(where, np.ones((3, 3)))


def regions(mask: np.ndarray) -> list[Region]:
    """The regions of an index mask uint8 [H, W], type by type, the largest first."""
    found = []
    for index in np.unique(mask[mask > 0]).tolist():
        numbered, _ = number_regions(mask == index)
        for pixels, (y, x) in zip(np.bincount(numbered.ravel())[1:], ndimage.find_objects(numbered), strict=True):
            found.append(Region(index, int(pixels), (y.start, x.start, y.stop, x.stop)))
    return sorted(found, key=lambda region: (region.type, -region.pixels))


def least_broken(where: np.ndarray, found: Iterable[np.ndarray]) -> np.ndarray:
    """The first of `found`, ways to resample a shape bool [H, W], which has as many regions as it, or most nearly."""
    count, best = number_regions(where)[1], None
    for own in found:
        off = abs(number_regions(own)[1] - count)
        if best is None or off < best[0]:
            best = off, own
        if not off:
            break
    return best[1]


def unbroken(where: np.ndarray, shares: np.ndarray) -> np.ndarray:
    """bool [H, W] of a shape resampled, of whose pixels it covers these shares, float [H, W]: half or more, or less
    where that tears it."""
    return least_broken(where, (shares >= least for least in (0.5, 0.375, 0.25)))  # lines reach a quarter all along
