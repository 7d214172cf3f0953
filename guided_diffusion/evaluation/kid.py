"""Kernel Inception Distance (Binkowski et al. 2018, "Demystifying MMD GANs"), with bootstrap intervals.

KID is the unbiased estimate of the squared maximum mean discrepancy between two sets of features x and y, of d numbers
each, under the kernel k(a, b) = (a . b / d + 1)^3:

    mean over i != j of k(x_i, x_j)  +  mean over i != j of k(y_i, y_j)  -  2 mean over i, j of k(x_i, y_j)

Unbiased, it may come out below 0. All sums are in float64. Kernels are computed once for all resamples.

Two sets that were made from the same seeds are compared by using the same `Resampling` of the seeds, and of the real
images, for both: the difference of the two `kid_resampled` then is the paired one.
"""

from __future__ import annotations

import numpy as np

from .bootstrap import Resampling, mean_of_pairs, resampled_mean_of_pairs


def kernel(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """(x_i . y_j / d + 1)^3 as float64 [N, M], for features [N, d] and [M, d]."""
    return (x.astype(np.float64) @ y.astype(np.float64).T / x.shape[1] + 1) ** 3


def kid(x: np.ndarray, y: np.ndarray) -> float:
    """The unbiased KID between features [N, d] and [M, d]; N and M at least 2."""
    return float(mean_of_pairs(kernel(x, x)) + mean_of_pairs(kernel(y, y)) - 2 * kernel(x, y).mean())


def kid_resampled(x: np.ndarray, y: np.ndarray, of_x: Resampling, of_y: Resampling) -> np.ndarray:
    """KID float64 [R] of every resample of features x [N, d] and y [M, d]."""
    weights = of_y.weights
    between = ((of_x.weights @ kernel(x, y)) * weights).sum(axis=1)
    between /= of_x.weights.sum(axis=1) * weights.sum(axis=1)
    return resampled_mean_of_pairs(kernel(x, x), of_x) + resampled_mean_of_pairs(kernel(y, y), of_y) - 2 * between
