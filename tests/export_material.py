"""What the tests of exports share: masks that are hard to describe, and sets of images with such masks."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from guided_diffusion.generation.sample_io import SampleFolder

TYPES = ("crack", "oil stain", "pit")
SIZE = (24, 36)
SETTINGS = {"seed": 7, "sampler": "ddim", "num_steps": 20, "checkpoints": {"large": "a" * 64, "small": None}}


@dataclass(frozen=True)
class Sets:
    """Folders of samples, training and held-out images; masks: the index mask of each image by its exported name."""

    samples: str
    real: str
    val: str
    masks: dict[str, np.ndarray]
    good: tuple[str, ...] = ("real_good_whole", "real_good_whole2", "val_good_fine")

    @property
    def arguments(self) -> list[str]:
        return ["--real", self.real, "--val", self.val]


def hard_masks() -> Iterator[np.ndarray]:
    """Boolean masks of all sizes and kinds: noise, blobs, rings in rings, diagonals, borders, one pixel, all, none."""
    rng = np.random.default_rng(0)
    for number in range(120):
        height, width = rng.integers(1, 20, 2)
        mask = rng.random((height, width)) < rng.uniform(0.05, 0.95)
        yield mask.repeat(2, 0).repeat(2, 1) if number % 3 == 0 else mask
    yy, xx = np.mgrid[:21, :25]
    ring = np.maximum(np.abs(yy - 10), np.abs(xx - 12))
    yield ring % 2 == 0  # islands in holes in islands, up to the border
    yield (yy + xx) % 2 == 0  # one region, held together by corners alone
    yield yy == xx
    yield yy + xx == 20
    yield np.isin(yy, (0, 20)) | np.isin(xx, (0, 24))  # a frame
    yield (yy == 3) & np.isin(xx, (3, 4))
    yield np.ones((5, 4), bool)
    yield np.ones((1, 1), bool)
    yield np.zeros((3, 3), bool)


def inside(polygon: np.ndarray, height: int, width: int) -> np.ndarray:
    """Pixels that are in a closed polygon (x, y), by the even-odd rule; bool [H, W]."""
    crossings = np.zeros((height, width), int)
    ys, xs = np.mgrid[:height, :width] + np.array([0.57, 0.62])[:, None, None]  # off all lines through the centres
    for (x, y), (x2, y2) in zip(polygon, np.roll(polygon, -1, axis=0), strict=True):
        if y != y2:
            between = (ys >= min(y, y2)) & (ys < max(y, y2))
            crossings += between & (xs < x + (ys - y) / (y2 - y) * (x2 - x))
    return crossings % 2 == 1


def index_masks(count: int, seed: int) -> list[np.ndarray]:
    """Index masks of SIZE with all that is hard: the first empty, the second one type everywhere."""
    rng = np.random.default_rng(seed)
    masks = [np.zeros(SIZE, np.uint8), np.full(SIZE, 2, np.uint8)]
    while len(masks) < count:
        coarse = rng.random((SIZE[0] // 2, SIZE[1] // 2)).repeat(2, 0).repeat(2, 1)
        mask = np.where(coarse < 0.2, 1, np.where(coarse < 0.4, 2, 0)).astype(np.uint8)
        mask[rng.random(SIZE) < 0.03] = 3
        if len(masks) % 3 == 0:
            mask[mask != 3] = 0  # a single type
        masks.append(mask)
    return masks


def picture(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (*SIZE, 3), dtype=np.uint8)


def make_sets(root: Path) -> Sets:
    """Six samples and some real images, whose names want care, in three folders below `root`."""
    generated = index_masks(6, seed=1)
    samples = SampleFolder(str(root / "samples"), TYPES, SETTINGS)
    samples.add(range(6), np.stack([picture(i) for i in range(6)]), np.stack(generated))
    masks = {f"gen_{i:06d}": mask for i, mask in enumerate(generated)}
    real = {"crack/exp1.png": "real_crack_exp1", "crack/exp10.png": "real_crack_exp10"}
    # Alike once they are safe; and grey, 16-bit and JPEG images.
    real |= {"oil stain/a b.png": "real_oil_stain_a_b", "oil stain/a_b.png": "real_oil_stain_a_b_2"}
    real |= {"pit/grey.png": "real_pit_grey", "pit/deep.png": "real_pit_deep", "pit/photo.jpg": "real_pit_photo"}
    masks |= _write_real(root / "real", real, ["whole.png", "whole2.png"], seed=2)
    masks |= _write_real(root / "val", {"crack/exp1.png": "val_crack_exp1"}, ["fine.png"], seed=3)
    return Sets(str(root / "samples"), str(root / "real"), str(root / "val"), masks)


def _write_real(root: Path, names: dict[str, str], good: list[str], seed: int) -> dict[str, np.ndarray]:
    written = {}
    masks = index_masks(2 + len(names), seed)[2:]
    for number, ((path, name), mask) in enumerate(zip(names.items(), masks, strict=True)):
        image = picture(100 * seed + number)
        if "grey" in path:
            image = image[..., 0]
        elif "deep" in path:
            image = image[..., 0].astype(np.uint16) * 257
        _save(root / "test" / path, image)
        _save((root / "converted_ground_truth" / path).with_suffix(".png"), mask)
        written[name] = mask
    for number, path in enumerate(good):
        _save(root / "test" / "good" / path, picture(200 * seed + number))
    label_map = {name: index for index, name in enumerate(TYPES, start=1)}
    (root / "dataset.json").write_text(json.dumps({"label_map": label_map}))
    return written


def _save(path: Path, array: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(array).save(path)
