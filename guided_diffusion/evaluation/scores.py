"""Scores of segmentations: IoU, F1, recall and false alarms, all of sums of pixel counts, so that resamples are exact.

Agreement is the IoU of generated masks with what a segmenter sees that was trained on real images alone. It errs too:
its IoU with true masks of real images that it has not seen is the reference beside it.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from ..keyed_random import numpy_generator
from ..precision import resolve_precision
from .bootstrap import NUM_RESAMPLES, Resampling, mean_interval, with_interval
from .image_sets import ImageSet, View
from .segmenter import Pool, Segmenter, SegmenterSettings, train_segmenter

BOTH, PREDICTED, TRUE = range(3)  # last axis of the counts
ANY = 0  # row of the counts: any type, against background
RESERVED = 5  # every fifth group of real images is left out of training, for the reference of agreement


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
    both, predicted, true = np.moveaxis(counts, -1, 0)
    return _ratio(both, (predicted + true - both) * (true > 0))


def f1(counts: np.ndarray) -> np.ndarray:
    """F1 (Dice) of counts [..., 3]; nan where truth holds no pixel."""
    both, predicted, true = np.moveaxis(counts, -1, 0)
    return _ratio(2 * both, (predicted + true) * (true > 0))


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

    weights: [R, N + M]. Pixels are pooled over images; f1 is of defects against background. nan: nothing to take it
    from, such as a type that truth does not hold; miou and f1_mean leave those out.
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


def train_agreement_segmenter(
    train: ImageSet,
    good: ImageSet | None,
    view: View,
    seed: int = 0,
    *,
    held_out: ImageSet | None = None,
    steps: int = 300,
    device: torch.device | str = "cpu",
) -> tuple[Segmenter, dict[str, Any] | None]:
    """A segmenter trained on real images, whole, and defect-free ones; and its summary (see `agreement`) as reference.

    The reference is of `held_out`, else of groups that are left out of `train`; None where there are too few to leave
    out. Raises InputError as train_segmenter does.
    """
    if held_out is None:
        names = list(dict.fromkeys(train.groups))
        order = numpy_generator("agreement", seed).permutation(len(names))
        reserved = {names[i] for i in order[: len(names) // RESERVED]}
        held_out = train.take([i for i, group in enumerate(train.groups) if group in reserved])
        train = train.take([i for i, group in enumerate(train.groups) if group not in reserved])
    settings = SegmenterSettings(steps=steps, precision=resolve_precision("auto", torch.device(device)))
    pool = Pool(train, None, good or None, view.size)
    segmenter = train_segmenter(pool, settings, seed, device, "training a segmenter")
    return segmenter, agreement(segmenter, held_out)[1] if len(held_out) else None


def agreement(segmenter: Segmenter, samples: ImageSet) -> tuple[np.ndarray, dict[str, Any]]:
    """float64 [N], the mean IoU over the types in mask or prediction of each sample, nan where there are none; and
    their summary.

    {"mean": of these, "per_type": {type: IoU of all pixels together}, "images"}, each {"value", "interval"} over the
    samples' groups, or None where nothing is known.
    """
    names = samples.class_names
    pairs = zip(segmenter.predict(samples.images), samples.masks, strict=True)
    counts = np.stack([count_pixels(p, t, len(names)) for p, t in pairs])
    both, predicted, true = np.moveaxis(counts[:, 1:], -1, 0)
    each = _mean_of_known(_ratio(both, predicted + true - both))
    return each, {
        "mean": mean_interval(each, samples.groups),
        "per_type": {name: _pooled(counts[:, k], samples.groups) for k, name in enumerate(names, start=1)},
        "images": len(samples),
    }


def _pooled(counts: np.ndarray, groups: Sequence[Hashable]) -> dict[str, Any] | None:
    """IoU of counts [N, 3] pooled, with its interval; None where no mask holds the type."""
    value, resampled = iou(counts.sum(axis=0)), None
    if np.isnan(value):
        return None
    if len(set(groups)) >= 2:
        weights = Resampling.draw(groups, NUM_RESAMPLES, numpy_generator("agreement"), least=1).weights
        resampled = iou(weights @ counts)
    return with_interval(value, resampled)


def _ratio(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
    """part / whole as float64; nan where whole is 0."""
    return np.divide(part, whole, out=np.full(np.shape(whole), np.nan), where=np.asarray(whole) > 0)


def _mean_of_known(values: np.ndarray) -> np.ndarray:
    """Mean over the last axis of what is not nan; nan where nothing is known."""
    known = ~np.isnan(values)
    return _ratio(np.where(known, values, 0).sum(axis=-1), known.sum(axis=-1))
