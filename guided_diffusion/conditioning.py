"""Generating under constraints: parts of the clean image that are given, as a wrapper of predict_x0.

The networks model image and masks together, so either can be held while the other is drawn: masks that are given get
an image, and a photograph gets a defect where a mask wants one. No network has to be trained for it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import sqrt

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from .errors import InputError
from .masks import MASK, RGB, JointLayout
from .samplers import PredictX0

DEFAULT_MARGIN = 4  # pixels around a defect that are drawn anew


@dataclass(frozen=True)
class Known:
    """Parts of x_start that are given.

    values: float32 [N, C, H, W], in the joint tensor's ranges. where: bool [N, C, H, W], True where they hold.
    """

    values: Tensor
    where: Tensor

    def start(self, noise: Tensor, alpha_bar: float) -> Tensor:
        """x_t at the first timestep: noise, but what is known diffused to that level."""
        diffused = sqrt(alpha_bar) * self.values + sqrt(1 - alpha_bar) * noise
        return torch.where(self.where, diffused, noise)

    def wrap(self, predict_x0: PredictX0 | None) -> PredictX0 | None:
        """A predict_x0 that says what is known; samplers derive eps after it, so x_t keeps to it at every level."""
        if predict_x0 is None:
            return None

        def predict(x_t: Tensor, t: int) -> Tensor:
            return self.paste(predict_x0(x_t, t))

        return predict

    def paste(self, x_start: Tensor) -> Tensor:
        """x_start with what is known put in, to the bit."""
        return torch.where(self.where, self.values, x_start)


@dataclass(frozen=True)
class Held:
    """What samples are held to: sample i to row i modulo their number. See DefectGen.generate."""

    masks: np.ndarray
    backgrounds: np.ndarray | None
    margin: int

    def of(self, indices: Sequence[int], layout: JointLayout, device: torch.device) -> Known:
        rows = np.asarray(indices) % len(self.masks)
        backgrounds = None if self.backgrounds is None else self.backgrounds[rows]
        return known_masks(layout, self.masks[rows], backgrounds, self.margin, device)


def check_held(
    masks: np.ndarray | None,
    backgrounds: np.ndarray | None,
    margin: int,
    image_size: Sequence[int],
    num_defect: int,
) -> Held | None:
    """What generate() was given, checked; None where nothing is held. Raises InputError."""
    if masks is None:
        if backgrounds is not None:
            raise InputError("backgrounds: need masks that say where the defects go; give masks too")
        return None
    if masks.dtype != np.uint8 or masks.ndim != 3 or masks.shape[1:] != tuple(image_size) or not len(masks):
        raise InputError(
            f"masks: {masks.dtype} {list(masks.shape)}, expected uint8 [M, {image_size[0]}, {image_size[1]}]"
        )
    if masks.max() > num_defect:
        raise InputError(f"masks: hold type {masks.max()}, but the networks know {num_defect}; correct them")
    if backgrounds is not None and (backgrounds.dtype != np.uint8 or backgrounds.shape != (*masks.shape, 3)):
        raise InputError(
            f"backgrounds: {backgrounds.dtype} {list(backgrounds.shape)}, expected uint8 {[*masks.shape, 3]}"
        )
    if margin < 0:
        raise InputError(f"--margin {margin}: must be 0 or more")
    return Held(masks, backgrounds, margin)


def known_masks(
    layout: JointLayout, masks: np.ndarray, backgrounds: np.ndarray | None, margin: int, device: torch.device
) -> Known:
    """Hold index masks, and photographs outside of what the masks mark.

    masks: uint8 [N, H, W]. backgrounds: uint8 [N, H, W, 3], or None: all of the image is drawn. margin: pixels around a
    defect that are drawn anew too, so that it grows into the photograph.
    """
    index = torch.from_numpy(np.ascontiguousarray(masks)).to(device)
    rgb = np.zeros((*masks.shape, 3), np.uint8) if backgrounds is None else backgrounds
    images = torch.from_numpy(np.ascontiguousarray(rgb)).to(device).permute(0, 3, 1, 2)  # [N, 3, H, W]
    values = layout.encode(images, index)
    where = torch.zeros_like(values, dtype=torch.bool)
    where[:, MASK] = True
    if backgrounds is not None:
        defect = (index > 0).float()[:, None]
        where[:, RGB] = F.max_pool2d(defect, 2 * margin + 1, stride=1, padding=margin) == 0
    return Known(values, where)
