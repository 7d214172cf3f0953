"""Pictures that have nothing in common: blurred noise."""

import numpy as np
from PIL import Image
from scipy import ndimage


def textures(count: int, height: int, width: int, seed: int = 0, smooth: float = 1.5) -> np.ndarray:
    """uint8 [count, height, width, 3], of about 128 +- 30."""
    noise = np.random.default_rng(seed).normal(size=(count, height, width, 3))
    noise = ndimage.gaussian_filter(noise, (0, smooth, smooth, 0))
    return np.clip(128 + 30 * noise / noise.std(), 0, 255).astype(np.uint8)


def photograph(seed, size: tuple[int, int]) -> np.ndarray:
    """uint8 [H, W, 3] of smooth noise, which does not look like that of another seed."""
    small = np.random.default_rng(seed).integers(0, 255, (6, 8, 3), dtype=np.uint8)
    return np.asarray(Image.fromarray(small).resize(size[::-1], Image.Resampling.BICUBIC))
