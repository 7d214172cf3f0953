"""How near generated images come to real ones, and how much they differ from each other, by an extractor's features.

KID is Binkowski et al. 2018, FID Heusel et al. 2017, precision and recall Kynkaanniemi et al. 2019, density and
coverage Naeem et al. 2020. A neighbour is of another group here: photographs of one object are near copies, which would
shrink the balls to nothing. Diversity is the mean over pairs of images of the perceptual distance of Zhang et al. 2018
(equation 1) without learned weights: it is not LPIPS. Intervals of precision and density are over samples, those of
recall and coverage over real images, while the other set stays as it is; FID has none.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch.nn.functional as F

from ..keyed_random import Key, numpy_generator
from .bootstrap import (
    NUM_RESAMPLES,
    Resampling,
    halves,
    mean_interval,
    mean_of_pairs,
    number_groups,
    resampled_mean_of_pairs,
    share_interval,
    with_interval,
)
from .features import Extractor, batch_starts
from .image_sets import ImageSet

MEASURES = {"precision": "samples", "recall": "real", "density": "samples", "coverage": "real"}  # and what is resampled
PRECISION_NEIGHBOURS = 3  # Kynkaanniemi et al. 2019
DENSITY_NEIGHBOURS = 5  # Naeem et al. 2020
EMBEDDED_AT_ONCE = 16  # images
MEMORY = 2**30  # bytes for embedded images; more images than that takes are not all compared
LEAST_IMAGES = 8  # of fewer, nothing is measured


def kernel(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """(x_i . y_j / d + 1)^3 as float64 [N, M], for features [N, d] and [M, d]."""
    return (x.astype(np.float64) @ y.astype(np.float64).T / x.shape[1] + 1) ** 3


def kid(x: np.ndarray, y: np.ndarray) -> float:
    """The unbiased KID, which may be below 0, between features [N, d] and [M, d]; N and M at least 2."""
    return float(mean_of_pairs(kernel(x, x)) + mean_of_pairs(kernel(y, y)) - 2 * kernel(x, y).mean())


def kid_resampled(x: np.ndarray, y: np.ndarray, of_x: Resampling, of_y: Resampling) -> np.ndarray:
    """KID float64 [R] of every resample of features x [N, d] and y [M, d]."""
    weights = of_y.weights
    between = ((of_x.weights @ kernel(x, y)) * weights).sum(axis=1)
    between /= of_x.weights.sum(axis=1) * weights.sum(axis=1)
    return resampled_mean_of_pairs(kernel(x, x), of_x) + resampled_mean_of_pairs(kernel(y, y), of_y) - 2 * between


def fid(x: np.ndarray, y: np.ndarray) -> float:
    """The FID between features [N, D] and [M, D]; N and M at least 2.

    |m - n|^2 + tr A'A + tr B'B - 2 tr (A'A B'B)^(1/2), m and n the means, A [N, D] and B [M, D] the centred features
    over the roots of N - 1 and M - 1. The last trace is the sum of the singular values of A B' [N, M].
    """
    x, y = x.astype(np.float64), y.astype(np.float64)
    apart = x.mean(axis=0) - y.mean(axis=0)
    a, b = ((z - z.mean(axis=0)) / math.sqrt(len(z) - 1) for z in (x, y))
    root = np.linalg.svd(a @ b.T, compute_uv=False).sum()
    return float(apart @ apart + (a**2).sum() + (b**2).sum() - 2 * root)


def neighbourhoods(
    samples: np.ndarray, real: np.ndarray, sample_groups: Sequence[Hashable], real_groups: Sequence[Hashable]
) -> dict[str, np.ndarray]:
    """What each image adds to the four measures, which are the means of these; {} where there are too few groups.

    From features [N, D] of samples and [M, D] of real images: precision bool [N], in a ball of real images; recall
    bool [M], in a ball of samples; density float64 [N], the real balls it is in, over k; coverage bool [M], its ball
    holds a sample.
    """
    if any(
        len(own) - np.bincount(number_groups(own)).max() < DENSITY_NEIGHBOURS for own in (sample_groups, real_groups)
    ):
        return {}
    apart, wide = _distances(samples, real), _radii(real, real_groups, DENSITY_NEIGHBOURS)
    return {
        "precision": (apart < _radii(real, real_groups, PRECISION_NEIGHBOURS)).any(axis=1),
        "recall": (apart < _radii(samples, sample_groups, PRECISION_NEIGHBOURS)[:, None]).any(axis=0),
        "density": (apart < wide).sum(axis=1) / DENSITY_NEIGHBOURS,
        "coverage": (apart < wide).any(axis=0),
    }


def _radii(x: np.ndarray, groups: Sequence[Hashable], k: int) -> np.ndarray:
    """Distance float64 [N] of each image to the k-th nearest of other groups."""
    unit = number_groups(groups)
    return np.sort(np.where(unit[:, None] == unit, np.inf, _distances(x, x)))[:, k - 1]


def _distances(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Euclidean distances float64 [N, M] of features [N, D] and [M, D]."""
    x, y = x.astype(np.float64), y.astype(np.float64)
    squares = (x**2).sum(axis=1)[:, None] + (y**2).sum(axis=1) - 2 * x @ y.T
    return np.sqrt(np.maximum(squares, 0))


