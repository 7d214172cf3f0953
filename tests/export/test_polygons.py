"""Regions of masks as polygons: the same pixels by brute force, by pycocotools, and by programs that paint outlines."""

from collections.abc import Iterator

import cv2
import numpy as np
import pytest
from matplotlib.path import Path as Polygon
from scipy import ndimage

from guided_diffusion.export.polygons import edge_polygon, inset_polygon, outlines


def hard_masks() -> Iterator[np.ndarray]:
    """Boolean masks of all sizes and kinds: noise, blobs, rings in rings, diagonals, borders, one pixel, all, none."""
    rng = np.random.default_rng(0)
    for number in range(120):
        height, width = rng.integers(1, 20, 2)
        mask = rng.random((height, width)) < rng.uniform(0.05, 0.95)
        yield mask.repeat(2, 0).repeat(2, 1) if number % 3 == 0 else mask
    yy, xx = np.mgrid[:21, :25]
    yield np.maximum(np.abs(yy - 10), np.abs(xx - 12)) % 2 == 0  # islands in holes in islands, up to the border
    yield (yy + xx) % 2 == 0  # one region, held together by corners alone
    yield from (yy == xx, yy + xx == 20, (yy == 3) & np.isin(xx, (3, 4)))
    yield np.isin(yy, (0, 20)) | np.isin(xx, (0, 24))  # a frame
    yield from (np.ones((5, 4), bool), np.ones((1, 1), bool), np.zeros((3, 3), bool))


def inside(polygon: np.ndarray, height: int, width: int) -> np.ndarray:
    """Pixels that are in a closed polygon (x, y), by the even-odd rule; bool [H, W]."""
    centres = np.mgrid[:height, :width].reshape(2, -1).T[:, ::-1] + [0.62, 0.57]  # off all lines through the middles
    return Polygon(polygon).contains_points(centres).reshape(height, width)


def test_each_region_is_one_polygon() -> None:
    total = 0
    for mask in hard_masks():
        numbered, count = ndimage.label(mask, np.ones((3, 3)))
        expected = {(numbered == k).tobytes() for k in range(1, count + 1)}
        walks = outlines(mask)
        assert len(walks) == count
        assert {inside(edge_polygon(walk), *mask.shape).tobytes() for walk in walks} == expected
        assert {inside(inset_polygon(walk), *mask.shape).tobytes() for walk in walks} == expected
        total += count
    assert total > 600


@pytest.mark.parametrize("scale", [1, 8])
def test_programs_that_paint_the_outline_get_the_same_pixels(scale: int) -> None:
    """As ultralytics: float32 shares of the size, about 1,000 points on the way, whole numbers, cv2.fillPoly."""
    for mask in hard_masks():
        height, width = mask.shape
        found = np.zeros((height * scale, width * scale), int)
        for walk in outlines(mask):
            shares = (inset_polygon(walk) / [width, height]).round(8).astype(np.float32)
            closed = np.concatenate([shares, shares[:1]])
            at = np.arange(len(closed))
            dense = np.union1d(np.linspace(0, at[-1], max(1000 - len(closed), 2)), at)
            points = np.stack([np.interp(dense, at, closed[:, axis]) for axis in (0, 1)], axis=1).astype(np.float32)
            points = points * np.array([width * scale, height * scale], np.float32)
            found += cv2.fillPoly(np.zeros(found.shape, np.uint8), [points.astype(np.int32)], 1)
        large = mask.repeat(scale, 0).repeat(scale, 1)
        wrong = (found != large).sum()
        assert wrong == 0 if scale == 1 else wrong <= 0.01 * large.size
