"""A linear classifier on frozen features, small enough for the few labelled images that there are."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np
import torch
from scipy.optimize import minimize

from .features import Extractor

PENALTY = 0.01  # of the squared weights, for features of variance 1 / their number
LEAST_SPREAD = 0.1  # of the mean over features
MOST_ITERATIONS = 300


def describe(
    extractor: Extractor,
    images: np.ndarray,
    *,
    batch_size: int = 32,
    progress: Callable[[range], Iterable[int]] = lambda starts: starts,
) -> np.ndarray:
    """float32 [N, D] of uint8 images [N, H, W, 3]: what the extractor sees at its depths, mean and maximum over places.

    The maximum keeps a defect of a few pixels, which a mean over the image would drown.
    """
    parts = []
    for start in progress(range(0, len(images), batch_size)):
        layers = extractor.layers(images[start : start + batch_size])
        parts.append(torch.cat([part for x in layers for part in (x.mean((2, 3)), x.amax((2, 3)))], dim=1).cpu())
    return torch.cat(parts).numpy()


@dataclass(frozen=True)
class LinearClassifier:
    """Logistic regression: scores above 0 say yes. Both classes weigh the same, however many images each has."""

    mean: np.ndarray
    scale: np.ndarray
    weights: np.ndarray
    bias: float

    @classmethod
    def fit(cls, features: np.ndarray, labels: np.ndarray) -> LinearClassifier:
        """From features [N, D] and labels bool [N], of which some are true and some are not."""
        mean, spread = features.mean(axis=0), features.std(axis=0)
        # A feature that hardly ever varied here would outweigh all others where it does.
        scale = 1 / (np.maximum(spread, LEAST_SPREAD * spread.mean() + 1e-12) * features.shape[1] ** 0.5)
        x = ((features - mean) * scale).astype(np.float64)
        sign = np.where(labels, 1.0, -1.0)
        share = np.where(labels, 0.5 / labels.sum(), 0.5 / (~labels).sum())

        def loss(parameters: np.ndarray) -> tuple[float, np.ndarray]:
            weights, bias = parameters[:-1], parameters[-1]
            margin = sign * (x @ weights + bias)
            slope = -share * sign * np.exp(-np.logaddexp(0, margin))  # of the loss by the score
            value = share @ np.logaddexp(0, -margin) + PENALTY / 2 * weights @ weights
            return value, np.append(x.T @ slope + PENALTY * weights, slope.sum())

        start = np.zeros(x.shape[1] + 1)
        found = minimize(loss, start, jac=True, method="L-BFGS-B", options={"maxiter": MOST_ITERATIONS}).x
        return cls(mean, scale, found[:-1], float(found[-1]))

    def __call__(self, features: np.ndarray) -> np.ndarray:
        """Scores float64 [N] of features [N, D]."""
        return (features - self.mean) * self.scale @ self.weights + self.bias
