"""Samples with given masks: whether the images show what the masks say, and how much images of one mask differ."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from ..keyed_random import Key
from .bootstrap import mean_interval, mean_of_pairs
from .control_bounds import difference, ratio, verdict
from .features import Extractor
from .image_sets import ImageSet
from .perceptual import distances, diversity, embed, within_memory

AGREEMENT_BOUND = -0.05  # of IoU, samples against held-out images
LEAST_AGREEMENT = 0.1  # IoU on held-out images, or the segmenter cannot tell
CANNOT_TELL = "segmenter cannot tell"
VARIETY_BOUND = 0.5  # of the distance of real images of the type
MOST_OF_A_MASK = 16  # images, the first ones


def compare_agreement(summary: dict[str, Any]) -> dict[str, Any]:
    """The "agreement" of quality.json, rearranged: {"mean", "per_type": {type: ..}}, each {"samples", "real",
    "difference", "verdict"}; None where one side has no such masks.
    """
    real = summary["reference"]

    def pair(samples: dict[str, Any] | None, real: dict[str, Any] | None) -> dict[str, Any]:
        both = {"samples": samples, "real": real, "difference": None, "verdict": None}
        if samples and real:
            both["difference"] = difference(samples, real)
            told = real["value"] >= LEAST_AGREEMENT
            both["verdict"] = verdict(both["difference"], least=AGREEMENT_BOUND) if told else CANNOT_TELL
        return both

    return {
        "mean": pair(summary["mean"], real and real["mean"]),
        "per_type": {name: pair(own, real and real["per_type"][name]) for name, own in summary["per_type"].items()},
        "images": {"samples": summary["images"], "real": real["images"] if real else 0},
    }


def measure_variety(
    samples: ImageSet, files: Sequence[str | None], real: ImageSet, extractor: Extractor, key: Sequence[Key] = ()
) -> dict[str, dict[str, Any]]:
    """By type, the mean perceptual distance of samples with one mask, beside that of real images of the type.

    files: the given mask of each sample, or None. {"counts": {"masks", "samples", "real", "real_groups"}, "samples",
    "real", "ratio", "verdict"}; intervals are over masks and over real groups. {"counts", "reason"} where nothing can
    be known.
    """
    by_file: dict[str, list[int]] = {}
    for i, file in enumerate(files):
        if file:
            by_file.setdefault(file, []).append(i)
    shared = {file: at[:MOST_OF_A_MASK] for file, at in by_file.items() if len(at) > 1}
    apart = {}
    for file, at in shared.items():
        embedded = embed(extractor, samples.images[at])
        apart[file] = mean_of_pairs(distances(embedded, embedded))

    def of_type(index: int) -> dict[str, Any]:
        own = [file for file, at in shared.items() if (samples.masks[at[0]] == index).any()]
        others = real.having(index)
        counts = {
            "masks": len(own),
            "samples": sum(len(shared[file]) for file in own),
            "real": len(others),
            "real_groups": len(set(others.groups)),
        }
        if not own or len(others) < 2:
            what = f"{len(own)} masks with it have several samples, {len(others)} held-out images show it"
            return {"counts": counts, "reason": what}
        some = within_memory(extractor, others.images, *key)
        truth = diversity(embed(extractor, others.images[some]), [others.groups[i] for i in some], key)
        ours = mean_interval(np.array([apart[file] for file in own]), own)
        compared = ratio(ours, truth)
        verdict_ = verdict(compared, least=VARIETY_BOUND)
        return {"counts": counts, "samples": ours, "real": truth, "ratio": compared, "verdict": verdict_}

    return {name: of_type(k) for k, name in enumerate(samples.class_names, start=1)}
