"""Connected regions of index masks: pixels of one type that touch, at a corner too, are one region."""

from collections.abc import Sequence

import cv2
import numpy as np
from scipy import ndimage


def number_regions(where: np.ndarray) -> tuple[np.ndarray, int]:
    """The regions of a boolean mask [H, W] as int32 [H, W], 0 where it is False, else 1..N; and N."""
    return ndimage.label(where, np.ones((3, 3)))


def unbroken(shares: np.ndarray, count: int = 1) -> np.ndarray:
    """bool [H, W] of `count` regions that were resampled and cover these shares of each pixel, float [H, W]: the pixels
    covered by half; by less, or at all, where that tears or loses regions."""
    least_off = np.inf
    for least in (0.5, 0.375, 0.25, 1e-6):  # a line of one pixel covers a quarter of pixels all along
        own = shares >= least
        off = abs(number_regions(own)[1] - count)
        if off < least_off:
            best, least_off = own, off
        if not off:
            break
    return best


def resize_shape(where: np.ndarray, size: Sequence[int]) -> np.ndarray:
    """A shape bool [H, W] at `size` = (height, width), its outline smooth, its regions unbroken."""
    way = cv2.INTER_AREA if size[0] < len(where) or size[1] < where.shape[1] else cv2.INTER_LINEAR
    shares = cv2.resize(where.astype(np.float32), tuple(size[::-1]), interpolation=way)
    return unbroken(shares, number_regions(where)[1])
