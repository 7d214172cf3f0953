"""Squares in noise, dark (type 1) or bright (type 2), as image sets, data sets and sample folders."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from guided_diffusion.evaluation.image_sets import ImageSet
from guided_diffusion.generation.sample_io import SampleFolder
from scripts.draw_demo_data import write_released

TYPES = ("dark", "bright")
SIZE = 32


def draw(count: int, seed: int, size: int = SIZE, types: Sequence[int] = (1, 2)) -> tuple[np.ndarray, np.ndarray]:
    """Images uint8 [N, size, size, 3] with one square each, of the types in turn (0: none), and their masks."""
    rng = np.random.default_rng(seed)
    images = rng.normal(120, 12, (count, size, size, 3)).clip(0, 255).astype(np.uint8)
    masks = np.zeros((count, size, size), np.uint8)
    for k in range(count):
        side = int(rng.integers(8, 13))
        top, left = rng.integers(0, size - side, 2)
        masks[k, top : top + side, left : left + side] = types[k % len(types)]
    images[masks > 0] = np.array([0, 20, 240, 200], np.uint8)[masks[masks > 0]][:, None]
    return images, masks


def image_set(
    images: np.ndarray, masks: np.ndarray, groups: Sequence | None = None, names: Sequence[str] = TYPES
) -> ImageSet:
    own = [f"{k:06d}" for k in range(len(masks))]
    return ImageSet(images, masks, own, list(map(str, own if groups is None else groups)), tuple(names), "set")


def write_real(folder: Path, count: int, seed: int, good: int = 0, class_names: Sequence[str] = TYPES, **drawn) -> str:
    """A data set of drawn images called <type>/<folder>000.png, and defect-free ones."""
    images, masks = draw(count, seed, **drawn)
    names = [f"{class_names[mask.max() - 1]}/{folder.name}{k:03d}" for k, mask in enumerate(masks)]
    names += [f"good/{k}" for k in range(good)]
    pairs = [*zip(images, masks, strict=True), *((image, None) for image in draw(good, seed + 1000, types=[0])[0])]
    write_released(str(folder), names, pairs, {name: k for k, name in enumerate(class_names, start=1)}, {})
    return str(folder)


def write_samples(
    folder: Path,
    images: np.ndarray,
    masks: np.ndarray,
    names: Sequence[str] = TYPES,
    asked: Sequence[dict] | None = None,
    **settings,
) -> str:
    """A folder of samples as inference.py writes it."""
    SampleFolder(str(folder), names, {"seed": 0, **settings}).add(range(len(images)), images, masks, asked)
    return str(folder)
