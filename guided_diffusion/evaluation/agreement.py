"""Whether masks tell the truth: a segmenter trained on real images alone, and its IoU with the generated masks.

It errs too. What its IoU with true masks of real images is that it has not seen is the reference beside every figure.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from ..keyed_random import numpy_generator
from .augmentation import Pool
from .bootstrap import Resampling, interval, mean_interval
from .image_sets import ImageSet, View
from .scores import BOTH, PREDICTED, TRUE, count_pixels, iou
from .segmenter import Segmenter, SegmenterSettings, faster_precision, train_segmenter

RESERVED = 5  # every fifth group of real images is left out of training, for the reference


@dataclass(frozen=True)
class AgreementSegmenter:
    """A segmenter and what it agrees with true masks.

    reference: agreement_summary of real images that it was not trained on; None where there are too few to leave out.
    """

    segmenter: Segmenter
    reference: dict[str, Any] | None

    def predict(self, images: Sequence[np.ndarray]) -> list[np.ndarray]:
        """As Segmenter.predict."""
        return self.segmenter.predict(images)

    @property
    def provenance(self) -> dict[str, Any]:
        return self.segmenter.provenance


def train_agreement_segmenter(
    train: ImageSet,
    good: ImageSet | None,
    view: View,
    seed: int = 0,
    *,
    held_out: ImageSet | None = None,
    steps: int = 300,
    device: torch.device | str = "cpu",
    progress: Any = iter,
) -> AgreementSegmenter:
    """Train on real images, whole, and defect-free ones; judged on `held_out`, else on groups left out of `train`.

    `progress` wraps the steps. Raises InputError as train_segmenter does.
    """
    if held_out is None:
        names = list(dict.fromkeys(train.groups))
        order = numpy_generator("agreement", seed).permutation(len(names))
        reserved = {names[i] for i in order[: len(names) // RESERVED]}
        held_out = train.take([i for i, group in enumerate(train.groups) if group in reserved])
        train = train.take([i for i, group in enumerate(train.groups) if group not in reserved])
    settings = SegmenterSettings(steps=steps, precision=faster_precision(torch.device(device)))
    segmenter = train_segmenter(Pool(train, None, good, view.size), settings, seed, device, progress)
    return AgreementSegmenter(segmenter, agreement_summary(segmenter, held_out) if len(held_out) else None)


def agreement(segmenter: Segmenter | AgreementSegmenter, samples: ImageSet) -> np.ndarray:
    """float64 [N]: mean IoU over the types that occur in mask or prediction of each sample; nan where none does."""
    return _per_image(_count(segmenter, samples))


def agreement_summary(segmenter: Segmenter | AgreementSegmenter, samples: ImageSet) -> dict[str, Any]:
    """{"mean", "per_type": {type: pooled IoU}, "images"}, each {"value", "interval"} or None where nothing is known.

    The mean is of `agreement`; per type the IoU of all pixels together; intervals over the samples' groups.
    """
    counts = _count(segmenter, samples)
    each = _per_image(counts)
    return {
        "mean": mean_interval(each, samples.groups) if not np.isnan(each).all() else None,
        "per_type": {
            name: _pooled(counts[:, k], samples.groups) for k, name in enumerate(samples.class_names, start=1)
        },
        "images": len(samples),
    }


def _count(segmenter: Segmenter | AgreementSegmenter, samples: ImageSet) -> np.ndarray:
    """int64 [N, types + 1, 3] as in segmentation_scores."""
    predicted = segmenter.predict(samples.images)
    num_types = len(samples.class_names)
    return np.stack([count_pixels(p, t, num_types) for p, t in zip(predicted, samples.masks, strict=True)])


def _per_image(counts: np.ndarray) -> np.ndarray:
    union = (counts[..., PREDICTED] + counts[..., TRUE] - counts[..., BOTH])[:, 1:]
    occurs = union > 0
    total = (counts[:, 1:, BOTH] / np.maximum(union, 1)).sum(axis=1)
    return np.divide(total, occurs.sum(axis=1), out=np.full(len(counts), np.nan), where=occurs.any(axis=1))


def _pooled(counts: np.ndarray, groups: Sequence[Hashable]) -> dict[str, Any] | None:
    """IoU of counts [N, 3] pooled, with its interval; None where no mask holds the type."""
    value = float(iou(counts.sum(axis=0)))
    if np.isnan(value):
        return None
    if len(set(groups)) < 2:
        return {"value": value, "interval": None}
    weights = Resampling.draw(groups, 2_000, numpy_generator("agreement"), least=1).weights
    resampled = iou(weights @ counts)
    return {"value": value, "interval": list(interval(resampled[~np.isnan(resampled)]))}
