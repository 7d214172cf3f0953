"""Connected regions of a mask as polygons that give the same pixels back, holes included.

A region is 8-connected: pixels that touch at a corner are one. Its border is walked along the edges of its pixels, with
the region on the right. A hole has a border of its own; a slit of no width, which runs along one row to the border left
of it and back, makes the two one polygon. Filled by the even-odd rule, slits vanish and holes stay empty.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

_ALONG = np.array([(1, 0), (0, 1), (-1, 0), (0, -1)])  # by direction: right, down, left, up
_OUTWARD = np.roll(_ALONG, 1, axis=0)  # from the pixel beside an edge that runs in this direction
# Of Region.inset, in whole numbers so that what lies along a row is told exactly: a pixel has 2 * _HALF.
_HALF, _INSET, _NUDGE = 10_000, 400, 5


@dataclass(frozen=True)
class Region:
    """A connected region, as a walk along its border; slits are steps of any length to the right and back.

    corner: int64 [E, 2], (x, y) where each step starts, pixel (x, y) being the square from (x, y) to (x+1, y+1).
    pixel: int64 [E, 2], the pixel of the region beside each step. direction: int64 [E], 0 to 3, of each step but slits.
    """

    corner: np.ndarray
    pixel: np.ndarray
    direction: np.ndarray

    @property
    def area(self) -> int:
        """Number of pixels."""
        (x, y), (x2, y2) = self.corner.T, np.roll(self.corner, -1, axis=0).T
        return int((x * y2 - x2 * y).sum()) // 2

    @property
    def box(self) -> list[int]:
        """Left, top, width and height in pixels, tight."""
        low, high = self.corner.min(axis=0), self.corner.max(axis=0)
        return [*low.tolist(), *(high - low).tolist()]

    def polygon(self) -> np.ndarray:
        """int64 [N, 2], (x, y): the closed polygon along the edges of the pixels."""
        return _without_middles(self.corner)

    def inset(self) -> np.ndarray:
        """float64 [N, 2], (x, y): the closed polygon a 50th of a pixel further in, for programs that paint the outline.

        Rounded down, its corners name pixels of the region, and so do the points that a program adds between two of
        them, unless there are thousands: the way from pixel to pixel across a common corner leads through that corner,
        but at the very end of a line, where no added point lies.
        """
        centre = (2 * self.pixel + 1) * _HALF
        step = np.roll(self.corner, -1, axis=0) - self.corner
        along, outward = _ALONG[self.direction], _OUTWARD[self.direction]
        is_edge = (step == along).all(axis=1)[:, None]  # a slit goes from centre to centre
        first = centre + is_edge * (_HALF - _INSET) * (outward - along)
        last = centre + is_edge * (_HALF - _INSET) * (outward + along)
        across = np.roll(self.pixel, -1, axis=0) - self.pixel
        is_diagonal = (np.abs(across) == 1).all(axis=1)
        # A line from the centre to just beyond the common corner: at 2000/2001 of its length the pixel changes.
        beyond = centre + (_HALF + _NUDGE) * across
        points = np.stack([first, last, centre, beyond], axis=1)
        always = np.ones_like(is_diagonal)
        return _without_middles(points[np.stack([always, always, is_diagonal, is_diagonal], axis=1)]) / (2 * _HALF)


def find_regions(mask: np.ndarray) -> list[Region]:
    """The regions of a boolean mask [H, W], by the leftmost and then topmost corner of each."""
    rows = mask.shape[0] + 1  # of corners
    edges = _edges(mask)
    todo = bytearray(edges)
    walks = _Walks(rows, len(edges) // 4)
    heads = []
    # A walk begins at its leftmost and then topmost corner, since all edges further left are done by then.
    for start in np.flatnonzero(np.frombuffer(edges, bool)).tolist():
        if todo[start]:
            loop = _walk(edges, start, rows)
            for edge in loop:
                todo[edge] = 0
            x, y = divmod(start >> 2, rows)
            if mask[y, x]:
                heads.append(walks.add(loop))
            else:
                walks.add_hole(loop)
    return [_region(np.array(walks.follow(head)), rows) for head in heads]


def _walk(edges: bytes, start: int, rows: int) -> list[int]:
    """The edges of one border, in order."""
    steps = (rows, 1, -rows, -1)  # to the next corner: right, down, left, up
    loop, edge = [], start
    while not loop or edge != start:
        loop.append(edge)
        corner, direction = (edge >> 2) + steps[edge & 3], edge & 3
        # A turn to the left first: where two pixels touch at a corner, it crosses over to the other.
        turns = (corner * 4 + turn for turn in ((direction + 3) & 3, direction, (direction + 1) & 3))
        edge = next(turn for turn in turns if edges[turn])
    return loop


class _Walks:
    """Closed walks as linked lists, into which holes are spliced at once however long the walks are."""

    def __init__(self, rows: int, corners: int) -> None:
        self._rows = rows
        self._edges: list[int] = []
        self._next: list[int] = []  # node: the node that follows
        self._node_at = [-1] * corners  # the node that leaves this corner; -1 where no walk passes

    def add(self, loop: list[int]) -> int:
        """Add a walk; returns its first node."""
        first = len(self._edges)
        self._edges += loop
        self._next += range(first + 1, first + len(loop))
        self._next.append(first)
        for node, edge in enumerate(loop, start=first):
            self._node_at[edge >> 2] = node
        return first

    def add_hole(self, hole: list[int]) -> None:
        """Add a hole to the walk that comes first on its left, which is of the same region, by a slit and back."""
        at = there = hole[0] >> 2
        while self._node_at[there] < 0:
            there -= self._rows
        node = self._node_at[there]
        first = self.add(hole)
        # As edges: what leaves `there` to the right and `at` downwards has the pixels of the slit's row beside it.
        near, far = at * 4 + 1, there * 4 + int(there == at)
        new = len(self._edges)
        self._edges += [near, near, far, self._edges[node]]
        self._next += [first, new + 2, new + 3, self._next[node]]
        self._next[new - 1] = new + 1  # the hole's last
        self._edges[node], self._next[node] = far, new

    def follow(self, head: int) -> list[int]:
        """The edges of a walk, in order."""
        edges, node = [self._edges[head]], self._next[head]
        while node != head:
            edges.append(self._edges[node])
            node = self._next[node]
        return edges


def _edges(mask: np.ndarray) -> bytes:
    """For each corner of a pixel, column by column: whether a border leaves it to the right, down, left and up.

    An edge is known by its place therein: 4 * (x * rows + y) + direction.
    """
    mask = np.asarray(mask, bool)
    height, width = mask.shape
    padded = np.pad(mask, 1)
    edges = np.zeros((width + 1, height + 1, 4), bool)
    edges[:-1, :-1, 0] = (mask & ~padded[:-2, 1:-1]).T  # above a pixel
    edges[1:, :-1, 1] = (mask & ~padded[1:-1, 2:]).T  # right of it
    edges[1:, 1:, 2] = (mask & ~padded[2:, 1:-1]).T  # below
    edges[:-1, 1:, 3] = (mask & ~padded[1:-1, :-2]).T  # left
    return edges.tobytes()


def _region(path: np.ndarray, rows: int) -> Region:
    corner, direction = np.stack(divmod(path >> 2, rows), axis=1), path & 3
    beside = np.stack([(direction == 1) | (direction == 2), direction >= 2], axis=1)
    return Region(corner, corner - beside, direction)


def _without_middles(points: np.ndarray) -> np.ndarray:
    """A closed polygon, int64 [N, 2], without repeated points and without those along a row or a column."""
    points = points[(points != np.roll(points, 1, axis=0)).any(axis=1)]
    before, after = points - np.roll(points, 1, axis=0), np.roll(points, -1, axis=0) - points
    along = ((before == 0) & (after == 0)).any(axis=1)
    return points[~along | ((before * after).sum(axis=1) < 0)]
