"""Samples of asked types: how many, whether masks and images show them, and how real the images of each type are.

Whether an image shows a type is asked of a classifier of the training images. It says yes from the score on that
MOST_FALSE of the held-out images without the type reach: so its recalls compare, and always saying yes gains nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np

from ..keyed_random import Key, numpy_generator
from .bootstrap import NUM_RESAMPLES, Resampling, share_interval, with_interval
from .control_bounds import difference, verdict
from .control_classifier import LinearClassifier
from .features import Extractor
from .image_sets import ImageSet
from .kid import kid, kid_resampled
from .seen import LEAST_IMAGES

RECALL_BOUND = -0.05  # samples against held-out images; of false positives as much above
MOST_FALSE = 0.1  # of the held-out images without the type
LEAST_RECALL = 0.3  # on held-out images, or the classifier cannot tell
LEAST_TRAINED = 2  # images of either class
CANNOT_TELL = "classifier cannot tell"
Features = dict[str, np.ndarray]


def shown(images: ImageSet) -> np.ndarray:
    """bool [N, types]: which types each mask holds."""
    indices = np.arange(1, len(images.class_names) + 1)
    return np.stack([np.isin(indices, mask) for mask in images.masks])


def asked_table(types: Sequence[frozenset[int]], num_types: int) -> np.ndarray:
    """bool [N, types] of the indices that each sample was asked for."""
    return np.array([[k in own for k in range(1, num_types + 1)] for own in types], bool)


def look_at(sets: dict[str, ImageSet], extractor: Extractor, progress: Callable[[range], Iterable[int]]) -> Features:
    """Features float32 [N, D] of each set; those called "train" also mirrored: [4 N, D]."""

    def images(name: str) -> np.ndarray:
        own = sets[name].images
        return np.concatenate([own, own[:, ::-1], own[:, :, ::-1], own[:, ::-1, ::-1]]) if name == "train" else own

    return {name: extractor(images(name), progress=progress) for name in sets}


def measure_counts(asked: np.ndarray, present: np.ndarray, names: Sequence[str]) -> dict[str, Any]:
    """How often each type was asked for and is in the masks, as bool [N, types] say.

    {"per_type": {name: {"asked", "present", "obeyed": share of those asked for that have it}}, "imbalance": {"asked",
    "present": the largest distance of a count from the mean one, over that}}.
    """
    per_type = {
        name: {
            "asked": int(asked[:, k].sum()),
            "present": int(present[:, k].sum()),
            "obeyed": _share(present[:, k], asked[:, k], range(len(asked))),
        }
        for k, name in enumerate(names)
    }
    counts = {side: np.array([own[side] for own in per_type.values()]) for side in ("asked", "present")}
    imbalance = {side: float(np.abs(n / n.mean() - 1).max()) if n.any() else None for side, n in counts.items()}
    return {"per_type": per_type, "imbalance": imbalance}


def measure_recall(
    train: ImageSet, real: ImageSet, samples: ImageSet, asked: np.ndarray, features: Features
) -> dict[str, dict[str, Any]]:
    """By type, what the classifier finds in held-out images and in samples asked for it, bool [N, types].

    {"counts", "recall": {"real", "samples", "difference", "verdict"}, "false_positives": the same}; or {"counts",
    "reason"}. A false positive is a yes to an image that neither shows the type nor was asked for it; of samples None
    where all are such.
    """
    tables = {"train": shown(train), "real": shown(real), "samples": asked}
    absent = {side: ~table for side, table in tables.items()}
    absent["samples"] &= ~shown(samples)
    groups = {"real": real.groups, "samples": samples.groups}

    def of_type(k: int) -> dict[str, Any]:
        having, lacking = ({side: t[:, k] for side, t in of.items()} for of in (tables, absent))
        counts = {side: {"with": int(having[side].sum()), "without": int(lacking[side].sum())} for side in tables}
        for side, title, least in (("train", "training", LEAST_TRAINED), ("real", "held-out", LEAST_IMAGES)):
            if min(counts[side].values()) < least:
                found = f"{counts[side]['with']} {title} images with it and {counts[side]['without']} without"
                return {"counts": counts, "reason": f"{found}; {least} of each are needed"}
        if not counts["samples"]["with"]:
            return {"counts": counts, "reason": "no sample was asked for it"}
        classifier = LinearClassifier.fit(features["train"], np.tile(having["train"], 4))
        scores = {side: classifier(features[side]) for side in groups}
        limit = np.quantile(scores["real"][lacking["real"]], 1 - MOST_FALSE)
        found = {side: scores[side] > limit for side in groups}
        recall = {side: _share(found[side], having[side], groups[side]) for side in groups}
        false = {side: _share(found[side], lacking[side], groups[side]) for side in groups}
        told = recall["real"]["value"] >= LEAST_RECALL
        for own, bounds in ((recall, {"least": RECALL_BOUND}), (false, {"most": -RECALL_BOUND})):
            own["difference"] = own["samples"] and difference(own["samples"], own["real"])
            own["verdict"] = own["difference"] and (verdict(own["difference"], **bounds) if told else CANNOT_TELL)
        return {"counts": counts, "recall": recall, "false_positives": false}

    return {name: of_type(k) for k, name in enumerate(samples.class_names)}


def measure_kid(
    real: ImageSet, asked: np.ndarray, reference: ImageSet | None, features: Features, key: Sequence[Key] = ()
) -> dict[str, dict[str, Any]]:
    """By type, KID of samples asked for it against real images of it, beside as many reference samples that show it.

    {"counts", "samples", "reference", "difference": of these two, below 0 where asking brought samples nearer to real
    ones}, reference and difference None where there are too few of those; {"counts", "reason"} where nothing is known.
    """
    tables = {"samples": asked, "real": shown(real)} | ({"reference": shown(reference)} if reference else {})

    def of_type(k: int) -> dict[str, Any]:
        at = {side: np.flatnonzero(table[:, k]) for side, table in tables.items()}
        both = len(at.get("reference", ())) >= LEAST_IMAGES
        sides = ["samples", "reference"] if both else ["samples"]
        equal = min(len(at[side]) for side in sides)
        at |= {side: at[side][:equal] for side in sides}
        counts = {side: len(places) for side, places in at.items()}
        if min(counts["samples"], counts["real"]) < LEAST_IMAGES:
            reason = f"{counts['samples']} samples against {counts['real']} held-out images; {LEAST_IMAGES} are needed"
            return {"counts": counts, "reason": reason}
        own = {side: features[side][places] for side, places in at.items()}
        groups = [real.groups[i] for i in at["real"]]
        result: dict[str, Any] = {"counts": counts, "reference": None, "difference": None}
        drawn = {}
        for side in sides:
            if len(set(groups)) >= 2:  # of the real images the same resamples for both
                of_real, of_own = (
                    Resampling.draw(of, NUM_RESAMPLES, numpy_generator("control", name, *key))
                    for name, of in (("real", groups), (side, range(equal)))
                )
                drawn[side] = kid_resampled(own[side], own["real"], of_own, of_real)
            result[side] = with_interval(kid(own[side], own["real"]), drawn.get(side))
        if both:
            value = result["samples"]["value"] - result["reference"]["value"]
            result["difference"] = with_interval(value, drawn["samples"] - drawn["reference"] if drawn else None)
        return result

    return {name: of_type(k) for k, name in enumerate(real.class_names)}


def _share(flags: np.ndarray, of: np.ndarray, groups: Sequence[Any]) -> dict[str, Any] | None:
    """The share of true flags [N] among those `of` [N]; None where there are none."""
    return share_interval(flags[of], [groups[i] for i in np.flatnonzero(of)]) if of.any() else None
