"""Images and masks brought to one size, or cut into tiles."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from ..data.image_files import resize_image, resize_mask
from ..keyed_random import numpy_generator

FITS = ("stretch", "crop", "pad")


def fit(
    image: np.ndarray, mask: np.ndarray | None, size: tuple[int, int], how: str
) -> tuple[np.ndarray, np.ndarray | None]:
    """An image uint8 [H, W] or [H, W, 3] and its index mask uint8 [H, W] at `size` = (height, width).

    stretch: whatever the proportions. crop: scaled to cover `size`, then the window with the most defect pixels, the
    middle one among equals. pad: scaled to lie in `size`, centred, borders repeated outwards and called background.
    """
    factors = [target / side for target, side in zip(size, image.shape, strict=False)]
    if how == "stretch":
        scaled = size
    else:
        factor = max(factors) if how == "crop" else min(factors)
        scaled = tuple(max(1, round(side * factor)) for side in image.shape[:2])
    image = resize_image(image, scaled)
    mask = None if mask is None else resize_mask(mask, scaled)
    if how == "crop":
        top, left = _best_window(np.zeros(scaled, np.uint8) if mask is None else mask, size)
        window = slice(top, top + size[0]), slice(left, left + size[1])
        return image[window], None if mask is None else mask[window]
    return _padded(image, size), None if mask is None else _padded(mask, size, mode="constant")


def tiles(
    image: np.ndarray, mask: np.ndarray | None, side: int, overlap: int, keep_empty: float, key: str
) -> Iterator[tuple[str, np.ndarray, np.ndarray | None]]:
    """("_y<top>_x<left>", image, mask) of square tiles: all with a defect, and a share `keep_empty` of the others.

    Neighbours overlap by at least `overlap` pixels; the last ones end at the border; smaller images are padded. Which
    tiles without a defect are kept depends on `key` alone. An image without mask (defect-free) has such tiles only.
    """
    size = max(side, image.shape[0]), max(side, image.shape[1])
    image = _padded(image, size)
    mask = None if mask is None else _padded(mask, size, mode="constant")
    rng = numpy_generator("tiles", key)
    for top in _places(size[0], side, overlap):
        for left in _places(size[1], side, overlap):
            window = slice(top, top + side), slice(left, left + side)
            lucky = rng.random() < keep_empty
            if lucky or (mask is not None and mask[window].any()):
                yield f"_y{top}_x{left}", image[window], None if mask is None else mask[window]


def _places(length: int, side: int, overlap: int) -> list[int]:
    """First pixels of windows of `side` that cover `length`."""
    step = side - overlap
    return sorted({*range(0, length - side, step), length - side})


def _best_window(mask: np.ndarray, size: tuple[int, int]) -> tuple[int, int]:
    """Top and left of the window of `size` with the most defect pixels; one axis is already of that size."""
    place = []
    for axis in (0, 1):
        along = (mask > 0).sum(axis=1 - axis)
        sums = np.convolve(along, np.ones(size[axis], np.int64), "valid")
        best = np.flatnonzero(sums == sums.max())
        place.append(int(best[np.abs(best - (len(sums) - 1) / 2).argmin()]))
    return place[0], place[1]


def _padded(array: np.ndarray, size: tuple[int, int], mode: str = "edge") -> np.ndarray:
    """[H, W, ...] centred in `size`."""
    margins = [(target - side) for target, side in zip(size, array.shape, strict=False)]
    widths = [(margin // 2, margin - margin // 2) for margin in margins] + [(0, 0)] * (array.ndim - 2)
    return np.pad(array, widths, mode=mode) if any(margins) else array
