"""Reused patches: how many small parts of samples are those of training images.

This is no fault. The small network sees no more than patches, and putting known ones together anew is what the method
does; a near-copy is a whole image (memorization.py). The share says how much of the detail is new.

A patch is a quarter of the sample's shorter side; its distance to the training images is the pixel distance, over all
places and flips. Patches of real images that are not in the training set come as near as `limit` in EXPECTED of the
cases; the share of the samples' patches that come nearer is to be held against that. Smooth patches resemble each other
by chance, so a generator that merely blurs has a larger share, too.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..keyed_random import numpy_generator
from .bootstrap import mean_interval
from .copies import FLIPS, Band, correlate

EXPECTED = 0.05  # share of unseen patches under the limit
MOST_PATCHES = 400  # of either side
PARTS = 4  # patches along the shorter side


def reused_patches(
    samples: np.ndarray,
    real: np.ndarray,
    train: Sequence[np.ndarray],
    unrelated: np.ndarray,
    device: torch.device | str = "cpu",
) -> dict[str, Any]:
    """{"share": CI over samples, "expected", "limit": distance, "side": pixels, "patches": of samples, "of_real"}.

    samples, real: uint8 [N, H, W, 3] and [K, H, W, 3]. train: uint8 [H', W', 3] each. unrelated: bool [K, M], which
    training images a real image may be compared with; if none with any, limit and share are 0.
    """
    device = torch.device(device)
    band = Band.of(*samples.shape[1:3])
    images = [band(image[None], device)[0] for image in train]
    nearest = {}
    for name, windows in (("samples", samples), ("real", real)):
        patches, of = _patches(band(windows, device), min(samples.shape[1:3]) // band.factor // PARTS, name)
        distances = correlate(patches, images, shift=0)[0]
        if name == "real":
            distances = np.where(unrelated[of], distances, np.inf)
        nearest[name] = distances.min(axis=1), of
    known = nearest["real"][0][np.isfinite(nearest["real"][0])]
    limit = float(np.quantile(known, EXPECTED)) if len(known) else 0.0
    distances, of = nearest["samples"]
    return {
        "share": mean_interval(distances < limit, of.tolist(), key=("patches",)),
        "expected": EXPECTED,
        "limit": limit,
        "side": min(samples.shape[1:3]) // PARTS,
        "patches": len(distances),
        "of_real": len(known),
    }


def _patches(images: Tensor, side: int, *key: str) -> tuple[Tensor, np.ndarray]:
    """Up to MOST_PATCHES patches float32 [n, 4, side, side] with flips, from images [N, H, W], and which of the N."""
    grid = images.unfold(1, side, side).unfold(2, side, side).flatten(1, 2)  # [N, places, side, side]
    chosen = numpy_generator("patches", *key).permutation(grid.shape[0] * grid.shape[1])[:MOST_PATCHES]
    patches = grid.flatten(0, 1)[torch.from_numpy(chosen).to(grid.device)]
    return torch.stack([patches.flip(axes) for axes in FLIPS.values()], dim=1), chosen // grid.shape[1]
