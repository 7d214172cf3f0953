"""The results of a lift: estimates with intervals, a verdict in a sentence, tables and pictures.

An estimate is {"value", "interval": [low, high]}, in percent, both None where nothing is known.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
from PIL import Image

from ..keyed_random import numpy_generator
from .arms import Arm
from .bootstrap import NUM_RESAMPLES, Resampling, with_interval
from .scores import Outcome, scores
from .tables import number, plot_intervals, table

METRICS = {
    "miou": "mIoU",
    "f1": "F1, defect pixels",
    "image_recall": "images found",
    "false_positive_rate": "false alarms",
}
FALSE_ALARMS = 0.05  # share of the defect-free training images that may be taken for defective
MIN_PIXELS = 5  # predicted defect pixels from which an image is, where there are no defect-free training images


def resampled_scores(
    outcomes: Sequence[Sequence[Outcome]], groups: Sequence[str], name: str = "", num_resamples: int = NUM_RESAMPLES
) -> dict[str, np.ndarray]:
    """Each of `scores`, in percent, [1 + R, ...]: of an arm as it is, and of resamples of images, seeds and runs.

    outcomes: [runs][seeds]. groups: of the validation images, then of the defect-free ones. name: of the set whose runs
    these are. All arms get the same draws of images and seeds, so that their differences are paired.
    """
    images = Resampling.draw(groups, "lift", "images", least=1, num_resamples=num_resamples).weights
    runs = _shares(len(outcomes), num_resamples, "runs", name)
    seeds = _shares(len(outcomes[0]), num_resamples, "seeds")
    trainings = [
        (scores(one, images), runs[:, r] * seeds[:, s]) for r, of in enumerate(outcomes) for s, one in enumerate(of)
    ]
    return {key: sum(np.where(w > 0, one[key].T, 0) * 100 * w for one, w in trainings).T for key in trainings[0][0]}


def _shares(size: int, num_resamples: int, *key: str) -> np.ndarray:
    """Shares float64 [num_resamples + 1, size] of units in resamples of them; the first row is even.

    A resample has one unit less than there are, for an unbiased variance of means (Hesterberg 2004).
    """
    drawn, even = max(size - 1, 1), np.full(size, 1 / size)
    return np.vstack([even, numpy_generator("lift", *key).multinomial(drawn, even, num_resamples) / drawn])


def summarize(
    arms: Sequence[Arm],
    outcomes: Mapping[str, Sequence[Sequence[Outcome]]],
    groups: Sequence[str],
    class_names: Sequence[str],
) -> dict[str, dict[str, Any]]:
    """The estimates of each arm. outcomes, by arm, and groups: as in resampled_scores."""
    values = {arm.name: resampled_scores(outcomes[arm.name], groups, arm.samples or "") for arm in arms}
    real, pasted, found = values["real"], values.get("copy_paste_x1"), {}
    for arm in arms:
        own = values[arm.name]
        others = {"real": None if arm.kind == "real" else real, "copy_paste": pasted if arm.samples else None}
        found[arm.name] = {
            **asdict(arm),
            "runs": len(outcomes[arm.name]),
            **{metric: with_interval(own[metric]) for metric in METRICS},
            **{
                f"difference_to_{name}": other and {key: with_interval(own[key] - other[key]) for key in METRICS}
                for name, other in others.items()
            },
            "per_type": {name: {"iou": with_interval(own["iou_types"][:, k])} for k, name in enumerate(class_names)},
        }
    return found


def judge(arms: Mapping[str, dict[str, Any]], name: str) -> dict[str, Any]:
    """The verdict on the arm `name`: whether its interval of the difference to `real` in mIoU leaves out 0."""
    arm = arms[name]
    difference, pasted = (arm[key] and arm[key]["miou"] for key in ("difference_to_real", "difference_to_copy_paste"))
    low, high = difference["interval"]
    sentence = f"{difference['value']:+.1f} mIoU, 95% interval {low:.1f} to {high:.1f}, at ratio {arm['ratio']:g}"
    if high < 0:
        sentence = f"The samples do harm: {sentence}"
    elif low <= 0:
        sentence = f"A lift is not shown: {sentence}; the interval holds 0"
    if pasted:
        sentence += ". Against copy-paste: {:+.1f}, {:.1f} to {:.1f}".format(pasted["value"], *pasted["interval"])
    return {"arm": name, "sentence": f"{sentence}.", "difference": difference, "copy_paste": pasted}


def markdown(result: dict[str, Any]) -> str:
    """lift.md."""
    counts, arms, types = result["counts"], result["arms"], result["class_names"]
    sizes = "; ".join(f"{name}: {', '.join(map(str, runs))}" for name, runs in counts["samples"].items())
    lines = [
        "# What the samples add to a segmenter",
        "",
        f"**{result['verdict']['sentence']}** (arm {result['verdict']['arm']}, named before the run)",
        "",
        f"- {counts['train']} real training images and {counts['train_good']} defect-free ones; samples: {sizes}",
        f"- tested on {counts['val']} images of {counts['val_groups']} groups, {counts['val_good']} defect-free ones",
        f"- DeepLabV3+ with {result['provenance']['encoder']}, {result['settings']['steps']} steps, {counts['seeds']} "
        "seeds; percent, intervals at 95% over seeds, groups and generator runs",
        f"- an image is found, or a false alarm, from as many predicted defect pixels on as {FALSE_ALARMS:.0%} of the "
        f"defect-free training images reach ({MIN_PIXELS} without such images)",
        *(f"- {note}" for note in result["notes"]),
        "",
    ]
    rows, by_type = [], []
    for name, arm in arms.items():
        differences = [arm["difference_to_real"], arm["difference_to_copy_paste"]]
        rows.append([name, arm["extra"], *(number(arm[metric], 1, 1) for metric in METRICS)])
        rows[-1] += [number(gain["miou"], 1, 1, "+") if gain else "" for gain in differences]
        by_type.append([name, *(number(arm["per_type"][type_]["iou"], 1, 1) for type_ in types)])
    head = ["arm", "extra", *METRICS.values(), "to real, mIoU", "to copy-paste, mIoU"]
    return "\n".join([*lines, table(head, rows), "IoU by type:\n", table(["arm", *types], by_type)])


def draw_arms(arms: Mapping[str, dict[str, Any]]) -> Image.Image:
    """mIoU of each arm, and its difference to `real`."""
    gains = [arm["difference_to_real"] and arm["difference_to_real"]["miou"] for arm in arms.values()]
    values, lines = [arm["miou"] for arm in arms.values()], {":": arms["real"]["miou"]["value"]}
    return plot_intervals(list(arms), [("mIoU, %", 1, values, lines), ("difference to real", 1, gains, {":": 0})])
