"""Kernel Inception Distance (Binkowski et al. 2018, "Demystifying MMD GANs"), with bootstrap intervals.

KID is the unbiased estimate of the squared maximum mean discrepancy between two sets of features x and y, of d numbers
each, under the kernel k(a, b) = (a . b / d + 1)^3:

    mean over i != j of k(x_i, x_j)  +  mean over i != j of k(y_i, y_j)  -  2 mean over i, j of k(x_i, y_j)

Unbiased, it may come out below 0. All sums are in float64.

The bootstrap resamples *units*: single samples, or groups of images that belong together, such as all photographs
of one object. Kernels are computed once; a resample is a row of counts that weights them. Where a unit was drawn more
than once, its copies are not compared with each other: those pairs would be of an image with itself (or of one object
with itself), of which a true new draw has none.

Two sets that were made from the same seeds are compared by using the same `Resampling` of the seeds, and of the real
images, for both: the difference of the two `kid_resampled` then is the paired one.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Resampling:
    """Bootstrap draws of the units of N images: unit int64 [N] of each image, counts float64 [R, units]."""

    unit: np.ndarray
    counts: np.ndarray

    @classmethod
    def draw(cls, groups: Sequence[Hashable], num_resamples: int, rng: np.random.Generator) -> Resampling:
        """Resample the units of images, `groups` naming the unit of each; at least two different units.

        Raises ValueError where there are fewer.
        """
        numbers = {group: number for number, group in enumerate(dict.fromkeys(groups))}
        size = len(numbers)
        if size < 2:
            raise ValueError(f"a bootstrap needs at least 2 units, got {size}")
        counts = rng.multinomial(size, np.full(size, 1 / size), num_resamples)
        # A resample of one unit alone has no pairs; drawn again, which matters for a handful of units only.
        while (lonely := (counts > 0).sum(axis=1) < 2).any():
            counts[lonely] = rng.multinomial(size, np.full(size, 1 / size), int(lonely.sum()))
        return cls(np.array([numbers[group] for group in groups]), counts.astype(np.float64))


def kernel(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """(x_i . y_j / d + 1)^3 as float64 [N, M], for features [N, d] and [M, d]."""
    return (x.astype(np.float64) @ y.astype(np.float64).T / x.shape[1] + 1) ** 3


def kid(x: np.ndarray, y: np.ndarray) -> float:
    """The unbiased KID between features [N, d] and [M, d]; N and M at least 2."""
    return float(_mean_of_pairs(kernel(x, x)) + _mean_of_pairs(kernel(y, y)) - 2 * kernel(x, y).mean())


def kid_resampled(x: np.ndarray, y: np.ndarray, of_x: Resampling, of_y: Resampling) -> np.ndarray:
    """KID float64 [R] of every resample of features x [N, d] and y [M, d]."""
    weights = of_y.counts[:, of_y.unit]  # [R, M]
    between = ((of_x.counts[:, of_x.unit] @ kernel(x, y)) * weights).sum(axis=1)
    between /= of_x.counts[:, of_x.unit].sum(axis=1) * weights.sum(axis=1)
    return _resampled_mean_of_pairs(kernel(x, x), of_x) + _resampled_mean_of_pairs(kernel(y, y), of_y) - 2 * between


def interval(values: np.ndarray, level: float = 0.95) -> tuple[float, float]:
    """The central percentile interval of bootstrap values [R] at this level."""
    low, high = np.quantile(values, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def _mean_of_pairs(k: np.ndarray) -> float:
    """Mean of a kernel matrix [N, N] without its diagonal."""
    return (k.sum() - np.trace(k)) / (len(k) * (len(k) - 1))


def _resampled_mean_of_pairs(k: np.ndarray, of: Resampling) -> np.ndarray:
    """The same float64 [R] of every resample: pairs of two units count c * c', pairs within a unit c."""
    member = np.eye(of.counts.shape[1])[of.unit]  # [N, units]

    def totals(matrix: np.ndarray) -> np.ndarray:
        units = member.T @ matrix @ member
        within = np.diagonal(units) - member.T @ np.diagonal(matrix)
        np.fill_diagonal(units, 0)
        return ((of.counts @ units) * of.counts).sum(axis=1) + of.counts @ within

    return totals(k) / totals(np.ones_like(k))
