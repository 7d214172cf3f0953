"""Every sample by itself: what is in its mask, the training image and the sample that it is most like, its faults.

`score_samples` makes the rows that quality writes as samples.jsonl and curate goes by. Distances, copies and
duplicates: as in copies.py, against the distances of real images to those of other groups.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np

from ..keyed_random import numpy_generator
from .bootstrap import share_interval
from .copies import PLANTED, Threshold, calibrate, distances_among, nearest, place, plant
from .image_sets import ImageSet, sources
from .labels import is_speck_mask, regions, speck_thresholds

MOST_PAIRED = 300  # real images compared with one another
MOST_PLANTED = 25  # training images of which copies are planted
LEAST_FOUND = 0.9  # of planted copies, or there is a note


@dataclass(frozen=True)
class Limits:
    """What samples are held against, measured once on real images."""

    copy: Threshold
    duplicate: Threshold
    speck: np.ndarray  # as of labels.speck_thresholds
    clipped: np.ndarray  # float64 [2, 3], the largest share of pixels at 0 and at 255, by channel

    @classmethod
    def measure(cls, train: ImageSet, seen: ImageSet, held_out: ImageSet | None) -> Limits:
        """train: whole images. seen: these as samples show them, of one size; held_out: others, likewise.

        Without held_out, or where all of it is of training groups, thresholds are from the training images, each
        against those of other groups.
        """
        real, source = seen, "training images, each against those of other groups"
        if held_out is not None:
            # Where groups are known on both sides, rather than each image being its own, they tell trained objects.
            known = set(train.groups) if all(part.groups != sources(part) for part in (train, held_out)) else ()
            kept = [i for i, group in enumerate(held_out.groups) if group not in known]
            if kept:
                real, source = held_out.take(kept), "held-out images"
        distances = place(real.images, train.images)[0]
        if real is seen:
            distances = np.where(_unrelated(seen, train), distances, np.inf)
        copy = calibrate(distances.min(axis=1), real.groups, real.names, source)
        images = seen.images[_some(len(seen), MOST_PLANTED)]
        planted = {kind: place(plant(images, kind), train.images)[0].min(axis=1) for kind in PLANTED}
        found = {kind: float((distances < copy.value).mean()) for kind, distances in planted.items()}
        some = real.take(_some(len(real), MOST_PAIRED))
        among = np.where(_unrelated(some, some), distances_among(some.images), np.inf).min(axis=1)
        return cls(
            replace(copy, planted_found=found),
            calibrate(among, some.groups, some.names, source),
            speck_thresholds(train.masks, len(train.class_names)),
            np.concatenate([_at_limits(seen.images), _at_limits(real.images)]).max(axis=0),
        )

    def as_json(self, class_names: Sequence[str]) -> dict[str, Any]:
        return {
            "copy": asdict(self.copy),
            "duplicate": asdict(self.duplicate),
            "speck": {name: float(self.speck[k]) for k, name in enumerate(class_names, start=1)},
            "clipped": {"at_0": self.clipped[0].tolist(), "at_255": self.clipped[1].tolist()},
        }


@dataclass(frozen=True)
class Scores:
    """What score_samples finds. thresholds: Limits.as_json. duplicates: all pairs (i < j, distance) under theirs.

    rows: one of each sample. memorization: {"copies", "duplicates"}, shares with their intervals.
    """

    rows: list[dict[str, Any]]
    thresholds: dict[str, Any]
    memorization: dict[str, Any]
    duplicates: list[tuple[int, int, float]]


def score_samples(samples: ImageSet, train: ImageSet, limits: Limits, agreement: np.ndarray | None = None) -> Scores:
    """Score samples against the whole images they were trained from, whose limits these are.

    agreement: float [N], nan where there is none. In a row, "share" is of the image, "largest" the pixels of the
    largest region; "clipped" is the share of pixels at 0 or 255 in a channel, beyond the largest of real images.
    """
    placed = nearest(samples.images, train.images)
    among = distances_among(samples.images)
    clipped = (_at_limits(samples.images) - limits.clipped).clip(min=0).max(axis=(1, 2))
    rows = []
    for i, (name, mask, match) in enumerate(zip(samples.names, samples.masks, placed, strict=True)):
        near = {"name": train.names[match.train], "distance": match.distance}
        near |= {"copy": match.distance < limits.copy.value, "flip": match.flip, "top": match.top, "left": match.left}
        own, other, alike = regions(mask), int(among[i].argmin()), None
        sizes = {
            name: pixels
            for k, name in enumerate(samples.class_names, start=1)
            if (pixels := [region.pixels for region in own if region.type == k])
        }
        if len(samples) > 1:
            alike = {"name": samples.names[other], "distance": float(among[i, other])}
            alike["duplicate"] = alike["distance"] < limits.duplicate.value
        rows.append(
            {
                "name": name,
                "index": int(name) if name.isdecimal() else None,
                "image": f"images/{name}.png",
                "index_mask": f"masks_converted_dir/{name}.png",
                "types": {
                    name: {"pixels": sum(p), "share": sum(p) / mask.size, "regions": len(p), "largest": max(p)}
                    for name, p in sizes.items()
                },
                "empty": not mask.any(),
                "speck": is_speck_mask(mask, limits.speck),
                "clipped": float(clipped[i]),
                "nearest_train": near,
                "nearest_sample": alike,
                "agreement": None if agreement is None or math.isnan(agreement[i]) else float(agreement[i]),
            }
        )
    flags = {
        "copies": [row["nearest_train"]["copy"] for row in rows],
        "duplicates": [bool(row["nearest_sample"] and row["nearest_sample"]["duplicate"]) for row in rows],
    }
    memorization = {name: share_interval(own, range(len(rows))) for name, own in flags.items()}
    pairs = zip(*np.nonzero(np.triu(among < limits.duplicate.value)), strict=True)
    duplicates = [(int(i), int(j), float(among[i, j])) for i, j in pairs]
    return Scores(rows, limits.as_json(samples.class_names), memorization, duplicates)


def notes(thresholds: dict[str, Any]) -> list[str]:
    """What a person should know of the thresholds of some scores: images that stand out, and copies that they miss."""
    lines, copy = [], thresholds["copy"]
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


def _unrelated(images: ImageSet, others: ImageSet) -> np.ndarray:
    """Which of them are of different groups, bool [N, M]."""
    return np.array(images.groups)[:, None] != np.array(others.groups)


def _some(count: int, most: int) -> np.ndarray:
    """Up to `most` of the numbers 0..count-1, drawn the same way always, ascending."""
    return np.sort(numpy_generator("some", count).permutation(count)[:most])


def _at_limits(images: np.ndarray) -> np.ndarray:
    """Share of pixels at 0 and at 255 in each channel, float64 [N, 2, 3], of images uint8 [N, H, W, 3]."""
    images = np.asarray(images)
    return np.stack([(images == value).mean(axis=(1, 2)) for value in (0, 255)], axis=1)
