"""Boxes in noise, as sets of labelled images, for the tests of evaluate.py control."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from guided_diffusion.evaluation.image_sets import ImageSet

TYPES = ("crack", "pit")
SIZE = 32


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def draw(count: int, seed: int, light: int = 60) -> tuple[np.ndarray, np.ndarray]:
    """Images uint8 [N, SIZE, SIZE, 3] of noise with a lighter box of the types in turn, and their masks."""
    draws = rng(seed)
    masks = np.zeros((count, SIZE, SIZE), np.uint8)
    for k, mask in enumerate(masks):
        top, left, height, width = draws.integers(6, 13, 4)
        mask[top : top + height, left : left + width] = 1 + k % 2
    images = draws.integers(60, 120, (count, 1, 1, 1)) + draws.integers(0, 24, (count, SIZE, SIZE, 1))
    images = images + light * (masks[..., None] == 1) + light // 2 * (masks[..., None] == 2)
    return images.repeat(3, axis=3).astype(np.uint8), masks


def image_set(images: np.ndarray, masks: np.ndarray, groups: Sequence | None = None) -> ImageSet:
    names = [f"{k:06d}" for k in range(len(masks))]
    return ImageSet(images, masks, names, list(map(str, names if groups is None else groups)), TYPES, "set")
