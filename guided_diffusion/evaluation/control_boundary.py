"""Whether inserted defects can be told from real ones at their borders: by the cross-validated AUC of a classifier.

Patches are cut around border pixels of the masks, wide enough to hold the margin in which a defect grows into its
photograph. Both sides are treated alike: images at the samples' scale, patches wholly inside of them, each brought to
the same mean brightness, and no mask is shown, whose outline could tell. Photographs, or groups of them, are on one
side of every fold.

Photographs of good parts may differ from those of defective ones as such, which is no fault of the defects. So the same
is done with patches away from all defects, where the inserted images are unchanged photographs.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.ndimage import binary_erosion
from tqdm import tqdm

from ..keyed_random import Key, numpy_generator
from .bootstrap import NUM_RESAMPLES, Resampling, with_interval
from .control_background import far_from_defects
from .control_bounds import verdict
from .control_classifier import LinearClassifier, describe
from .features import Extractor
from .image_sets import ImageSet

AUC_BOUND = 0.6
LEAST_SIDE = 16  # pixels of a patch
REACH = 4  # pixels of a patch beyond the margin, on either side
APART = 2  # pixels from one patch to the next; they overlap, but groups are resampled, not patches
LEAST_PATCHES, MOST_PATCHES = 100, 200  # of a class
MOST_OF_IMAGE = 32
FOLDS = 5


@dataclass(frozen=True)
class Patches:
    """images uint8 [N, side, side, 3], their features float32 [N, D], and their groups."""

    images: np.ndarray
    features: np.ndarray
    groups: list[str]

    def __len__(self) -> int:
        return len(self.groups)


def measure_boundary(
    real: ImageSet,
    inserted: ImageSet,
    margin: int,
    extractor: Extractor,
    key: Sequence[Key] = (),
) -> tuple[dict[str, dict[str, Any]], dict[str, tuple[np.ndarray, np.ndarray]]]:
    """By type {"border", "away"}, each {"counts", "auc"}, the border's with "verdict"; or {"counts", "reason"}.

    real: whole images at the samples' scale, grouped. inserted: samples, whose groups are their photographs. Also the
    patches of each side that are most sure of their class, uint8 [M, side, side, 3], for a picture.
    """
    side = patch_side(margin)
    result, pictures = {}, {}
    for index, name in enumerate(tqdm(real.class_names, desc="borders", unit="type", leave=False), start=1):
        sets = [images.having(index) for images in (real, inserted)]
        border = [cut_patches(images, index, side, None, extractor, key) for images in sets]
        away = [cut_patches(images, index, side, margin + side // 2, extractor, key) for images in sets]
        found, scores = tell_apart(*border, key)
        result[name] = {"border": found, "away": tell_apart(*away, key)[0]}
        if scores is not None:
            found["verdict"] = verdict(found["auc"], most=AUC_BOUND)
            order = np.argsort(scores[0]), np.argsort(-scores[1])
            pictures[name] = tuple(own.images[at] for own, at in zip(border, order, strict=True))
    return result, pictures


def patch_side(margin: int) -> int:
    return max(LEAST_SIDE, 2 * (margin + REACH))


def cut_patches(
    images: ImageSet, index: int, side: int, away: int | None, extractor: Extractor, key: Sequence[Key] = ()
) -> Patches:
    """At most MOST_PATCHES patches, MOST_OF_IMAGE of an image, around border pixels of the type; `away`: around pixels
    further than that from all defects.
    """
    rng = numpy_generator("patches", away or 0, *key)
    cut, groups = [], []
    for image, mask, group in zip(images.images, images.masks, images.groups, strict=True):
        places = border_pixels(mask == index) if away is None else far_from_defects(mask, away)
        for y, x in _choose(places, side, rng):
            cut.append(image[y : y + side, x : x + side])
            groups.append(group)
    kept = np.sort(rng.permutation(len(cut))[:MOST_PATCHES])
    if not len(kept):
        return Patches(np.empty((0, side, side, 3), np.uint8), np.empty((0, 1), np.float32), [])
    patches = same_brightness(np.stack(cut)[kept])
    return Patches(patches, describe(extractor, patches), [groups[i] for i in kept])


def border_pixels(region: np.ndarray) -> np.ndarray:
    """bool [H, W]: the pixels of a region bool [H, W] that touch others; the image's edge is no border."""
    return region & ~binary_erosion(region, np.ones((3, 3)), border_value=1)


