"""Every sample by itself: what is in its mask, the training image and the sample that it is most like, its faults.

score_samples makes a row for each, which evaluate.py quality writes as samples.jsonl and curate.py goes by:

    {"name": "000012", "index": 12 or null, "image": "images/000012.png",
     "index_mask": "masks_converted_dir/000012.png",
     "types": {"crack": {"pixels": 14, "share": 0.0034, "regions": 1, "largest": 14}},
     "empty": false, "speck": false, "clipped": 0.0,
     "nearest_train": {"name": "crack/exp1_num_3", "distance": 0.4, "copy": false, "flip": "none", "top": 3, "left": 10,
                       "feature_distance": 0.2, "feature_copy": false},
     "nearest_sample": {"name": "000040", "distance": 0.2, "duplicate": false} or null,
     "agreement": 0.61 or null}

share is of the image, largest the pixels of the largest region. speck: as in labels.py. clipped: share of pixels at 0,
or at 255, in one channel, beyond the largest of any real image (the largest such excess). Distances: memorization.py;
nearest_train is nearest by pixels, feature_distance the least to any training image. Copy and duplicate are those
under thresholds (copy_threshold.py) from real images: their distances to training images, and to one another, always
of other groups. copy goes by pixels alone; memorization.py says why.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
import torch

from ..data.image_datasets import DefectDataset
from ..keyed_random import numpy_generator
from .bootstrap import share_interval
from .copies import TrainFeatures, distances_among, place
from .copy_threshold import Threshold, calibrate, find_planted
from .features import Extractor
from .image_sets import ImageSet
from .labels import is_speck_mask, regions, speck_thresholds
from .patches import reused_patches
from .seen import sources

TRAIN_WINDOWS = 4  # of each training image, where samples show windows and there are no held-out images
MOST_PAIRED = 300  # real images compared with one another
MOST_PLANTED = 25  # training images of which copies are planted
LEAST_FOUND = 0.9  # of planted copies, or there is a note


@dataclass(frozen=True)
class Limits:
    """What samples are held against, measured once on real images."""

    train: ImageSet  # whole
    real: ImageSet  # what thresholds are calibrated on, as samples show it
    unrelated: np.ndarray  # bool [real, train], which of them are not of one group
    features: TrainFeatures
    copy: Threshold
    feature_copy: Threshold
    duplicate: Threshold
    speck: np.ndarray  # as of labels.speck_thresholds
    clipped: np.ndarray  # float64 [2, 3], the largest share of pixels at 0 and at 255, by channel

    @classmethod
    def measure(cls, train: ImageSet, held_out: ImageSet | None, size: tuple[int, int], extractor: Extractor) -> Limits:
        """train: whole images. held_out: of `size`, as samples show them; None, or all of training groups: thresholds
        are from the training images, each against those of other groups.
        """
        own = _as_seen(train, size)
        real, source = own, "training images, each against those of other groups"
        if held_out is not None:
            known = _grouped(train) and _grouped(held_out)
            kept = [i for i, group in enumerate(held_out.groups) if not (known and group in set(train.groups))]
            if kept:
                real, source = held_out.take(kept), "held-out images"
        unrelated = np.ones((len(real), len(train)), bool)
        if real is own:
            unrelated = _unrelated(own, train)
        features = TrainFeatures.of(train.images, size, extractor)
        images = own.images[_some(len(own), MOST_PLANTED)]

        def threshold(distances: Callable[[np.ndarray], np.ndarray]) -> Threshold:
            nearest = np.where(unrelated, distances(real.images), np.inf).min(axis=1)
            found = calibrate(nearest, real.groups, real.names, source)
            return replace(found, planted_found=find_planted(images, distances, found.value))

        some = real.take(_some(len(real), MOST_PAIRED))
        apart = _unrelated(some, some)
        among = np.where(apart, distances_among(some.images, extractor.device), np.inf).min(axis=1)
        return cls(
            train,
            real,
            unrelated,
            features,
            threshold(lambda images: place(images, train.images, device=extractor.device).distance),
            threshold(lambda images: features.distances(extractor(images))),
            calibrate(among, some.groups, some.names, source),
            speck_thresholds(train.masks, len(train.class_names)),
            np.concatenate([_at_limits(own.images), _at_limits(real.images)]).max(axis=0),
        )

    def as_json(self) -> dict[str, Any]:
        names = self.train.class_names
        return {
            "copy": asdict(self.copy),
            "feature_copy": asdict(self.feature_copy),
            "duplicate": asdict(self.duplicate),
            "speck": {name: float(self.speck[k]) for k, name in enumerate(names, start=1)},
            "clipped": {"at_0": self.clipped[0].tolist(), "at_255": self.clipped[1].tolist()},
        }


@dataclass(frozen=True)
class Scores:
    """What score_samples finds.

    rows: one of each sample, see above. thresholds: Limits.as_json. memorization: {"value", "interval"} of the shares
    of copies and duplicates, and patches.reused_patches. duplicates: all pairs (i < j, distance) under the threshold.
    """

    rows: list[dict[str, Any]]
    thresholds: dict[str, Any]
    memorization: dict[str, Any]
    duplicates: list[tuple[int, int, float]]


def score_samples(
    samples: ImageSet,
    train: ImageSet,
    held_out: ImageSet | None,
    extractor: Extractor,
    agreement: np.ndarray | None = None,
    *,
    limits: Limits | None = None,
    patches: bool = False,
) -> Scores:
    """Score samples against the whole images they were trained from.

    held_out: real images as samples show them. agreement: float [N], nan where there is none. limits: of the same train
    and held_out, where they are at hand. patches: measure their reuse as well.
    """
    limits = limits or Limits.measure(train, held_out, samples.images.shape[1:3], extractor)
    placed = place(samples.images, train.images, device=extractor.device).nearest()
    by_features = limits.features.distances(extractor(samples.images)).min(axis=1)
    among = distances_among(samples.images, extractor.device)
    clipped = (_at_limits(samples.images) - limits.clipped).clip(min=0).max(axis=(1, 2))
    rows = []
    for i, (name, mask, match) in enumerate(zip(samples.names, samples.masks, placed, strict=True)):
        other = int(among[i].argmin())
        rows.append(
            {
                "name": name,
                "index": int(name) if name.isdecimal() else None,
                "image": f"images/{name}.png",
                "index_mask": f"masks_converted_dir/{name}.png",
                "types": _types(mask, samples.class_names),
                "empty": not mask.any(),
                "speck": is_speck_mask(mask, limits.speck),
                "clipped": float(clipped[i]),
                "nearest_train": {
                    "name": train.names[match.train],
                    "distance": match.distance,
                    "copy": match.distance < limits.copy.value,
                    "flip": match.flip,
                    "top": match.top,
                    "left": match.left,
                    "feature_distance": float(by_features[i]),
                    "feature_copy": bool(by_features[i] < limits.feature_copy.value),
                },
                "nearest_sample": {
                    "name": samples.names[other],
                    "distance": float(among[i, other]),
                    "duplicate": bool(among[i, other] < limits.duplicate.value),
                }
                if len(samples) > 1
                else None,
                "agreement": None if agreement is None or math.isnan(agreement[i]) else float(agreement[i]),
            }
        )
    memorization = _summary(rows)
    if patches:
        other = np.flatnonzero(~np.isin(limits.real.names, limits.copy.far_out))  # those that show no trained object
        memorization["reused_patches"] = reused_patches(
            samples.images, limits.real.images[other], train.images, limits.unrelated[other], extractor.device
        )
    pairs = zip(*np.nonzero(np.triu(among < limits.duplicate.value)), strict=True)
    return Scores(rows, limits.as_json(), memorization, [(int(i), int(j), float(among[i, j])) for i, j in pairs])


def notes(thresholds: dict[str, Any]) -> list[str]:
    """What a person should know of the thresholds of some scores: images that stand out, and copies that they miss."""
    lines = []
    copy = thresholds["copy"]
    if copy["far_out"]:
        lines.append(
            f"{len(copy['far_out'])} of {copy['images']} {copy['calibrated_on']} are like training images and were "
            f"left out, such as {copy['far_out'][0]}; where they show the same object, remove them from --real."
        )
    missed = [kind for kind, share in copy["planted_found"].items() if share < LEAST_FOUND]
    if missed:
        lines.append(
            f"Near-copies are missed: the threshold does not find all planted copies ({', '.join(missed)}). It takes "
            "more held-out images of other objects to tell copies from likeness."
        )
    return lines


def _summary(rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    copies, by_features = (np.array([row["nearest_train"][key] for row in rows]) for key in ("copy", "feature_copy"))
    duplicates = [bool(row["nearest_sample"] and row["nearest_sample"]["duplicate"]) for row in rows]
    shares = {
        "copies": copies,
        "copies_by_features": by_features,
        "copies_by_either": copies | by_features,
        "duplicates": duplicates,
    }
    return {name: share_interval(flags, range(len(rows))) for name, flags in shares.items()}


def _types(mask: np.ndarray, class_names: Sequence[str]) -> dict[str, dict[str, float]]:
    own = regions(mask)
    types = {}
    for k, name in enumerate(class_names, start=1):
        pixels = [region.pixels for region in own if region.type == k]
        if pixels:
            share = sum(pixels) / mask.size
            types[name] = {"pixels": sum(pixels), "share": share, "regions": len(pixels), "largest": max(pixels)}
    return types


def _as_seen(train: ImageSet, size: tuple[int, int]) -> ImageSet:
    """Whole training images as samples of `size` show them: themselves, or windows around defects."""
    if all(mask.shape == tuple(size) for mask in train.masks):
        return replace(train, images=np.stack(train.images), masks=np.stack(train.masks))
    which = np.repeat(np.arange(len(train)), TRAIN_WINDOWS)
    data = DefectDataset(
        [torch.from_numpy(np.array(image)).permute(2, 0, 1) for image in train.images],
        [torch.from_numpy(np.array(mask)) for mask in train.masks],
        train.names,
        tuple(size),
        "random_crop",
        crop_defect=1.0,
    )
    images, masks = data.batch(which, numpy_generator("training windows"))
    return ImageSet(
        images.permute(0, 2, 3, 1).contiguous().numpy(),
        masks.numpy(),
        [f"{train.names[i]}#{k % TRAIN_WINDOWS}" for k, i in enumerate(which)],
        [train.groups[i] for i in which],
        train.class_names,
        train.folder,
    )


def _unrelated(images: ImageSet, others: ImageSet) -> np.ndarray:
    """Which of them are of different groups, bool [N, M]."""
    return np.array(images.groups)[:, None] != np.array(others.groups)


def _grouped(images: ImageSet) -> bool:
    """Whether groups are known, rather than each image being its own: two sets then may be compared by them."""
    return images.groups != sources(images)


def _some(count: int, most: int) -> np.ndarray:
    """Up to `most` of the numbers 0..count-1, drawn the same way always, ascending."""
    return np.sort(numpy_generator("some", count).permutation(count)[:most])


def _at_limits(images: np.ndarray) -> np.ndarray:
    """Share of pixels at 0 and at 255 in each channel, float64 [N, 2, 3], of images uint8 [N, H, W, 3]."""
    images = np.asarray(images)
    return np.stack([(images == value).mean(axis=(1, 2)) for value in (0, 255)], axis=1)
