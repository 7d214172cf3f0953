"""How near generated images come to real ones: FID, KID, precision and recall, density and coverage, of features.

FID (Heusel et al. 2017) is the Frechet distance of two normal distributions with the sets' means and covariances. It
falls as the sets grow, also between sets of one distribution: compare FIDs of equal counts only, and with that of two
sets of real images. KID (kid.py) has no such bias.

Precision and recall (Kynkaanniemi et al. 2019) ask which samples lie in a ball around a real image, and which real
images in one around a sample; the balls reach to the k-th nearest neighbour. Density counts the real balls that a
sample lies in, coverage the real balls that hold a sample (Naeem et al. 2020). A neighbour must be of another group
here, as photographs of one object are near copies, which would shrink the balls to nothing. Where each image is a group
of its own that is the papers' definition.

Intervals. KID: bootstrap. FID: jackknife, as an image that is drawn twice spans no new dimension; at 40 images in 300
dimensions the bootstrap's spread was 1.4 times that of true new draws, and its mean was off. Precision and density:
over samples; recall and coverage: over real images; density by the bootstrap, the others as shares. Balls stay as they
are there, as an image drawn twice would be its own neighbour; so these intervals leave out what another draw of the
*other* set would change.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..keyed_random import Key, numpy_generator
from .bootstrap import NUM_RESAMPLES, Resampling, jackknife_interval, mean_interval, share_interval, with_interval
from .kid import kid, kid_resampled

PRECISION_NEIGHBOURS = 3  # Kynkaanniemi et al. 2019
DENSITY_NEIGHBOURS = 5  # Naeem et al. 2020
MEASURES = ("kid", "fid", "precision", "recall", "density", "coverage")


def measure_fidelity(
    samples: np.ndarray,
    real: np.ndarray,
    real_groups: Sequence[Hashable],
    sample_groups: Sequence[Hashable] | None = None,
    key: Sequence[Key] = (),
) -> dict[str, dict[str, Any] | None]:
    """Each of MEASURES as {"value", "interval"}, from features float32 [N, D] of samples and [M, D] of real images.

    sample_groups: None, each sample by itself. key: of the random draws; sets of the same images under the same key get
    the same resamples. None stands for a measure that so few images do not allow, and for the interval where there are
    fewer than 2 groups of either.
    """
    sample_groups = range(len(samples)) if sample_groups is None else sample_groups
    near = neighbourhoods(samples, real, real_groups, sample_groups)
    result: dict[str, dict[str, Any] | None] = dict.fromkeys(MEASURES)
    for name, groups in (("precision", sample_groups), ("recall", real_groups), ("coverage", real_groups)):
        if getattr(near, name) is not None:
            result[name] = share_interval(getattr(near, name), groups)
    if near.density is not None:
        result["density"] = mean_interval(near.density, sample_groups, key=("density", *key))
    if min(len(samples), len(real)) < 2:
        return result
    result["kid"] = with_interval(kid(samples, real), None)
    result["fid"] = with_interval(fid(samples, real), None)
    if min(len(set(sample_groups)), len(set(real_groups))) >= 2:
        of = [
            Resampling.draw(groups, NUM_RESAMPLES, numpy_generator("kid", side, *key))
            for side, groups in (("samples", sample_groups), ("real", real_groups))
        ]
        result["kid"] = with_interval(result["kid"]["value"], kid_resampled(samples, real, *of))
    if min(len(set(sample_groups)), len(set(real_groups))) >= 3:
        result["fid"]["interval"] = _fid_interval(samples, real, sample_groups, real_groups, key)
    return result


def fid(x: np.ndarray, y: np.ndarray) -> float:
    """The FID between features [N, D] and [M, D]; N and M at least 2."""
    return float(fid_resampled(x, y, *(Resampling(np.zeros(len(z), np.int64), np.ones((1, 1))) for z in (x, y)))[0])


def fid_resampled(x: np.ndarray, y: np.ndarray, of_x: Resampling, of_y: Resampling) -> np.ndarray:
    """FID float64 [R] of every resample of features x [N, D] and y [M, D].

    |m - n|^2 + tr A'A + tr B'B - 2 tr (A'A B'B)^(1/2), m and n the means, A [N, D] and B [M, D] the centred features
    over the roots of N - 1 and M - 1. The last trace is the sum of the singular values of A B' [N, M]: its squares are
    the eigenvalues of A B' B A', which but for zeros are those of A'A B'B. So no matrix is larger than the number of
    images, and all are centred and weighted from the inner products of the images, computed once.
    """
    origin = y.mean(axis=0, dtype=np.float64)  # anything near both; the inner products then keep their digits
    x, y = x - origin, y - origin
    across = x @ y.T
    squares = [(z**2).sum(axis=1) for z in (x, y)]
    inner = [z @ z.T for z in (x, y)]
    values = []
    for w, v in zip(of_x.weights, of_y.weights, strict=True):
        # Centring: (x_i - m) . (y_j - n), m and n being weighted means.
        p, q = w / w.sum(), v / v.sum()
        to_y, to_x = p @ across, across @ q  # m . y_j and x_i . n
        between = p @ to_x  # m . n
        centred = across - to_y - to_x[:, None] + between
        means = [p @ inner[0] @ p, q @ inner[1] @ q]  # |m|^2 and |n|^2
        traces = [
            (weight @ square - weight.sum() * mean) / (weight.sum() - 1)
            for weight, square, mean in zip((w, v), squares, means, strict=True)
        ]
        scaled = np.sqrt(w / (w.sum() - 1))[:, None] * centred * np.sqrt(v / (v.sum() - 1))
        scaled = scaled[w > 0][:, v > 0]
        scaled = scaled if len(scaled) < scaled.shape[1] else scaled.T
        # Eigenvalues of the smaller product: many times faster than a singular value decomposition. Those that are 0
        # but for rounding would add up, many as they are with fewer dimensions than images.
        eigenvalues = np.linalg.eigvalsh(scaled @ scaled.T)
        eigenvalues = eigenvalues[eigenvalues > len(scaled) * np.finfo(np.float64).eps * eigenvalues[-1]]
        root = np.sqrt(eigenvalues).sum()
        values.append(means[0] + means[1] - 2 * between + sum(traces) - 2 * root)
    return np.array(values)


@dataclass(frozen=True)
class Neighbourhoods:
    """What each image adds to the four measures, which are the means of these; None where there are too few images."""

    precision: np.ndarray | None  # bool [N] of samples: in a ball of real images
    recall: np.ndarray | None  # bool [M] of real images: in a ball of samples
    density: np.ndarray | None  # float64 [N] of samples: the real balls it is in, over k
    coverage: np.ndarray | None  # bool [M] of real images: its ball holds a sample


def neighbourhoods(
    samples: np.ndarray, real: np.ndarray, real_groups: Sequence[Hashable], sample_groups: Sequence[Hashable]
) -> Neighbourhoods:
    """The balls around features [M, D] of real images and [N, D] of samples, and which hold which."""
    apart = _distances(samples, real)
    within = _radii(real, real_groups, PRECISION_NEIGHBOURS)
    around = _radii(samples, sample_groups, PRECISION_NEIGHBOURS)
    wide = _radii(real, real_groups, DENSITY_NEIGHBOURS)
    return Neighbourhoods(
        None if within is None else (apart < within).any(axis=1),
        None if around is None else (apart < around[:, None]).any(axis=0),
        None if wide is None else (apart < wide).sum(axis=1) / DENSITY_NEIGHBOURS,
        None if wide is None else (apart < wide).any(axis=0),
    )


def _radii(x: np.ndarray, groups: Sequence[Hashable], k: int) -> np.ndarray | None:
    """Distance float64 [N] of each image to the k-th nearest of other groups; None where one has fewer than k."""
    numbers = {group: number for number, group in enumerate(dict.fromkeys(groups))}
    unit = np.array([numbers[group] for group in groups])
    if len(x) - np.bincount(unit).max() < k:
        return None
    distances = np.where(unit[:, None] == unit, np.inf, _distances(x, x))
    return np.partition(distances, k - 1, axis=1)[:, k - 1]


def _distances(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Euclidean distances float64 [N, M] of features [N, D] and [M, D]."""
    x, y = x.astype(np.float64), y.astype(np.float64)
    squares = (x**2).sum(axis=1)[:, None] + (y**2).sum(axis=1) - 2 * x @ y.T
    return np.sqrt(np.maximum(squares, 0))


def _fid_interval(
    samples: np.ndarray,
    real: np.ndarray,
    sample_groups: Sequence[Hashable],
    real_groups: Sequence[Hashable],
    key: Sequence[Key],
) -> list[float]:
    """By the jackknife over samples and over real images."""
    without = [Resampling.leave_out(groups, numpy_generator("fid", *key)) for groups in (sample_groups, real_groups)]
    whole = [
        Resampling(np.zeros(len(images), np.int64), np.ones((len(other.counts), 1)))
        for images, other in zip((samples, real), without[::-1], strict=True)
    ]
    left_out = [
        fid_resampled(samples, real, without[0], whole[1]),
        fid_resampled(samples, real, whole[0], without[1]),
    ]
    return jackknife_interval(fid(samples, real), *left_out)
