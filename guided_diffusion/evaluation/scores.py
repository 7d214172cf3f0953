"""Scores of segmentations: IoU, F1, recall and false alarms, all of sums of pixel counts, so that resamples are exact.

Agreement is the IoU of generated masks with what a segmenter sees that was trained on real images alone. It errs too:
its IoU with true masks of real images that it has not seen is the reference beside it.
"""

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch

from ..keyed_random import numpy_generator
from .bootstrap import Resampling, mean_interval, with_interval
from .image_sets import ImageSet, RealSets
from .segmenter import Pool, Segmenter, train_segmenter

BOTH, PREDICTED, TRUE = range(3)  # last axis of the counts
ANY = 0  # row of the counts: any type, against background
STEPS = 300  # of the segmenter that agreement is with
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
    """Scores of one segmenter in [0, 1] under each row of weights, as float64 [R]; iou_types [R, types].

    weights: [R, N + M]. Pixels are pooled over images; f1 is of defects against background. nan: nothing to take it
    from, such as a type that truth does not hold; miou leaves those out.
    """
    pixels, good = outcome.pixels, outcome.good
    on_defects, on_good = weights[:, : len(pixels)], weights[:, len(pixels) :]
    pooled = (on_defects @ pixels.reshape(len(pixels), -1).astype(np.float64)).reshape(-1, *pixels.shape[1:])
    defect = pixels[:, ANY, TRUE] > 0
    found = pixels[:, ANY, PREDICTED] >= outcome.min_pixels
    any_type, types = iou(pooled[:, ANY]), iou(pooled[:, 1:])
    return {
        "miou": _mean_of_known(types),
        "f1": 2 * any_type / (1 + any_type),
        "image_recall": _ratio(on_defects @ (defect & found), on_defects @ defect),
        "false_positive_rate": _ratio(on_good @ (good >= outcome.min_pixels), on_good.sum(axis=1)),
        "iou_types": types,
    }


def reserve(sets: RealSets, seed: int) -> RealSets:
    """The same with images held out: where there are none, groups of the training images, none where these are few."""
    if sets.held_out is not None:
        return sets
    train, names = sets.train, list(dict.fromkeys(sets.train.groups))
    order = numpy_generator("agreement", seed).permutation(len(names))
    reserved = {names[i] for i in order[: len(names) // RESERVED]}
    held_out = train.take([i for i, group in enumerate(train.groups) if group in reserved])
    train = train.take([i for i, group in enumerate(train.groups) if group not in reserved])
    return replace(sets, train=train, held_out=held_out)


def train_agreement_segmenter(sets: RealSets, seed: int, device: torch.device | str) -> Segmenter:
    """A segmenter trained on the training images, whole, and on defect-free ones."""
    pool = Pool(sets.train, None, sets.good or None, sets.view.size)
    return train_segmenter(pool, STEPS, seed, device, "training a segmenter")


def agreement(segmenter: Segmenter, samples: ImageSet) -> tuple[np.ndarray, dict[str, Any]]:
    """float64 [N], the mean IoU over the types in mask or prediction of each sample, nan where there are none; and
    their summary.

    {"mean": of these, "per_type": {type: IoU of all pixels together}, "images"}, each {"value", "interval"} over the
    samples' groups, or None where nothing is known.
    """
    names, groups = samples.class_names, samples.groups
    pairs = zip(segmenter.predict(samples.images), samples.masks, strict=True)
    counts = np.stack([count_pixels(p, t, len(names)) for p, t in pairs])
    both, predicted, true = np.moveaxis(counts[:, 1:], -1, 0)
    each = _mean_of_known(_ratio(both, predicted + true - both))
    pooled = iou(np.tensordot(Resampling.draw(groups, "agreement", least=1).weights, counts, 1))[:, 1:].T
    per_type = {k: None if np.isnan(of[0]) else with_interval(of) for k, of in zip(names, pooled, strict=True)}
    return each, {"mean": mean_interval(each, groups), "per_type": per_type, "images": len(samples)}


def _ratio(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
    """part / whole as float64; nan where whole is 0."""
    return np.divide(part, whole, out=np.full(np.shape(whole), np.nan), where=np.asarray(whole) > 0)


def _mean_of_known(values: np.ndarray) -> np.ndarray:
    """Mean over the last axis of what is not nan; nan where nothing is known."""
    known = ~np.isnan(values)
    return _ratio(np.where(known, values, 0).sum(axis=-1), known.sum(axis=-1))
