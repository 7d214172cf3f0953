"""Near-copies: the training image that a sample is most like, and how near is too near.

Distance: 1 - r, r the largest normalised cross-correlation (Lewis 1995) of band-passed grey images over the four flips
and all places: 0 is the same picture, 1 an unrelated one. Without the band-pass 13 to 16% of unrelated magnetic tiles
have r > 0.9, from their illumination alone. Samples of 128 px and more are reduced to 64 px or a little over.
Near: less than MARGIN as far from a training image as the nearest held-out photograph of another object. Without the
margin 3 to 20% of unseen photographs count as copies; with it at most 1.5% on average.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import cv2
import numpy as np
from PIL import Image
from tqdm import tqdm

from ..keyed_random import numpy_generator
from ..pictures import Tile, draw_sheet, fit_tile
from .bootstrap import share_interval
from .image_sets import ImageSet

FLIPS = {"none": (), "h": (1,), "v": (0,), "hv": (0, 1)}  # name -> axes of [H, W, 3]
MAX_SHIFT = 4  # pixels that a sample may hang over the border of a training image of its own size
COMPARED_SIDE = 64  # pixels: samples of twice that and more are reduced to it
LEAST_STD = 0.1  # grey levels: what varies less is rounding, and like nothing
CANVAS_PIXELS = 1 << 16  # of training images searched at a time: what matchTemplate takes as one block at 64 px
BLOCK = 48  # images among which distances are computed at a time
SHOW_PROGRESS_ABOVE = 100_000  # pairs of samples and flipped images
MOST_PAIRS = 24  # on the picture of the closest

MARGIN = 0.55
# Photographs of a trained object in a group of their own are the commonest mistake. Images so far out, in robust
# standard deviations of artanh r (1.4826 times the median absolute deviation, Hampel 1974), are named and set no limit.
FAR_OUT = 5.0
LARGEST_R = 0.9999  # where artanh still is a number
PLANTED = ("exact", "flipped", "shifted 3 px", "brightened", "brightened and noisy")  # by 1.2 x + 10; noise of std 5


class Match(NamedTuple):
    """What a sample is like: a window of training image number `train`, flipped (none, h, v or hv).

    top, left: its corner in pixels, below 0 where the window hangs over.
    """

    train: int
    flip: str
    top: int
    left: int
    distance: float


def nearest(samples: np.ndarray, train: Sequence[np.ndarray]) -> list[Match]:
    """The best match of each sample; arguments and errors as of place."""
    distance, flip, top, left = place(samples, train)
    at = np.arange(len(samples)), distance.argmin(axis=1)
    best = zip(at[1].tolist(), *(part[at].tolist() for part in (flip, top, left, distance)), strict=True)
    return [Match(train, list(FLIPS)[flip], *rest) for train, flip, *rest in best]


def place(samples: np.ndarray, train: Sequence[np.ndarray]) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """The best place of each sample, uint8 [N, H, W, 3], in each training image, uint8 [H', W', 3], no smaller.

    Returns distance (float32), flip (counting through FLIPS), top and left, [N, M] each. Raises ValueError where an
    image is smaller.
    """
    height, width = samples.shape[1:3]
    if any(image.shape[0] < height or image.shape[1] < width for image in train):
        raise ValueError(f"an image is smaller than the samples of {height} x {width}")
    factor = max(1, min(height, width) // COMPARED_SIDE)
    margin = max(1, round(min(height, width) / factor / 8))
    overhang = min(margin, math.ceil(MAX_SHIFT / factor))
    templates = np.stack([_band(sample, samples.shape, factor, margin) for sample in samples])
    templates -= templates.mean(axis=(1, 2), keepdims=True)
    flat = templates.std(axis=(1, 2), keepdims=True) <= LEAST_STD  # is like nothing
    templates = np.where(flat, 0, templates / np.where(flat, 1, np.linalg.norm(templates, axis=(1, 2), keepdims=True)))
    shifts = [overhang if image.shape == samples.shape[1:] else 0 for image in train]
    pixels = len(FLIPS) * max(image.shape[0] * image.shape[1] for image in train) // factor**2
    step = max(1, CANVAS_PIXELS // pixels)
    found = []
    for start in range(0, len(train), step):
        chosen = zip(train[start : start + step], shifts[start : start + step], strict=True)
        bands = [
            _band(np.flip(image, axes), samples.shape, factor, margin - shift)
            for image, shift in chosen
            for axes in FLIPS.values()
        ]
        found.append(_search(templates, bands))
    r, flip, *of_flipped = np.concatenate(found, axis=2)
    flip, corner = flip.astype(int), []
    for axis, at in enumerate(of_flipped):
        start = ((at - shifts) * factor).astype(int)
        room = np.array([image.shape[axis] - samples.shape[1 + axis] for image in train])
        flipped = np.array([axis in axes for axes in FLIPS.values()])[flip]
        corner.append(np.where(flipped, room - start, start))
    return (1 - r).clip(min=0).astype(np.float32), flip, *corner


def _band(image: np.ndarray, samples: tuple[int, ...], factor: int, crop: int) -> np.ndarray:
    """float32 [H / factor - 2 crop, W / factor - 2 crop]: the band of an image uint8 [H, W, 3] that is compared."""
    height, width = (side // factor for side in image.shape[:2])
    grey = cv2.cvtColor(image[: height * factor, : width * factor].astype(np.float32), cv2.COLOR_RGB2GRAY)
    grey = cv2.resize(grey, (width, height), interpolation=cv2.INTER_AREA)
    side = min(samples[1:3]) / factor
    taps = (2 * max(1, round(side / 8)) + 1,) * 2
    band = cv2.GaussianBlur(grey, taps, side / 64) - cv2.GaussianBlur(grey, taps, side / 16)
    return band[crop : height - crop, crop : width - crop]


def _search(templates: np.ndarray, bands: Sequence[np.ndarray]) -> np.ndarray:
    """Correlation, flip, row and column of the best place of each unit template [N, h, w] in each image: [4, N, M].

    bands: float32, the flips of each image in a row. They lie in a grid on one canvas, searched in one call a template.
    """
    high, wide = templates.shape[1:]
    tall, broad = (max(sides) for sides in zip(*(band.shape for band in bands), strict=True))
    columns = math.isqrt(len(bands))
    rows = math.ceil(len(bands) / columns)
    canvas = np.zeros((rows * tall, columns * broad), np.float32)
    inside = np.zeros(canvas.shape, bool)
    for number, band in enumerate(bands):
        y, x = number // columns * tall, number % columns * broad
        canvas[y : y + band.shape[0], x : x + band.shape[1]] = band
        inside[y : y + band.shape[0] - high + 1, x : x + band.shape[1] - wide + 1] = True
    boxes = {"ddepth": cv2.CV_64F, "ksize": (wide, high), "anchor": (0, 0), "borderType": cv2.BORDER_CONSTANT}
    variance = cv2.sqrBoxFilter(canvas, **boxes) - cv2.boxFilter(canvas, **boxes) ** 2
    variance = np.where(inside, variance, 0)
    norm = np.where(variance > LEAST_STD**2, np.sqrt(high * wide * variance.clip(min=0)), np.inf)
    scale = (1 / norm).astype(np.float32)
    found, r = [], np.zeros_like(canvas)
    quiet = len(templates) * len(bands) <= SHOW_PROGRESS_ABOVE
    for template in tqdm(templates, "comparing", unit="image", leave=False, disable=quiet):
        r[: 1 - high or None, : 1 - wide or None] = cv2.matchTemplate(canvas, template, cv2.TM_CCORR)
        cells = (r * scale).reshape(rows, tall, columns, broad).swapaxes(1, 2).reshape(rows * columns, -1)
        images = cells[: len(bands)].reshape(len(bands) // len(FLIPS), -1)
        best = images.argmax(axis=1)
        found.append([images[np.arange(len(images)), best], *np.unravel_index(best, (len(FLIPS), tall, broad))])
    return np.array(found).swapaxes(0, 1)


def distances_among(images: np.ndarray) -> np.ndarray:
    """Distances float32 [N, N] between images uint8 [N, H, W, 3]; inf on the diagonal. 500 of 64 px take 11 s."""
    distances = np.full((len(images), len(images)), np.inf, np.float32)
    for start in range(0, len(images), BLOCK):
        stop = start + BLOCK
        distances[:stop, start:stop] = place(images[:stop], images[start:stop])[0]
    distances[np.tril_indices(len(images))] = np.inf
    return np.minimum(distances, distances.T)


def window_of(image: np.ndarray, flip: str, top: int, left: int, size: tuple[int, int]) -> np.ndarray:
    """What a sample of `size` (H, W) is like, uint8 [H, W, 3]: a window of a training image, its edges repeated."""
    rows, columns = (
        np.clip(np.arange(start, start + side), 0, limit - 1)
        for start, side, limit in zip((top, left), size, image.shape[:2], strict=True)
    )
    return np.ascontiguousarray(np.flip(image[rows[:, None], columns], FLIPS[flip]))


def draw_closest_pairs(
    samples: ImageSet, train: ImageSet, rows: Sequence[dict[str, Any]], threshold: float
) -> Image.Image:
    """The MOST_PAIRS samples with the least distance beside the training images' windows; near-copies framed in red.

    rows: of score_samples, in the order of the samples; train: the whole images given to it.
    """
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
    notes = (
        "left the sample, right the training image's window, flipped as matched   "
        f"distance under {threshold:.3f}: near-copy, framed in red ({copies:,} of all)"
    )
    return draw_sheet(title, notes, (), tiles)


@dataclass(frozen=True)
class Threshold:
    """A distance below which something is a copy (0: fewer than two groups, nothing is), and what it was made from.

    far_out, alarms: names of images that set no limit, and that count as copies, each judged by the other groups.
    false_alarms: {"value", "interval"}, the share of alarms; None with fewer than three groups.
    """

    value: float
    calibrated_on: str
    images: int
    groups: int
    far_out: list[str]
    false_alarms: dict[str, Any] | None
    alarms: list[str]
    planted_found: dict[str, float] | None = None  # the share of planted copies that are found, by kind


def calibrate(distances: np.ndarray, groups: Sequence[Hashable], names: Sequence[str], calibrated_on: str) -> Threshold:
    """The threshold from distances [N] of real images that are no copies, each group judged by the others."""
    own = np.array([str(group) for group in groups])
    value, far_out = near_limit(distances, own)
    known, under = set(own), np.zeros(len(own), bool)
    for group in known if len(known) > 2 else ():
        judged = own == group
        under[judged] = distances[judged] < near_limit(distances[~judged], own[~judged])[0]
    far_out, alarms = ([names[i] for i in np.flatnonzero(flags)] for flags in (far_out, under))
    share = share_interval(under, own) if len(known) > 2 else None
    return Threshold(value, calibrated_on, len(own), len(known), far_out, share, alarms)


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
    x = images.astype(np.float64)
    if kind == "flipped":
        x = x[:, :, ::-1]
    elif kind == "shifted 3 px":
        x = np.pad(x, [(0, 0), (3, 0), (3, 0), (0, 0)], "edge")[:, :-3, :-3]
    elif kind.startswith("brightened"):
        x = 1.2 * x + 10
    if kind.endswith("noisy"):
        x += 5 * numpy_generator("planted").normal(size=x.shape)
    return x.clip(0, 255).round().astype(np.uint8)
