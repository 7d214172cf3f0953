"""How near generated images come to real ones, and how much they differ from each other, by an extractor's features.

KID: Binkowski et al. 2018; precision and recall: Kynkaanniemi et al. 2019; a neighbour is of another group here, as
photographs of one object are near copies.
Diversity: the mean over pairs of the perceptual distance of Zhang et al. 2018 (equation 1) without learned weights, so
not LPIPS. Spectrum: power in the top octave, in dB of that of real images; below 0 the samples are too smooth.
Intervals of precision are over samples, of recall over real images.
"""

from collections import Counter
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.spatial.distance import cdist

from ..keyed_random import Key, numpy_generator
from .bootstrap import Resampling, halves, mean_of_pairs, number_groups, share_interval, with_interval
from .features import Extractor
from .image_sets import ImageSet

MEASURES = {  # key: title, factor, decimals
    "kid": ("KID x 1000", 1000, 1),
    "precision": ("precision", 1, 2),
    "recall": ("recall", 1, 2),
    "diversity": ("diversity", 1, 3),
    "spectrum": ("power in the top octave, dB", 1, 1, "+"),
}
NEIGHBOURS = 3  # Kynkaanniemi et al. 2019
MOST_DIVERSE = 1_000  # images whose diversity is measured; of more, so many are drawn
LEAST_POWER = 1e-9  # for a logarithm of images without any grain
LEAST_IMAGES = 8  # of fewer, nothing is measured


