"""A canvas larger than the images of training: overlapping windows of that size, blended in x_start at every step."""

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

from ..diffusion.samplers import PredictX0

WINDOWS = ("auto", "on", "off")
AUTO_AREAS = 4  # a canvas of more than so many training images is taken in windows

# (x_t of a window [N, C, h, w], t, its (top, left) in the canvas) -> unclipped x_start of the window
PredictWindow = Callable[[Tensor, int, tuple[int, int]], Tensor]


def windowed(
    predict: PredictWindow,
    size: Sequence[int],
    window: Sequence[int],
    receptive_field: float,
    device: torch.device | str = "cpu",
) -> PredictX0:
    """A predict_x0 for a canvas of `size` = (height, width) from one for windows, no larger than the canvas.

    Windows are predicted one after the other, each for all N samples, so N windows are in memory at a time. Where they
    overlap their predictions are averaged, with weights that fall towards their edges. Predictions are blended
    unclipped: then blending x_start and eps is the same, and x_t keeps to one noise throughout.
    """
    # Neighbours share half of a window, since each lays out its own; of a patch-level network no more than its
    # receptive field, so that where a window counts most it has not seen its edge.
    overlaps = [int(min(side // 2, receptive_field)) for side in window]
    rows, columns = (
        [(start, weights.to(device)) for start, weights in _axis(*axis)]
        for axis in zip(size, window, overlaps, strict=True)
    )

    def predict_x0(x_t: Tensor, t: int) -> Tensor:
        x_start = torch.zeros_like(x_t)
        for top, down in rows:
            for left, across in columns:
                here = (..., slice(top, top + window[0]), slice(left, left + window[1]))
                x_start[here] += down[:, None] * across * predict(x_t[here], t, (top, left))
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
