"""Connected regions of a mask as polygons that fill to the same pixels, holes included.

A region is 8-connected. OpenCV walks its borders on the mask at twice its size, where each step tells which side of a
pixel it runs along. A slit of no width along a row joins each hole to the border on its left, so that one closed
polygon describes the region; filled by the even-odd rule, slits vanish and holes stay empty.
"""

import cv2
import numpy as np

INSET, NUDGE = 0.02, 0.0005  # pixels


def outlines(mask: np.ndarray) -> list[np.ndarray]:
    """A closed walk around each region of a boolean mask [H, W]: int64 [N, 2], (x, y) in half pixels."""
    double = np.asarray(mask, np.uint8).repeat(2, axis=0).repeat(2, axis=1)
    contours, hierarchy = cv2.findContours(double, cv2.RETR_CCOMP, cv2.CHAIN_APPROX_NONE)
    parents = hierarchy[0, :, 3].tolist() if contours else []
    points: list[list[int]] = []  # (x, y) of each step of all walks
    following: list[int] = []  # the step after each, so that a hole is spliced in at once however long the walks are
    heads = []  # the first step of each walk
    at = np.full(double.shape, -1)  # a step that is at this place
    # Outer borders, then holes by rows: what a hole is joined to, another hole included, is part of a walk by then.
    for k in sorted(range(len(parents)), key=lambda k: contours[k][0, 0, ::-1].tolist() * (parents[k] >= 0)):
        border, first = contours[k][:, 0], len(points)
        points += border.tolist()
        if parents[k] < 0:
            heads.append(first)
            after = first
        else:
            x, y = border[0]
            node = int(at[y, np.flatnonzero(double[y, :x] == 0).max(initial=-1) + 1])
            points += [points[first], points[node]]  # along the slit and back
            after, following[node] = following[node], first
        following += [*range(first + 1, len(points)), after]
        at[border[:, 1], border[:, 0]] = np.arange(first, first + len(border))
    walks = []
    for head in heads:
        walk = [head]
        while (step := following[walk[-1]]) != head:
            walk.append(step)
        walks.append(np.array([points[step] for step in walk]))
    return walks


def edge_polygon(walk: np.ndarray) -> np.ndarray:
    """int64 [N, 2], (x, y): the closed polygon along the edges of the pixels, for pycocotools."""
    return _without_middles((walk + 1) // 2)


def inset_polygon(walk: np.ndarray) -> np.ndarray:
    """float64 [N, 2], (x, y): the closed polygon 1/50 pixel further in, for programs that paint the outline. Rounded
    down, its corners and all points between them name pixels of the region: the way across a common corner leads from
    the centre of one pixel to just beyond the corner."""
    pixel, step = walk // 2, np.roll(walk, -1, axis=0) - walk
    side = pixel + np.where(walk % 2, 1 - INSET, INSET)
    diagonal = (np.abs(step) == 1).all(axis=1)
    points = np.stack([side, pixel + 0.5, pixel + 0.5 + (0.5 + NUDGE) * step], axis=1)
    return _without_middles(points[np.stack([np.ones_like(diagonal), diagonal, diagonal], axis=1)])


def _without_middles(points: np.ndarray) -> np.ndarray:
    """A closed polygon without repeated points and without those in the middle of a row or a column."""
    points = points[(points != np.roll(points, 1, axis=0)).any(axis=1)]
    before, after = points - np.roll(points, 1, axis=0), np.roll(points, -1, axis=0) - points
    straight = ((before == 0) & (after == 0)).any(axis=1)
    return points[~straight | ((before * after).sum(axis=1) < 0)]
