"""Images and masks brought to one size, or cut into tiles.

Images are uint8 [H, W] or [H, W, 3], their index masks uint8 [H, W].
"""

from collections.abc import Iterator

import numpy as np

from ..data.image_files import resize_image, resize_mask
from ..keyed_random import numpy_generator

FITS = ("stretch", "crop", "pad")
Pair = tuple[np.ndarray, np.ndarray]


def fit(image: np.ndarray, mask: np.ndarray, size: tuple[int, int], how: str) -> Pair:
    """An image and its mask at `size` = (height, width). stretch: whatever the proportions. crop: scaled to cover
    `size`, then the window with the most defect pixels, the middle one among equals. pad: scaled to lie in `size`,
    centred, borders repeated outwards and called background."""
    scaled = scaled_size(mask.shape, size, how)
    image, mask = resize_image(image, scaled), resize_mask(mask, scaled)
    return _cut(image, mask, *_best_window(mask, size), size) if how == "crop" else _padded(image, mask, size)


def scaled_size(shape: tuple[int, int], size: tuple[int, int], how: str) -> tuple[int, ...]:
    """Height and width to which `fit` brings an image of that shape before it cuts or pads it."""
    if how == "stretch":
        return size
    factors = [target / side for target, side in zip(size, shape, strict=True)]
    factor = max(factors) if how == "crop" else min(factors)
    return tuple(max(1, round(side * factor)) for side in shape)


def tiles(
    image: np.ndarray, mask: np.ndarray, side: int, overlap: int, keep_empty: float, key: str
) -> Iterator[tuple[str, np.ndarray, np.ndarray]]:
    """("_y<top>_x<left>", image, mask) of square tiles: all with a defect, and a share `keep_empty` of the others,
    which ones `key` alone tells. Neighbours overlap by at least `overlap` pixels; the last ones end at the border;
    smaller images are padded."""
    image, mask = _padded(image, mask, tuple(max(side, length) for length in mask.shape))
    rng = numpy_generator("tiles", key)
    rows, columns = (sorted({*range(0, length - side, side - overlap), length - side}) for length in mask.shape)
    for top in rows:
        for left in columns:
            lucky = rng.random() < keep_empty
            piece, piece_mask = _cut(image, mask, top, left, (side, side))
            if lucky or piece_mask.any():
                yield f"_y{top}_x{left}", piece, piece_mask


def _cut(image: np.ndarray, mask: np.ndarray, top: int, left: int, size: tuple[int, int]) -> Pair:
    window = slice(top, top + size[0]), slice(left, left + size[1])
    return image[window], mask[window]


def _best_window(mask: np.ndarray, size: tuple[int, int]) -> Iterator[int]:
    """Top and left of the window of `size` with the most defect pixels; one axis is already of that size."""
    for axis, side in enumerate(size):
        sums = np.convolve((mask > 0).sum(axis=1 - axis), np.ones(side, np.int64), "valid")
        best = np.flatnonzero(sums == sums.max())
        yield int(best[np.abs(best - (len(sums) - 1) / 2).argmin()])


def _padded(image: np.ndarray, mask: np.ndarray, size: tuple[int, ...]) -> Pair:
    """Both centred in `size`."""
    margins = [target - side for target, side in zip(size, mask.shape, strict=True)]
    widths = [(margin // 2, margin - margin // 2) for margin in margins]
    return np.pad(image, widths + [(0, 0)] * (image.ndim - 2), mode="edge"), np.pad(mask, widths)
