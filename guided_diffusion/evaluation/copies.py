"""Near-copies: the training image that a sample is most like, and how near is too near.

Distance: 1 - r, r the largest normalised cross-correlation (Lewis 1995) of band-passed grey images over the four flips
and all places: 0 is the same picture, 1 an unrelated one. Without the band-pass 13 to 16% of unrelated magnetic tiles
have r > 0.9, from their illumination alone. Near: less than MARGIN as far as the nearest held-out photograph of another
object. Without the margin 3 to 20% of unseen photographs count as copies; with it at most 1.5% on average.
"""

import math
from collections.abc import Sequence
from typing import Any

import cv2
import numpy as np
from PIL import Image
from tqdm import tqdm

from ..keyed_random import numpy_generator
from ..pictures import Tile, draw_sheet, fit_tile
from .bootstrap import Groups, share_interval
from .image_sets import BAR_DELAY, ImageSet, Row

FLIPS = {"none": (), "h": (1,), "v": (0,), "hv": (0, 1)}  # name -> axes of [H, W, 3]
MAX_SHIFT = 4  # pixels that a sample may hang over the border of a training image of its own size
COMPARED_SIDE = 64  # pixels: samples of twice that and more are reduced to it, or a little over
LEAST_STD = 0.1  # grey levels: what varies less is rounding, and like nothing
BLOCK = 48  # images among which distances are computed at a time
MOST_PAIRS = 24  # on the picture of the closest

MARGIN = 0.55
# Photographs of a trained object in a group of their own are the commonest mistake. Images so far out, in robust
# standard deviations of artanh r (1.4826 times the median absolute deviation, Hampel 1974), are named and set no limit.
FAR_OUT = 5.0
LARGEST_R = 0.9999  # where artanh still is a number
PLANTED = {  # copies that a limit should find: of float64 [N, H, W, 3]
    "exact": lambda x: x,
    "flipped": lambda x: x[:, :, ::-1],
    "shifted 3 px": lambda x: np.pad(x, [(0, 0), (3, 0), (3, 0), (0, 0)], "edge")[:, :-3, :-3],
    "brightened": lambda x: 1.2 * x + 10,
    "brightened and noisy": lambda x: 1.2 * x + 10 + 5 * numpy_generator("planted").normal(size=x.shape),
}


