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
    scaled = size
    if how != "stretch":
        factors = [target / side for target, side in zip(size, image.shape, strict=False)]
        factor = max(factors) if how == "crop" else min(factors)
        scaled = tuple(max(1, round(side * factor)) for side in image.shape[:2])
    image = resize_image(image, scaled)
    mask = None if mask is None else resize_mask(mask, scaled)
    if how != "crop":
        return _padded(image, mask, size)
    top, left = _best_window(np.zeros(scaled, np.uint8) if mask is None else mask, size)
    return _cut(image, mask, top, left, size)


def tiles(
    image: np.ndarray, mask: np.ndarray | None, side: int, overlap: int, keep_empty: float, key: str
) -> Iterator[tuple[str, np.ndarray, np.ndarray | None]]:
    """("_y<top>_x<left>", image, mask) of square tiles: all with a defect, and a share `keep_empty` of the others.

    Neighbours overlap by at least `overlap` pixels; the last ones end at the border; smaller images are padded. Which
    tiles without a defect are kept depends on `key` alone. An image without mask (defect-free) has such tiles only.
    """
    size = max(side, image.shape[0]), max(side, image.shape[1])
    image, mask = _padded(image, mask, size)
    rng = numpy_generator("tiles", key)
    rows, columns = (sorted({*range(0, length - side, side - overlap), length - side}) for length in size)
    for top in rows:
        for left in columns:
            lucky = rng.random() < keep_empty
            piece, piece_mask = _cut(image, mask, top, left, (side, side))
            if lucky or (piece_mask is not None and piece_mask.any()):
                yield f"_y{top}_x{left}", piece, piece_mask


def _cut(
    image: np.ndarray, mask: np.ndarray | None, top: int, left: int, size: tuple[int, int]
) -> tuple[np.ndarray, np.ndarray | None]:
    window = slice(top, top + size[0]), slice(left, left + size[1])
    return image[window], None if mask is None else mask[window]


def _best_window(mask: np.ndarray, size: tuple[int, int]) -> tuple[int, int]:
    """Top and left of the window of `size` with the most defect pixels; one axis is already of that size."""
    place = []
    for axis in (0, 1):
        along = (mask > 0).sum(axis=1 - axis)
        sums = np.convolve(along, np.ones(size[axis], np.int64), "valid")
        best = np.flatnonzero(sums == sums.max())
        place.append(int(best[np.abs(best - (len(sums) - 1) / 2).argmin()]))
    return place[0], place[1]


def _padded(image: np.ndarray, mask: np.ndarray | None, size: tuple[int, int]) -> tuple[np.ndarray, np.ndarray | None]:
    """Both centred in `size`."""
    margins = [(target - side) for target, side in zip(size, image.shape, strict=False)]
    widths = [(margin // 2, margin - margin // 2) for margin in margins]
    image = np.pad(image, widths + [(0, 0)] * (image.ndim - 2), mode="edge")
    return image, None if mask is None else np.pad(mask, widths)