def measure_fidelity(
    samples: np.ndarray,
    real: np.ndarray,
    sample_groups: Sequence[Hashable],
    real_groups: Sequence[Hashable],
    key: Sequence[Key] = (),
    kid_only: bool = False,
) -> dict[str, dict[str, Any] | None]:
    """Each measure as {"value", "interval"}, from features float32 [N, D] of samples and [M, D] of real images.

    At least 2 of each. None stands for a measure, or an interval, that so few groups do not allow.
    """
    resampled, groups = None, {"samples": sample_groups, "real": real_groups}
    if all(len(set(own)) >= 2 for own in groups.values()):
        rngs = {side: numpy_generator("kid", side, *key) for side in groups}
        draws = [Resampling.draw(own, NUM_RESAMPLES, rngs[side]) for side, own in groups.items()]
        resampled = kid_resampled(samples, real, *draws)
    result: dict[str, dict[str, Any] | None] = {"kid": with_interval(kid(samples, real), resampled)}
    if kid_only:
        return result
    result |= {"fid": with_interval(fid(samples, real), None), **dict.fromkeys(MEASURES)}
    for name, values in neighbourhoods(samples, real, sample_groups, real_groups).items():
        own = groups[MEASURES[name]]
        density = name == "density"
        result[name] = mean_interval(values, own, key=(name, *key)) if density else share_interval(values, own)
    return result


def embed(extractor: Extractor, images: np.ndarray) -> np.ndarray:
    """uint8 images [N, H, W, 3] as float32 [N, K], whose squared Euclidean distances are the perceptual ones.

    Only those of images of one size compare. K is large: 6e4 at up to 96 px with efficientnet_lite0.
    """
    parts = []
    for start in batch_starts(images, EMBEDDED_AT_ONCE):
        layers = extractor.layers(images[start : start + EMBEDDED_AT_ONCE])
        # Unit length at each of h * w places; over the root of h * w, the squares become the mean over places.
        layers = [F.normalize(x, dim=1) / (x.shape[2] * x.shape[3]) ** 0.5 for x in layers]
        parts.append(np.concatenate([x.flatten(1).cpu().numpy() for x in layers], axis=1))
    return np.concatenate(parts)


def distances(embedded: np.ndarray) -> np.ndarray:
    """Perceptual distances float64 [N, N] of embedded images [N, K]."""
    squares = np.einsum("nk,nk->n", embedded, embedded, dtype=np.float64)
    return np.maximum(squares[:, None] + squares - 2 * (embedded @ embedded.T).astype(np.float64), 0)


def diversity(embedded: np.ndarray, groups: Sequence[Hashable], key: Sequence[Key] = ()) -> dict[str, Any] | None:
    """The mean distance of pairs of embedded images [N, K], as {"value", "interval"}; None with fewer than 2 images.

    groups: what is resampled together; with fewer than 2 the interval is None.
    """
    if len(embedded) < 2:
        return None
    pairs, resampled = distances(embedded), None
    if len(set(groups)) >= 2:
        of = Resampling.draw(groups, NUM_RESAMPLES, numpy_generator("diversity", *key))
        resampled = resampled_mean_of_pairs(pairs, of)
    return with_interval(mean_of_pairs(pairs), resampled)


@dataclass(frozen=True)
class Seen:
    """N images as the extractor sees them."""

    features: np.ndarray  # float32 [N, D]
    types: np.ndarray  # bool [N, types + 1]: which types each holds; column 0 is of no use
    groups: np.ndarray  # str [N]: what is resampled together
    diversity: dict[str, Any] | None

    @classmethod
    def look(cls, images: ImageSet, extractor: Extractor, *key: Key) -> Seen:
        """images: of one size, as arrays. key: of the resamples, and of which images the diversity of many is of."""
        types = [np.bincount(mask.ravel(), minlength=len(images.class_names) + 1) > 0 for mask in images.masks]
        groups, some = np.array(images.groups), np.arange(len(images))
        limit = max(8, MEMORY // embed(extractor, images.images[:1]).nbytes)
        if len(some) > limit:
            some = np.sort(numpy_generator("within memory", *key).choice(len(images), limit, replace=False))
        varied = diversity(embed(extractor, images.images[some]), groups[some], key)
        return cls(extractor(images.images), np.stack(types), groups, varied)


def compare(samples: Seen | None, real: Seen, class_names: Sequence[str], *key: Key) -> dict[str, Any]:
    """{"overall": block, "per_type": {name: block}} of samples against real images, as quality.json holds them.

    samples: None, two halves of the real images against each other. The same real images under the same key get the
    same resamples. A block of fewer than LEAST_IMAGES on a side says "too_few" only; that of a type has KID alone. A
    measure is None where so few groups do not allow it.
    """
    per_type = {name: _block(samples, real, k, key) for k, name in enumerate(class_names, start=1)}
    return {"overall": _block(samples, real, None, key), "per_type": per_type}


def _block(samples: Seen | None, real: Seen, index: int | None, key: Sequence[Key]) -> dict[str, Any]:
    """Of all images, or of those that hold the type `index`."""
    sets = samples or real, real
    at = [np.arange(len(of.groups)) if index is None else np.flatnonzero(of.types[:, index]) for of in sets]
    if samples is None:
        at = [at[0][half] for half in halves(real.groups[at[0]], *key)]
    (x, y), groups = zip(
        *((of.features[rows], of.groups[rows]) for of, rows in zip(sets, at, strict=True)), strict=True
    )
    counts = {"samples": len(x), "real": len(y), "real_groups": len(set(groups[1]))}
    if min(len(x), len(y)) < LEAST_IMAGES:
        return {"counts": counts, "too_few": f"{len(x)} against {len(y)}"}
    block = {"counts": counts, **measure_fidelity(x, y, *groups, key, kid_only=index is not None)}
    return block if index is not None else {**block, "diversity": sets[0].diversity}
