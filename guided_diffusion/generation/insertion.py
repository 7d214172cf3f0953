"""Defects drawn into photographs of any size: a window around each is generated at the training's scale, and what the
networks changed there is brought back to the photograph's. Further than the margin it stays as it is, to the bit."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from math import ceil
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np

from ..data.image_files import resize_image, resize_mask
from ..errors import InputError, brief
from .conditions import Conditions
from .settings import Settings

if TYPE_CHECKING:
    from .api import DefectGen

MOST_WINDOWS = 4096  # of a photograph
LARGEST_SCALE = 1000.0


@dataclass(frozen=True)
class Window:
    """Where in a photograph defects are drawn; image uint8 [h, w, 3] and mask uint8 [h, w] there at the training's
    scale; how much of what is drawn counts, float32 [h, w], from 1 on a defect's border to 0 at the margin, cut to that
    when it is enlarged; and the pixels of the photograph that may change, uint8 0/1 of its own size."""

    rows: slice
    columns: slice
    image: np.ndarray
    mask: np.ndarray
    weight: np.ndarray
    near: np.ndarray


def find_scale(given: Sequence[float] | float | None, recorded: Sequence[float]) -> tuple[float, float]:
    """Pixels of a photograph to one of the training, (down, across): those given, or what the training recorded.
    Raises InputError."""
    try:
        values = recorded if given is None else np.ravel(given).tolist()
    except ValueError:  # lists of several lengths
        values = [given]
    if not values:
        raise InputError(
            "`scale`: the checkpoint does not tell how much larger its photographs were than what it trained on; give "
            "it, such as 4 for photographs of 256 pixels brought to 64"
        )
    sane = (isinstance(value, int | float) and 1 / LARGEST_SCALE <= value <= LARGEST_SCALE for value in values)
    if len(values) not in (1, 2) or not all(sane):
        raise InputError(f"`scale` {brief(list(values))}: must be one number or two, from 0.001 to 1000")
    return (values[0], values[-1])


def reach(scale: Sequence[float], margin: int) -> list[int]:
    """Pixels of the photograph, down and across, around a defect that are its window's: the margin and a pixel of the
    training's, as masks are brought to its scale."""
    return [ceil((margin + 1) * factor) for factor in scale]


def find_windows(
    photograph: np.ndarray, mask: np.ndarray, scale: Sequence[float], size: Sequence[int], multiple: int, margin: int
) -> list[Window]:
    """The windows that draw the defects of an index mask uint8 [H, W] into a photograph uint8 [H, W, 3].

    Defects that are nearer to each other than their margins share one. It shows size = (h, w) pixels of the training;
    of a larger defect as many as it needs, a multiple of `multiple`. Where the photograph is smaller, all of it is
    shown at that size."""
    contours = cv2.findContours(_grown(mask, reach(scale, margin)), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)[0]
    if len(contours) > MOST_WINDOWS:
        raise InputError(f"`masks`: one has {len(contours):,} separate defects; {MOST_WINDOWS:,} are the most")
    windows = []
    for (left, top, width, height), contour in sorted(((cv2.boundingRect(c), c) for c in contours), key=lambda c: c[0]):
        where, sides = [], []
        for axis, (start, extent) in enumerate(((top, height), (left, width))):
            length, side = mask.shape[axis], size[axis]
            if extent > side * scale[axis]:
                side = ceil(extent / scale[axis] / multiple) * multiple
            box = min(length, round(side * scale[axis]))
            first = min(max(0, start + extent // 2 - box // 2), length - box)
            where.append(slice(first, first + box))
            sides.append(side)
        rows, columns = where
        own = np.zeros(mask[rows, columns].shape, np.uint8)  # not what other windows draw
        cv2.drawContours(own, [contour], 0, 1, cv2.FILLED, offset=(-columns.start, -rows.start))
        own *= mask[rows, columns]
        near = _grown(own, [int(margin * factor) for factor in scale])
        small = resize_mask(own, sides, least=0)  # what is drawn is meant
        beside = cv2.distanceTransform((small == 0).astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
        weight = 1 - (beside - 0.5) / max(1, margin)
        image = resize_image(photograph[rows, columns], sides)
        windows.append(Window(rows, columns, image, small, weight, near))
    return windows


def _grown(mask: np.ndarray, by: Sequence[int]) -> np.ndarray:
    """uint8 [H, W]: 1 within so many pixels, down and across, from where a mask [H, W] is above 0."""
    down, across = map(min, by, mask.shape)
    return cv2.dilate((mask > 0).astype(np.uint8), np.ones((2 * down + 1, 2 * across + 1), np.uint8))


def paste(photograph: np.ndarray, window: Window, drawn: np.ndarray) -> None:
    """Put a generated window uint8 [h, w, 3] into its photograph uint8 [H, W, 3].

    What is added is the change, enlarged: finer detail than the training's, such as grain, stays that of the
    photograph. It fades out over the margin."""
    there = photograph[window.rows, window.columns]
    size, way = there.shape[1::-1], cv2.INTER_CUBIC if there.shape[0] >= drawn.shape[0] else cv2.INTER_AREA
    change = cv2.resize(np.subtract(drawn, window.image, dtype=np.float32), size, interpolation=way)
    weight = cv2.resize(window.weight, size, interpolation=cv2.INTER_LINEAR).clip(0, 1) * window.near
    there[:] = np.rint(np.clip(there + weight[..., None] * change, 0, 255))


def insert(
    generator: DefectGen,
    photographs: Sequence[np.ndarray],
    masks: Sequence[np.ndarray],
    indices: Sequence[int],
    scale: Sequence[float],
    batch_size: int | str,
    settings: Settings,
    **how: Any,
) -> list[np.ndarray]:
    """Photographs uint8 [H, W, 3], each of its own size, with the defects of its mask uint8 [H, W] drawn in.

    indices: the samples' numbers, which key their noise. settings: complete ones, whose image_size is the windows'.
    how: for DefectGen.draw. Windows of several photographs make a batch. Raises InputError."""
    results = [photograph.copy() for photograph in photographs]
    multiple = max(network.config.model.size_multiple for network in generator.networks.values() if network)
    todo = []  # (number, result, window)
    for index, result, mask in zip(indices, results, masks, strict=True):
        found = find_windows(result, mask, scale, settings.image_size, multiple, settings.margin)
        todo += [(int(index) * MOST_WINDOWS + k, result, window) for k, window in enumerate(found)]
    todo.sort(key=lambda job: (job[2].mask.shape, job[0]))
    for size, jobs in groupby(todo, key=lambda job: job[2].mask.shape):
        numbers, changed, windows = zip(*jobs, strict=True)
        own = settings
        if size != tuple(settings.image_size):
            own = generator.settings(settings, image_size=size, windows="on")
        given = (np.stack([getattr(window, key) for window in windows]) for key in ("mask", "image"))
        conditions = Conditions(generator.config, own, *given, numbers=numbers)
        most = generator.choose_batch_size(batch_size, len(numbers), own)
        drawn = generator.draw(numbers, most, settings=own, conditions=conditions, **how).images
        for result, window, image in zip(changed, windows, drawn, strict=True):
            paste(result, window, image)
    return results