def same_brightness(patches: np.ndarray) -> np.ndarray:
    """uint8 patches [N, side, side, 3] with a mean of 128 in every channel: exposure tells of the photograph alone."""
    shifted = patches - patches.mean(axis=(1, 2), keepdims=True) + 128
    return shifted.round().clip(0, 255).astype(np.uint8)


def tell_apart(
    real: Patches, inserted: Patches, key: Sequence[Key] = ()
) -> tuple[dict[str, Any], tuple[np.ndarray, np.ndarray] | None]:
    """The AUC of a classifier of inserted against real patches that has seen none of their groups, and all its scores.

    Scores of different folds are of different classifiers, so pairs within a fold are compared only.
    """
    counts = {
        name: {"patches": len(patches), "groups": len(set(patches.groups))}
        for name, patches in (("real", real), ("inserted", inserted))
    }
    for name, own in counts.items():
        if own["patches"] < LEAST_PATCHES or own["groups"] < 2:
            reason = f"{own['patches']} {name} patches of {own['groups']} photographs or groups"
            return {"counts": counts, "reason": f"{reason}; {LEAST_PATCHES} of 2 are needed"}, None
    folds = min(FOLDS, *(own["groups"] for own in counts.values()))
    fold = [deal(patches.groups, folds, (name, *key)) for name, patches in (("real", real), ("inserted", inserted))]
    features = [patches.features for patches in (real, inserted)]
    scores = [np.empty(len(patches)) for patches in (real, inserted)]
    labels = np.repeat([False, True], [len(real), len(inserted)])
    for number in range(folds):
        out = np.concatenate(fold) == number
        classifier = LinearClassifier.fit(np.concatenate(features)[~out], labels[~out])
        for own, of, given in zip(scores, fold, features, strict=True):
            own[of == number] = classifier(given[of == number])
    together = fold[0][:, None] == fold[1]
    above = together * ((scores[1] > scores[0][:, None]) + 0.5 * (scores[1] == scores[0][:, None]))
    drawn = [
        Resampling.draw(patches.groups, NUM_RESAMPLES, numpy_generator("boundary", name, *key)).weights
        for name, patches in (("real", real), ("inserted", inserted))
    ]
    right, pairs = (((drawn[0] @ table) * drawn[1]).sum(axis=1) for table in (above, together.astype(np.float64)))
    resampled = right[pairs > 0] / pairs[pairs > 0]
    return {"counts": counts, "auc": with_interval(above.sum() / together.sum(), resampled)}, tuple(scores)


def deal(groups: Sequence[Hashable], folds: int, key: Sequence[Key]) -> np.ndarray:
    """The fold int64 [N] of each patch: whole groups, the largest first, each to the fold with the fewest patches."""
    names, unit, sizes = np.unique(np.array(list(map(str, groups))), return_inverse=True, return_counts=True)
    of_group, filled = np.zeros(len(names), np.int64), np.zeros(folds)
    order = numpy_generator("folds", *key).permutation(len(names))
    for number in sorted(order, key=lambda number: -sizes[number]):
        of_group[number] = filled.argmin()
        filled[of_group[number]] += sizes[number]
    return of_group[unit]


def _choose(places: np.ndarray, side: int, rng: np.random.Generator) -> list[tuple[int, int]]:
    """Corners (top, left) of patches around some of the true places bool [H, W], wholly inside, APART."""
    corners = rng.permutation(np.argwhere(places)) - side // 2
    corners = corners[((corners >= 0) & (corners + side <= places.shape)).all(axis=1)]
    chosen: list[tuple[int, int]] = []
    while len(corners) and len(chosen) < MOST_OF_IMAGE:
        chosen.append(tuple(corners[0]))
        corners = corners[(np.abs(corners - corners[0]) >= APART).any(axis=1)]
    return chosen
