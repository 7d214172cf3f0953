"""Augmentation that does not leak: the network is told what was done to an image, so its samples need not show it.

Karras et al. 2022, appendix F.2, with the strengths given there; the idea is Jun et al. 2020.
"""

import math

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ..precision import to_device

AUGMENTATIONS = 9  # numbers that tell them: mirrored, turned (2), scale, moved (2), brightness, contrast, gamma
SCALE, SHIFT = 0.2, 0.125  # standard deviations: of log2, of the image's side
BRIGHTNESS, CONTRAST, GAMMA = 0.2, 0.5, 0.2  # of what is added in [-1, 1], of log2, of the natural logarithm


def augment(images: Tensor, masks: Tensor, share: float, rng: np.random.Generator) -> tuple[Tensor, Tensor, Tensor]:
    """Images [B, 3, H, W] in 0..255, as float32, index masks uint8 [B, H, W], and what was done, [B, AUGMENTATIONS].

    Each augmentation is applied to a `share` of the images, geometry to images (bilinear) and masks (nearest) alike;
    what comes in from outside is mirrored. Quarter turns are for squares; others are turned by half."""
    count, (height, width) = len(images), masks.shape[1:]
    chosen = rng.random((count, 7)) < share
    z = rng.standard_normal((count, 6)) * chosen[:, [2, 3, 3, 4, 5, 6]]
    mirrored = chosen[:, 0] & (rng.random(count) < 0.5)
    turns = rng.integers(0, 4, count) * chosen[:, 1] * (1 if height == width else 2)
    cos, sin = np.cos(turns * math.pi / 2).round(), np.sin(turns * math.pi / 2).round()
    scale, moved, (bright, contrast, gamma) = z[:, 0], z[:, 1:3], z[:, 3:].T
    told = np.stack([mirrored, cos - 1, sin, scale, *moved.T, bright, contrast, gamma], axis=1)

    flip = 1 - 2.0 * mirrored
    inverse = np.stack([[flip * cos, sin, 2 * SHIFT * moved[:, 0]], [-flip * sin, cos, 2 * SHIFT * moved[:, 1]]])
    inverse[:, :2] /= 2 ** (SCALE * scale)  # [2, 3, B]: from places in the result to places in the image
    numbers = torch.from_numpy(np.column_stack([told, *inverse.reshape(6, count)])).float()
    numbers, rgb, marks = to_device(numbers, images.device), images.float(), masks[:, None].float()
    if told[:, :6].any():
        theta = numbers[:, AUGMENTATIONS:].reshape(count, 2, 3)
        grid = F.affine_grid(theta, [count, 1, height, width], align_corners=False)
        how = {"padding_mode": "reflection", "align_corners": False}
        rgb, marks = F.grid_sample(rgb, grid, "bilinear", **how), F.grid_sample(marks, grid, "nearest", **how)
    bright, contrast, gamma = numbers[:, 6:9, None, None, None].unbind(1)  # each [B, 1, 1, 1]
    rgb = 255 * (rgb / 255).clamp(0, 1) ** torch.exp(GAMMA * gamma)
    rgb = (rgb - 127.5) * 2 ** (CONTRAST * contrast) + 127.5 * (1 + BRIGHTNESS * bright)
    return rgb.clamp(0, 255), marks[:, 0].to(torch.uint8), numbers[:, :AUGMENTATIONS].contiguous()  # as compiled for
