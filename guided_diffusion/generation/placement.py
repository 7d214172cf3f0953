"""Where new defects go in photographs of good parts: masks of the bank, enlarged, at places that are allowed."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from math import ceil

import cv2
import numpy as np

from ..data.image_files import border_of, resize_image, resize_mask, resize_shape
from ..keyed_random import numpy_generator
from .mask_bank import MaskBank

TRIES = 64  # masks and places until a defect fits
MOST_DEFECTS = 64  # of a photograph
MOST_STRETCH = 2  # of what goes from border to border
ANYWHERE = "anywhere"
# A part is told from its background by brightness where the two explain so much of its variance, and so much of the
# border is background.
SEPARATED, AT_BORDER = 0.7, 0.8


@dataclass(frozen=True)
class Placement:
    """Draws masks for photographs. scale: their pixels to one of the training; margin: in the training's pixels.

    distances: by type, how far inside the part its defects lay in training, in pixels of that; empty: anywhere."""

    bank: MaskBank
    scale: tuple[float, float]
    margin: int
    distances: Mapping[int, tuple[float, float]]

    def draw(
        self, photograph: np.ndarray, allowed: np.ndarray | None, seed: int, index: int, types: Sequence[int]
    ) -> np.ndarray:
        """Index mask uint8 [H, W] for a photograph uint8 [H, W, 3]: a defect of each of `types`, each where it fits
        with its margin beside the ones before; those that do not are left out. allowed: bool [H, W], where defects may
        lie; None: see distances."""
        rng = numpy_generator("placement", seed, index)
        mask = np.zeros(photograph.shape[:2], np.uint8)
        inside = None
        if self.distances and allowed is None:
            size = [max(1, round(side / factor)) for side, factor in zip(mask.shape, self.scale, strict=True)]
            inside = part_distance(resize_image(photograph, size))
        for kind in types:
            where = allowed
            if inside is not None and kind in self.distances:
                low, high = self.distances[kind]
                where = resize_mask(((inside >= low) & (inside <= high)).astype(np.uint8), mask.shape) > 0
            self._place(mask, kind, where, rng)
        return mask

    def _place(self, mask: np.ndarray, kind: int, allowed: np.ndarray | None, rng: np.random.Generator) -> None:
        """Add a defect to the mask, if one of TRIES fits."""
        down, across = reach(self.scale, 2 * self.margin)
        places = None if allowed is None else np.flatnonzero(allowed)
        factors = np.multiply(self.scale, self.bank.shrunk)  # pixels of the photograph to one of the bank's
        for _ in range(TRIES if places is None or len(places) else 0):
            layer = self.bank.layer(kind, rng)
            own = [min(n, max(1, round(s * f))) for n, s, f in zip(mask.shape, layer.shape, factors, strict=True)]
            cut = [layer.any(axis=1 - axis)[[0, -1]] for axis in (0, 1)]  # by the border of its image
            # what goes from border to border does so in the photograph
            box = [n if ends.all() else side for n, side, ends in zip(mask.shape, own, cut, strict=True)]
            if np.any(np.array(box) > MOST_STRETCH * np.array(own)):
                continue
            shape = resize_shape(layer, box)
            if not shape.any():
                continue
            rooms = [side - own for side, own in zip(mask.shape, box, strict=True)]
            if places is None:
                at = [int(rng.integers(room + 1)) for room in rooms]
            else:
                place = np.unravel_index(places[rng.integers(len(places))], mask.shape)
                at = np.clip(place - np.argwhere(shape).mean(axis=0), 0, rooms).astype(int)
            bound = zip(cut, rooms, at, strict=True)
            top, left = (0 if ends[0] else room if ends[1] else start for ends, room, start in bound)
            rows, columns = np.nonzero(shape)
            rows, columns = rows + top, columns + left
            near = mask[max(0, rows.min() - down) : rows.max() + down + 1]
            near = near[:, max(0, columns.min() - across) : columns.max() + across + 1]
            if near.any() or (allowed is not None and not allowed[rows, columns].all()):
                continue
            mask[rows, columns] = kind
            return


def reach(scale: Sequence[float], margin: int) -> list[int]:
    """Photograph pixels around a defect, down and across, in its window: the margin and a training pixel."""
    return [ceil((margin + 1) * factor) for factor in scale]


def part_distance(image: np.ndarray) -> np.ndarray | None:
    """How far inside the part each pixel of uint8 [H, W, 3] lies, float32 [H, W]; None where no part is told apart."""
    grey = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
    bright = cv2.threshold(grey, 0, 1, cv2.THRESH_BINARY + cv2.THRESH_OTSU)[1]
    edge = border_of(bright).mean()
    part = bright if edge < 0.5 else 1 - bright
    share = part.mean()
    if not 0 < share < 1 or min(edge, 1 - edge) > 1 - AT_BORDER:
        return None
    difference = grey[part > 0].mean() - grey[part == 0].mean()
    if share * (1 - share) * difference**2 < SEPARATED * grey.var():
        return None
    contours = cv2.findContours(part, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)[0]
    filled = cv2.drawContours(np.zeros_like(part), contours, -1, 1, cv2.FILLED)  # dark defects are of the part too
    return cv2.distanceTransform(np.pad(filled, 1), cv2.DIST_L2, cv2.DIST_MASK_PRECISE)[1:-1, 1:-1]


def training_distances(images: Sequence[np.ndarray], masks: Sequence[np.ndarray]) -> dict[int, tuple[float, float]]:
    """By type, the smallest and largest part_distance of its defects' pixels in training images uint8 [H, W, 3], with
    index masks uint8 [H, W]; empty where half of the images or more show no part."""
    found = [part_distance(image) for image in images]
    if sum(inside is not None for inside in found) <= len(found) / 2:
        return {}
    seen: dict[int, list[float]] = {}
    for inside, mask in zip(found, masks, strict=True):
        for kind in np.unique(mask[mask > 0]).tolist() if inside is not None else ():
            values = inside[mask == kind]
            seen.setdefault(kind, []).extend((values.min(), values.max()))
    return {kind: (float(min(values)), float(max(values))) for kind, values in seen.items()}


def types_to_draw(
    bank: MaskBank, asked: Sequence[Collection[int]], numbers: tuple[int, int], seed: int, index: int
) -> list[int]:
    """The types of sample `index`: its entry of `asked`, which take turns; or numbers (from, to) of them, in turn."""
    if asked:
        return sorted(asked[index % len(asked)])
    low, high = numbers
    count = int(numpy_generator("defects per image", seed, index).integers(low, high + 1))
    return [bank.turn(seed, index * high + k) for k in range(count)]
