"""What segmentations are worth: IoU, F1, recall and false alarms from pixel counts, with a hierarchical bootstrap.

A run keeps, for each validation image, how many pixels of each type truth, prediction and both hold; every score is
a function of sums of these, so that each resample is exact. Training seeds, validation images (by group) and generator
runs are resampled together, each from its own units; arms that are compared share seeds and images.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ..keyed_random import numpy_generator
from .bootstrap import LEVEL, NUM_RESAMPLES, Resampling

BOTH, PREDICTED, TRUE = range(3)  # last axis of the counts
ANY = 0  # row of the counts: any type, against background


def count_pixels(prediction: np.ndarray, truth: np.ndarray, num_types: int) -> np.ndarray:
    """int64 [num_types + 1, 3] of two index masks [H, W]: pixels in both, predicted, true; row 0 is any type."""
    classes = num_types + 1
    pairs = np.bincount(truth.ravel().astype(np.int64) * classes + prediction.ravel(), minlength=classes**2)
    table = pairs.reshape(classes, classes)  # [truth, prediction]
    counts = np.stack([np.diagonal(table), table.sum(axis=0), table.sum(axis=1)], axis=-1)
    counts[ANY] = table[1:, 1:].sum(), table[:, 1:].sum(), table[1:].sum()
    return counts


def iou(counts: np.ndarray) -> np.ndarray:
    """Intersection over union of counts [..., 3]; nan where truth holds no pixel."""
    union = counts[..., PREDICTED] + counts[..., TRUE] - counts[..., BOTH]
    return _ratio(counts[..., BOTH], np.where(counts[..., TRUE] > 0, union, 0))


def f1(counts: np.ndarray) -> np.ndarray:
    """F1 (Dice) of counts [..., 3]; nan where truth holds no pixel."""
    total = counts[..., PREDICTED] + counts[..., TRUE]
    return _ratio(2 * counts[..., BOTH], np.where(counts[..., TRUE] > 0, total, 0))


@dataclass(frozen=True)
class Outcome:
    """What one trained segmenter predicts.

    pixels: int64 [N, types + 1, 3], count_pixels of the validation images. good: int64 [M], predicted defect pixels on
    defect-free ones. min_pixels: from so many predicted ones on, an image counts as defective.
    """

    pixels: np.ndarray
    good: np.ndarray
    min_pixels: int


def calibrate(good: np.ndarray, share: float) -> int:
    """The least min_pixels that at most this share of defect-free images reaches; int [M] pixels predicted on each."""
    allowed = int(share * len(good))
    return int(np.sort(good)[::-1][allowed]) + 1


def scores(outcome: Outcome, weights: np.ndarray) -> dict[str, np.ndarray]:
    """Scores of one segmenter in [0, 1] under each row of weights, as float64 [R]; iou_types and f1_types [R, types].

    weights: [R, N + M]. Pixels are pooled over images. A type that truth does not hold is nan, and left out of means:
    miou and f1_mean are over types, f1 is of defects against background. nan: nothing to take it from.
    """
    pixels, good = outcome.pixels, outcome.good
    on_defects, on_good = weights[:, : len(pixels)], weights[:, len(pixels) :]
    pooled = (on_defects @ pixels.reshape(len(pixels), -1).astype(np.float64)).reshape(-1, *pixels.shape[1:])
    defect = pixels[:, ANY, TRUE] > 0
    found = pixels[:, ANY, PREDICTED] >= outcome.min_pixels
    iou_types, f1_types = iou(pooled[:, 1:]), f1(pooled[:, 1:])
    return {
        "miou": _mean_of_known(iou_types),
        "f1": f1(pooled[:, ANY]),
        "f1_mean": _mean_of_known(f1_types),
        "image_recall": _ratio(on_defects @ (defect & found), on_defects @ defect),
        "false_positive_rate": _ratio(on_good @ (good >= outcome.min_pixels), on_good.sum(axis=1)),
        "iou_types": iou_types,
        "f1_types": f1_types,
    }


@dataclass(frozen=True)
class Bootstrap:
    """R + 1 weightings, the first of which is the sample itself: of images [R + 1, N + M], of seeds [R + 1, S]."""

    images: np.ndarray
    seeds: np.ndarray

    @classmethod
    def draw(cls, groups: Sequence[str], num_seeds: int, num_resamples: int = NUM_RESAMPLES) -> Bootstrap:
        """groups: of the validation images and then of the defect-free ones; at least two different.

        Raises ValueError where there are fewer.
        """
        rng = numpy_generator("lift", "images")
        images = Resampling.draw(groups, num_resamples, rng, least=1).weights
        return cls(np.vstack([np.ones(len(groups)), images]), _unit_weights(num_seeds, num_resamples, "lift", "seeds"))

    def of_arm(self, outcomes: Sequence[Sequence[Outcome]], name: str) -> dict[str, np.ndarray]:
        """The scores of an arm under each weighting: means over its generator runs and seeds, each weighted too.

        outcomes: [generator runs][seeds]. name: of the set whose runs these are; arms of one set share the resamples of
        its runs.
        """
        runs = self.run_weights(len(outcomes), len(self.images) - 1, name)
        total: dict[str, np.ndarray] = {}
        for r, seeds in enumerate(outcomes):
            for s, one in enumerate(seeds):
                weight = runs[:, r] * self.seeds[:, s]
                for key, value in scores(one, self.images).items():
                    share = weight.reshape(-1, *[1] * (value.ndim - 1))
                    total[key] = total.get(key, 0) + np.where(share > 0, value, 0) * share
        return total

    @staticmethod
    def run_weights(num_runs: int, num_resamples: int, name: str) -> np.ndarray:
        """The weights [R + 1, runs] of the generator runs of the set `name`."""
        return _unit_weights(num_runs, num_resamples, "lift", "runs", name)


def estimate(values: np.ndarray, scale: float = 100) -> dict:
    """{"value", "interval"} from values [R + 1] of a Bootstrap, in percent; None for what is not known."""
    known = values[1:][~np.isnan(values[1:])]
    if np.isnan(values[0]) or not len(known):
        return {"value": None, "interval": None}
    low, high = np.quantile(known, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return {"value": float(values[0]) * scale, "interval": [float(low) * scale, float(high) * scale]}


def _unit_weights(size: int, num_resamples: int, *key: str) -> np.ndarray:
    """Shares float64 [num_resamples + 1, size] of units in resamples of them; the first row is even.

    A resample has one unit less than there are: with as many, the variance of a mean of n units comes out too small
    by a factor of (n - 1) / n (Hesterberg 2004, "Unbiasing the bootstrap"), which for 5 seeds or 2 runs is much.
    """
    drawn = max(size - 1, 1)
    counts = numpy_generator(*key).multinomial(drawn, np.full(size, 1 / size), num_resamples)
    return np.vstack([np.full(size, 1 / size), counts / drawn])


def _ratio(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
    """part / whole as float64; nan where whole is 0."""
    return np.divide(part, whole, out=np.full(np.shape(whole), np.nan), where=np.asarray(whole) > 0)


def _mean_of_known(values: np.ndarray) -> np.ndarray:
    """Mean over the last axis of what is not nan; nan where nothing is known."""
    known = ~np.isnan(values)
    return _ratio(np.where(known, values, 0).sum(axis=-1), known.sum(axis=-1))
