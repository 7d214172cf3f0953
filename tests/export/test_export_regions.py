"""Regions of masks as polygons: the same pixels by brute force, by pycocotools, and by programs that paint outlines."""

from __future__ import annotations

import numpy as np
import pytest
from export_material import hard_masks, inside

from guided_diffusion.export.regions import find_regions


def flood(mask: np.ndarray) -> list[np.ndarray]:
    """The 8-connected regions of a boolean mask, each as a mask of its own."""
    left = {(int(y), int(x)) for y, x in np.argwhere(mask)}
    regions = []
    while left:
        queue, region = [left.pop()], np.zeros_like(mask)
        while queue:
            y, x = queue.pop()
            region[y, x] = True
            near = {(y + dy, x + dx) for dy in (-1, 0, 1) for dx in (-1, 0, 1)} & left
            left -= near
            queue += near
        regions.append(region)
    return regions


def test_regions_are_those_of_brute_force() -> None:
    total = 0
    for mask in hard_masks():
        expected = {region.tobytes(): region for region in flood(mask)}
        found = find_regions(mask)
        drawn = [inside(region.polygon(), *mask.shape) for region in found]
        assert {one.tobytes() for one in drawn} == set(expected) and len(found) == len(expected)
        for region, one in zip(found, drawn, strict=True):
            ys, xs = np.nonzero(one)
            assert region.area == len(xs)
            assert region.box == [xs.min(), ys.min(), np.ptp(xs) + 1, np.ptp(ys) + 1]
            assert np.array_equal(inside(region.inset(), *mask.shape), one)
        total += len(found)
    assert total > 600


def test_known_polygons() -> None:
    (square,) = find_regions(np.pad(np.ones((1, 1), bool), 2))
    assert square.polygon().tolist() == [[2, 2], [3, 2], [3, 3], [2, 3]]
    assert square.inset() == pytest.approx(np.array([[2.98, 2.02], [2.98, 2.98], [2.02, 2.98], [2.02, 2.02]]))
    ring = np.ones((3, 3), bool)
    ring[1, 1] = False
    (region,) = find_regions(ring)
    # The slit is the line from (0, 1) to (1, 1); on its way back it goes on from the hole's upper edge.
    assert region.polygon().tolist() == [
        *([0, 0], [3, 0], [3, 3], [0, 3], [0, 1]),
        *([1, 1], [1, 2], [2, 2], [2, 1], [0, 1]),
    ]
    assert (region.area, region.box) == (8, [0, 0, 3, 3])
    assert len(find_regions(np.eye(4, dtype=bool))) == 1


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # of pycocotools itself
def test_pycocotools_rasterises_the_polygons_to_the_same_pixels() -> None:
    api = pytest.importorskip("pycocotools.mask")
    for mask in hard_masks():
        found = np.zeros(mask.shape, int)
        for region in find_regions(mask):
            code = api.merge(api.frPyObjects([region.polygon().ravel().astype(float).tolist()], *mask.shape))
            assert api.area(code) == region.area
            found += api.decode(code)
        assert np.array_equal(found, mask)


@pytest.mark.parametrize("scale", [1, 8])
def test_programs_that_paint_the_outline_get_the_same_pixels(scale: int) -> None:
    """As ultralytics: float32 shares of the size, about 1,000 points on the way, whole numbers, cv2.fillPoly."""
    cv2 = pytest.importorskip("cv2")
    for mask in hard_masks():
        height, width = mask.shape
        found = np.zeros((height * scale, width * scale), int)
        for region in find_regions(mask):
            shares = (region.inset() / [width, height]).round(8).astype(np.float32)
            closed = np.concatenate([shares, shares[:1]])
            at = np.arange(len(closed))
            dense = np.union1d(np.linspace(0, at[-1], max(1000 - len(closed), 2)), at)
            points = np.stack([np.interp(dense, at, closed[:, axis]) for axis in (0, 1)], axis=1).astype(np.float32)
            points = points * np.array([width * scale, height * scale], np.float32)
            canvas = np.zeros(found.shape, np.uint8)
            cv2.fillPoly(canvas, [points.astype(np.int32)], 1)
            found += canvas
        large = mask.repeat(scale, 0).repeat(scale, 1)
        wrong = (found != large).sum()
        assert wrong == 0 if scale == 1 else wrong <= 0.01 * large.size