def place(samples: np.ndarray, train: Sequence[np.ndarray]) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """The best place of each sample, uint8 [N, H, W, 3], in each training image, uint8 [H', W', 3], no smaller.

    Returns distance (float32), flip (counting through FLIPS), and top and left of the window in the training image that
    the sample is like, below 0 where it hangs over; [N, M] each. Raises ValueError where an image is smaller."""
    height, width = samples.shape[1:3]
    if any(image.shape[0] < height or image.shape[1] < width for image in train):
        raise ValueError(f"an image is smaller than the samples of {height} x {width}")
    factor = max(1, min(height, width) // COMPARED_SIDE)
    side = min(height, width) / factor
    margin = max(1, round(side / 8))
    overhang = min(margin, math.ceil(MAX_SHIFT / factor))
    templates = [_band(sample, factor, side, margin) for sample in samples]
    found = np.zeros((4, len(samples), len(train)))  # r, flip, top, left
    for m, image in enumerate(tqdm(train, "comparing", unit="image", leave=False, delay=BAR_DELAY)):
        shift = overhang if image.shape == samples.shape[1:] else 0
        bands = [_band(np.flip(image, axes), factor, side, margin - shift) for axes in FLIPS.values()]
        for n, template in enumerate(templates):
            if template.std() > LEAST_STD:
                r = np.stack([cv2.matchTemplate(band, template, cv2.TM_CCOEFF_NORMED) for band in bands])
                flip, row, column = np.unravel_index(r.argmax(), r.shape)
                found[:, n, m] = r.max(), flip, (row - shift) * factor, (column - shift) * factor
    r, flip, *corner = found
    flip = flip.astype(int)
    for axis, start in enumerate(corner):  # in the flipped image until here
        room = [image.shape[axis] - samples.shape[1 + axis] for image in train]
        flipped = np.array([axis in axes for axes in FLIPS.values()])[flip]
        corner[axis] = np.where(flipped, room - start, start).astype(int)
    return (1 - r).clip(min=0).astype(np.float32), flip, *corner


def _band(image: np.ndarray, factor: int, side: float, crop: int) -> np.ndarray:
    """float32 [H / factor - 2 crop, W / factor - 2 crop]: the band of an image uint8 [H, W, 3] that is compared. side:
    the shorter one of a reduced sample."""
    height, width = (length // factor for length in image.shape[:2])
    grey = cv2.cvtColor(image[: height * factor, : width * factor].astype(np.float32), cv2.COLOR_RGB2GRAY)
    grey = cv2.resize(grey, (width, height), interpolation=cv2.INTER_AREA)
    taps = (2 * max(1, round(side / 8)) + 1,) * 2
    band = cv2.GaussianBlur(grey, taps, side / 64) - cv2.GaussianBlur(grey, taps, side / 16)
    return band[crop : height - crop, crop : width - crop]


def distances_among(images: np.ndarray) -> np.ndarray:
    """Distances float32 [N, N] between images uint8 [N, H, W, 3]; inf on the diagonal."""
    distances = np.full((len(images), len(images)), np.inf, np.float32)
    for start in range(0, len(images), BLOCK):
        stop = start + BLOCK
        distances[:stop, start:stop] = place(images[:stop], images[start:stop])[0]
    distances[np.tril_indices(len(images))] = np.inf
    return np.minimum(distances, distances.T)


def window_of(image: np.ndarray, flip: str, top: int, left: int, size: tuple[int, int]) -> np.ndarray:
    """What a sample of `size` (H, W) is like, uint8 [H, W, 3]: a window of a training image, its edges repeated."""
    window = image.take(range(top, top + size[0]), 0, mode="clip").take(range(left, left + size[1]), 1, mode="clip")
    return np.ascontiguousarray(np.flip(window, FLIPS[flip]))


def draw_closest_pairs(samples: ImageSet, train: ImageSet, rows: Sequence[Row], threshold: float) -> Image.Image:
    """The MOST_PAIRS samples with the least distance beside the training images' windows; near-copies framed in red.
    rows: of score_samples, in the order of the samples; train: the whole images given to it."""
    tiles = []
    for i in sorted(range(len(rows)), key=lambda i: rows[i]["nearest_train"]["distance"])[:MOST_PAIRS]:
        near = rows[i]["nearest_train"]
        image = train.images[train.names.index(near["name"])]
        window = window_of(image, near["flip"], near["top"], near["left"], samples.images.shape[1:3])
        caption = f"{rows[i]['name']}   {near['distance']:.3f}" + " near-copy" * near["copy"]
        note = near["name"] + ("" if near["flip"] == "none" else f", flipped {near['flip']}")
        tiles.append(Tile(fit_tile(samples.images[i]), fit_tile(window), caption, note=note, marked=near["copy"]))
    title = f"The {len(tiles)} of {len(rows):,} samples nearest to a training image"
    copies = sum(row["nearest_train"]["copy"] for row in rows)
    notes = [
        "left the sample, right the training image's window, flipped as matched",
        f"distance under {threshold:.3f}: near-copy, framed in red ({copies:,} of all)",
    ]
    return draw_sheet(title, notes, (), tiles)


def calibrate(distances: np.ndarray, groups: Groups, names: Sequence[str]) -> dict[str, Any]:
    """The limit from distances [N] of real images that are no copies, each group judged by the others.

    "value": a nearer one is a copy (0: fewer than two groups, nothing is). "far_out", "alarms": names of images that
    set no limit, and that count as copies; "false_alarms": the share of these, None with fewer than three groups."""
    own = np.array([str(group) for group in groups])
    value, far_out = near_limit(distances, own)
    known, under = set(own), np.zeros(len(own), bool)
    for group in known if len(known) > 2 else ():
        judged = own == group
        under[judged] = distances[judged] < near_limit(distances[~judged], own[~judged])[0]
    far_out, alarms = ([names[i] for i in np.flatnonzero(flags)] for flags in (far_out, under))
    share = share_interval(under, own) if len(known) > 2 else None
    about = {"far_out": far_out, "false_alarms": share, "alarms": alarms}
    return {"value": value, "images": len(own), "groups": len(known), **about}


def near_limit(distances: np.ndarray, groups: np.ndarray) -> tuple[float, np.ndarray]:
    """MARGIN times the least of distances [N] that is not far out, and bool [N] which are; groups [N] name objects."""
    z = np.arctanh(np.clip(1 - np.asarray(distances, np.float64), -LARGEST_R, LARGEST_R))
    far_out = np.zeros(len(z), bool)
    while True:
        median = np.median(z[~far_out])
        further = z > median + FAR_OUT * 1.4826 * np.median(np.abs(z[~far_out] - median))
        if (further <= far_out).all():
            break
        far_out |= further
    enough = len(set(groups[~far_out])) > 1
    return MARGIN * float(distances[~far_out].min()) if enough else 0.0, far_out


def plant(images: np.ndarray, kind: str) -> np.ndarray:
    """Copies of images uint8 [N, H, W, 3], altered in one of the ways of PLANTED."""
    return PLANTED[kind](images.astype(np.float64)).clip(0, 255).round().astype(np.uint8)