def kernel(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """(x_i . y_j / d + 1)^3 as float64 [N, M], for features [N, d] and [M, d]."""
    return (x.astype(np.float64) @ y.astype(np.float64).T / x.shape[1] + 1) ** 3


def kid(x: np.ndarray, y: np.ndarray, of_x: Resampling, of_y: Resampling) -> np.ndarray:
    """The unbiased KID, which may be below 0, float64 [1 + R], between features [N, d] and [M, d]; N and M at least 2.
    Without resamples of one of them there are none."""
    rows = min(len(of_x.counts), len(of_y.counts))
    a, b = of_x.weights[:rows], of_y.weights[:rows]
    between = ((a @ kernel(x, y)) * b).sum(axis=1) / (a.sum(axis=1) * b.sum(axis=1))
    within = mean_of_pairs(kernel(x, x), of_x)[:rows] + mean_of_pairs(kernel(y, y), of_y)[:rows]
    return within - 2 * between


def precision_and_recall(
    samples: np.ndarray, real: np.ndarray, of_samples: Sequence[Hashable], of_real: Sequence[Hashable]
) -> dict[str, dict[str, Any] | None]:
    """Of features [N, D] and [M, D], whose groups these are; both None where other groups have too few images."""
    if any(len(own) - max(Counter(own).values()) < NEIGHBOURS for own in (of_samples, of_real)):
        return {"precision": None, "recall": None}

    def radii(x: np.ndarray, groups: Sequence[Hashable]) -> np.ndarray:
        """Distance float64 [N] of each image to the NEIGHBOURS-th nearest of other groups."""
        unit = number_groups(groups)
        return np.sort(np.where(unit[:, None] == unit, np.inf, cdist(x, x)))[:, NEIGHBOURS - 1]

    apart = cdist(samples, real)
    near, reached = apart < radii(real, of_real), apart < radii(samples, of_samples)[:, None]
    return {
        "precision": share_interval(near.any(axis=1), of_samples),
        "recall": share_interval(reached.any(axis=0), of_real),
    }


def diversity(extractor: Extractor, images: np.ndarray, groups: Sequence[Hashable], *key: Key) -> dict[str, Any] | None:
    """Mean perceptual distance of pairs of images uint8 [N, H, W, 3], an Estimate over groups; None without pairs."""
    if len(images) < 2:
        return None
    some = np.sort(numpy_generator("diverse", *key).permutation(len(images))[:MOST_DIVERSE])
    embedded = extractor.embed(images[some])
    squares = np.einsum("nk,nk->n", embedded, embedded, dtype=np.float64)
    pairs = np.maximum(squares[:, None] + squares - 2 * (embedded @ embedded.T).astype(np.float64), 0)
    return with_interval(mean_of_pairs(pairs, Resampling.draw([groups[i] for i in some], "diversity", *key)))


def fine_power(images: np.ndarray) -> np.ndarray:
    """Power float64 [N] in the top octave of uint8 images [N, H, W, 3] made grey: the mean over bins of equal width of
    radial frequency, from a quarter to half of the sampling rate. White noise has its variance."""
    height, width = images.shape[1:3]
    bins = 2 * max(1, min(height, width) // 4)
    radius = np.hypot(np.fft.fftfreq(height)[:, None], np.fft.fftfreq(width)).ravel()
    at = (2 * bins * radius).astype(int) - (radius == 0.5)  # those in the corners, from bins on, are left out
    top = slice(bins // 2, bins)
    window = np.outer(np.hanning(height), np.hanning(width))
    found = []
    for image in images:
        grey = image @ np.array([0.299, 0.587, 0.114])
        power = np.abs(np.fft.fft2((grey - grey.mean()) * window)) ** 2 / (window**2).sum() + LEAST_POWER
        found.append((np.bincount(at, power.ravel())[top] / np.bincount(at)[top]).mean())
    return np.array(found)


def spectrum(x: np.ndarray, y: np.ndarray, of_x: Resampling, of_y: Resampling) -> np.ndarray:
    """The mean of fine_power [N] over that of [M], in dB: float64 [1 + R]."""
    rows = min(len(of_x.counts), len(of_y.counts))
    a, b = of_x.weights[:rows], of_y.weights[:rows]
    return 10 * np.log10(a @ x / a.sum(axis=1) / (b @ y / b.sum(axis=1)))


@dataclass(frozen=True)
class Seen:
    """N images as the extractor sees them."""

    features: np.ndarray  # float32 [N, D]
    types: np.ndarray  # bool [N, types + 1]: which types each holds; column 0 is of no use
    groups: np.ndarray  # str [N]: what is resampled together
    diversity: dict[str, Any] | None
    power: np.ndarray  # float64 [N], of fine_power

    @classmethod
    def look(cls, images: ImageSet, extractor: Extractor, *key: Key) -> "Seen":
        """images: of one size, as arrays. key: of random draws."""
        types = [np.bincount(mask.ravel(), minlength=len(images.class_names) + 1) > 0 for mask in images.masks]
        pixels, groups = images.images, np.array(images.groups)
        varied = diversity(extractor, pixels, images.groups, *key)
        return cls(extractor(pixels), np.stack(types), groups, varied, fine_power(pixels))


def compare(samples: Seen | None, real: Seen, key: Sequence[Key] = (), index: int | None = None) -> dict[str, Any]:
    """Samples against real images, all or those that hold the type `index`; quality.json holds many.

    samples: None, two halves of the real images against each other. Of fewer than LEAST_IMAGES on a side it says
    "too_few" only; of a type it has KID alone. A measure is None where so few groups do not allow it."""
    sets = samples or real, real
    if samples is None:
        at = halves(real.groups, *key)
    else:
        at = [slice(None) if index is None else of.types[:, index] for of in sets]
    x, y = (of.features[rows] for of, rows in zip(sets, at, strict=True))
    of_x, of_y = (of.groups[rows] for of, rows in zip(sets, at, strict=True))
    counts = {"samples": len(x), "real": len(y), "real_groups": len(set(of_y))}
    if min(len(x), len(y)) < LEAST_IMAGES:
        return {"counts": counts, "too_few": f"{len(x)} against {len(y)}"}
    drawn = [Resampling.draw(own, "kid", side, *key) for side, own in (("samples", of_x), ("real", of_y))]
    found = {"counts": counts, "kid": with_interval(kid(x, y, *drawn))}
    if index is None:
        found |= precision_and_recall(x, y, of_x, of_y)
        power = [of.power[rows] for of, rows in zip(sets, at, strict=True)]
        found |= {"diversity": sets[0].diversity, "spectrum": with_interval(spectrum(*power, *drawn))}
    return found
