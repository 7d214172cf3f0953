"""A canvas larger than the images of training: overlapping windows of that size, blended in x_start at every step."""

from collections.abc import Callable, Mapping, Sequence
from itertools import product

import numpy as np
import torch
from torch import Tensor

from ..diffusion.samplers import PredictX0

WINDOWS = ("auto", "on", "off")
AUTO_AREAS = 4  # a canvas of more than so many training images is taken in windows

Place = tuple[int, int]  # top and left in the canvas
# (x_t of windows, place after place [places * N, C, h, w], t, their places) -> unclipped x_start of the windows
PredictWindows = Callable[[Tensor, int, tuple[Place, ...]], Tensor]


def place_windows(
    size: Sequence[int], window: Sequence[int], receptive_field: float, device: torch.device | str = "cpu"
) -> dict[Place, Tensor]:
    """Weights [h, w] of the windows that cover a canvas of `size` = (height, width), falling towards their edges."""
    # Neighbours share half of a window, since each lays out its own; of a patch-level network no more than its
    # receptive field, so that where a window counts most it has not seen its edge.
    overlaps = [int(min(side // 2, receptive_field)) for side in window]
    axes = product(*(_axis(*axis) for axis in zip(size, window, overlaps, strict=True)))
    return {(top, left): (down[:, None] * across).to(device) for (top, down), (left, across) in axes}


def windowed(predict: PredictWindows, weights: Mapping[Place, Tensor], at_once: int = 1) -> PredictX0:
    """A predict_x0 for a canvas from one for its windows.

    `at_once` windows are predicted at a time, each for all N samples; at last the last one again until they are so
    many, as networks are fastest at one shape. Where windows overlap their predictions are averaged. Predictions are
    blended unclipped: then blending x_start and eps is the same, and x_t keeps to one noise throughout."""

    def cut(x: Tensor, place: Place) -> Tensor:
        top, left, (height, width) = *place, weights[place].shape
        return x[..., top : top + height, left : left + width]

    def predict_x0(x_t: Tensor, t: int) -> Tensor:
        x_start, left = torch.zeros_like(x_t), list(weights)
        while left:
            here, left = left[:at_once], left[at_once:]
            places = (*here, *here[-1:] * (at_once - len(here)))
            x = torch.cat([cut(x_t, place) for place in places]).contiguous(memory_format=torch.channels_last)
            for place, found in zip(here, predict(x, t, places).chunk(at_once), strict=False):
                cut(x_start, place).add_(weights[place] * found)
        return x_start

    return predict_x0


def _axis(length: int, side: int, overlap: int) -> list[tuple[int, Tensor]]:
    """The first pixels of windows of `side` pixels, spread evenly on an axis of `length` with `overlap` pixels or more
    in common, and their weights float32 [side]: positive, those of a pixel summing to one."""
    count = 1 - (side - length) // (side - overlap)
    starts = [round(i * (length - side) / max(1, count - 1)) for i in range(count)]
    to_edge = np.minimum(np.arange(side), np.arange(side)[::-1]) + 0.5
    rising = np.sin(np.pi / 2 * np.minimum(1, to_edge / max(1, overlap))) ** 2
    total = np.zeros(length)
    for start in starts:
        total[start : start + side] += rising
    return [(start, torch.from_numpy(rising / total[start : start + side]).float()) for start in starts]
