"""A canvas larger than the images of training: overlapping windows, blended in x_start at every step.

So a network sees images of the size that it knows, and its activations do not grow with the canvas. What does is the
canvas itself: a few tensors of its size.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

from ..diffusion.samplers import PredictX0
from ..errors import InputError, unknown_name

WINDOWS = ("auto", "on", "off")
AUTO_AREAS = 4  # a canvas of more than so many training images is taken in windows

# (x_t of a window [N, C, h, w], t, its (top, left) in the canvas) -> unclipped x_start of the window
PredictWindow = Callable[[Tensor, int, tuple[int, int]], Tensor]


def resolve_windows(windows: str, size: Sequence[int], resolutions: Sequence[Sequence[int]]) -> str:
    """ "on" or "off" for samples of `size` = (height, width), from networks trained at `resolutions`.

    Raises InputError for an unknown name.
    """
    if windows not in WINDOWS:
        raise InputError(unknown_name("--windows", windows, WINDOWS))
    if windows != "auto":
        return windows
    area = min(height * width for height, width in resolutions)
    return "on" if size[0] * size[1] > AUTO_AREAS * area else "off"


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
    unclipped: then blending x_start and eps is the same, x_t keeps to one noise throughout, and whoever clips does so
    once, as without windows. Mask probabilities stay probabilities, being averaged.
    """
    rows, columns = (
        [(start, weights.to(device)) for start, weights in _axis(length, side, _overlap(side, receptive_field))]
        for length, side in zip(size, window, strict=True)
    )

    def predict_x0(x_t: Tensor, t: int) -> Tensor:
        x_start = torch.zeros_like(x_t)
        for top, down in rows:
            for left, across in columns:
                here = (..., slice(top, top + window[0]), slice(left, left + window[1]))
                x_start[here] += down[:, None] * across * predict(x_t[here], t, (top, left))
        return x_start

    return predict_x0


def _overlap(side: int, receptive_field: float) -> int:
    """Pixels that neighbouring windows share: half of them for a network that sees all of its window, since each lays
    out its own; no more than its receptive field for a patch-level one, so that where a window counts most it has not
    seen its edge."""
    return int(min(side // 2, receptive_field))


def _axis(length: int, side: int, overlap: int) -> list[tuple[int, Tensor]]:
    """Windows of `side` pixels along an axis of `length`: the first pixel of each, and its weights float32 [side].

    They are spread evenly and overlap by `overlap` pixels or more. The weights are positive, and those of a pixel sum
    to one.
    """
    count = 1 - (side - length) // (side - overlap)
    starts = [round(i * (length - side) / max(1, count - 1)) for i in range(count)]
    to_edge = np.minimum(np.arange(side), np.arange(side)[::-1]) + 0.5
    rising = np.sin(np.pi / 2 * np.minimum(1, to_edge / max(1, overlap))) ** 2
    total = np.zeros(length)
    for start in starts:
        total[start : start + side] += rising
    return [(start, torch.from_numpy(rising / total[start : start + side]).float()) for start in starts]
