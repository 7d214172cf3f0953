"""Regions of masks as polygons: the same pixels by brute force, by pycocotools, and by programs that paint outlines."""

import cv2
import numpy as np
import pytest
from export_material import hard_masks, inside
from scipy import ndimage

from guided_diffusion.export.polygons import edge_polygon, inset_polygon, outlines


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
