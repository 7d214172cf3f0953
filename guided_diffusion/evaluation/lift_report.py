"""The results of a lift: estimates with intervals, a verdict in a sentence, tables and pictures.

lift.json holds settings, provenance, class_names, counts (of images, samples of each run, seeds), notes, and
arms {name: as in summarize} and verdict (as in judge). An estimate is {"value", "interval": [low, high]}, in percent,
both None where nothing is known.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import blobfile as bf
import cv2
import numpy as np
from PIL import Image

from ..file_io import encode_png, write_atomic, write_json
from ..pictures import Row, draw_rows
from .arms import Arm
from .bootstrap import Bootstrap, estimate
from .image_sets import ImageSet
from .scores import Outcome, calibrate, scores
from .tables import number, table

METRICS = {
    "miou": "mIoU",
    "f1": "F1, defect pixels",
    "f1_mean": "F1, mean of types",
    "image_recall": "images found",
    "false_positive_rate": "false alarms",
}
SHOWN = 2  # validation images of each type in predictions.png
FALSE_ALARMS = 0.05  # share of the defect-free training images that may be taken for defective
MIN_PIXELS = 5  # predicted defect pixels from which an image is, where there are no defect-free training images
Estimates = dict[str, Any]


def summarize(
    arms: Sequence[Arm],
    outcomes: Mapping[str, Sequence[Sequence[Outcome]]],
    bootstrap: Bootstrap,
    class_names: Sequence[str],
) -> dict[str, Estimates]:
    """The estimates of each arm; outcomes: by arm, [generator runs][seeds]."""
    values = {arm.name: bootstrap.of_arm(outcomes[arm.name], arm.samples or "", scores) for arm in arms}
    even = np.ones((1, bootstrap.images.shape[1]))

    def less(own: dict[str, np.ndarray], other: str) -> Estimates:
        return {metric: estimate(own[metric] - values[other][metric]) for metric in METRICS}

    def of_arm(arm: Arm) -> Estimates:
        own, runs, first = values[arm.name], outcomes[arm.name], arm.kind == "real"
        gain = own["iou_types"] - values["real"]["iou_types"]
        against_pasted = arm.kind == "synthetic" and "copy_paste_x1" in values
        return {
            "kind": arm.kind,
            "ratio": arm.ratio,
            "extra": arm.extra,
            "samples": arm.samples,
            "runs": len(runs),
            "trainings": sum(map(len, runs)),
            **{metric: estimate(own[metric]) for metric in METRICS},
            "by_seed": np.mean([[100 * scores(one, even)["miou"][0] for one in run] for run in runs], axis=0).tolist(),
            "difference_to_real": None if first else less(own, "real"),
            "difference_to_copy_paste": less(own, "copy_paste_x1") if against_pasted else None,
            "per_type": {
                name: {
                    "iou": estimate(own["iou_types"][:, k]),
                    "f1": estimate(own["f1_types"][:, k]),
                    "difference_to_real": None if first else estimate(gain[:, k]),
                }
                for k, name in enumerate(class_names)
            },
        }

    return {arm.name: of_arm(arm) for arm in arms}


def judge(arms: Mapping[str, Estimates], name: str) -> dict[str, Any]:
    """The verdict on the arm `name`: whether its interval of the difference to `real` in mIoU leaves out 0."""
    arm = arms[name]
    difference, pasted = arm["difference_to_real"]["miou"], arm["difference_to_copy_paste"]
    low, high = difference["interval"]
    amount = f"at ratio {arm['ratio']:g}" if arm["ratio"] is not None else f"with {arm['extra']} samples"
    what = f"{difference['value']:+.1f} mIoU, 95% interval {low:.1f} to {high:.1f}, {amount}"
    if low > 0:
        shown, sentence = "lift", f"{what}."
    elif high < 0:
        shown, sentence = "loss", f"The samples do harm: {what}."
    else:
        shown, sentence = "none", f"A lift is not shown: {what}; the interval holds 0."
    if pasted:
        low, high = pasted["miou"]["interval"]
        sentence += f" Against copy-paste: {pasted['miou']['value']:+.1f}, {low:.1f} to {high:.1f}."
    return {
        "arm": name,
        "sentence": sentence,
        "shown": shown,
        "miou": arm["miou"],
        "real_miou": arms["real"]["miou"],
        "difference": difference,
        "copy_paste": pasted and pasted["miou"],
    }


def markdown(result: dict[str, Any]) -> str:
    """lift.md."""
    counts, arms, types = result["counts"], result["arms"], result["class_names"]
    sizes = "; ".join(f"{name}: {', '.join(map(str, runs))}" for name, runs in counts["samples"].items())
    found_from = f"{MIN_PIXELS} predicted defect pixels"
    if counts["train_good"]:
        found_from = f"as many predicted defect pixels as {FALSE_ALARMS:.0%} of the defect-free training images reach"
    lines = [
        "# What the samples add to a segmenter",
        "",
        f"**{result['verdict']['sentence']}** (arm {result['verdict']['arm']}, named before the run)",
        "",
        f"- {counts['train']} real training images and {counts['train_good']} defect-free ones; samples: {sizes}",
        f"- tested on {counts['val']} held-out images in {counts['val_groups']} groups and {counts['val_good']} "
        "defect-free ones",
        f"- DeepLabV3+ with {result['provenance']['encoder']}, {result['settings']['steps']} steps of "
        f"{result['settings']['batch_size']}, {counts['seeds']} seeds; percent, intervals at 95% over seeds, groups "
        "and generator runs",
        f"- an image is found, or a false alarm, from {found_from} on",
        *(f"- {note}" for note in result["notes"]),
        "",
    ]
    rows, by_type = [], []
    for name, arm in arms.items():
        differences = [arm["difference_to_real"], arm["difference_to_copy_paste"]]
        rows.append([name, arm["extra"], *(number(arm[metric], 1, 1, none="-") for metric in METRICS)])
        rows[-1] += [number(gain["miou"], 1, 1, "+", none="-") if gain else "" for gain in differences]
        by_type.append([name, *(number(arm["per_type"][type_]["iou"], 1, 1, none="-") for type_ in types)])
    head = ["arm", "extra", *METRICS.values(), "to real, mIoU", "to copy-paste, mIoU"]
    return "\n".join([*lines, table(head, rows), "IoU by type:\n", table(["arm", *types], by_type)])


def draw_arms(arms: Mapping[str, Estimates]) -> Image.Image:
    """mIoU of each arm with its interval and a dot for each seed; beside it the difference to `real`."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 1.2 + 0.42 * len(arms)), dpi=110, layout="constrained")
    canvas = FigureCanvasAgg(figure)
    left, right = figure.subplots(1, 2, sharey=True)
    for place, arm in enumerate(arms.values()):
        colour = {"real": "#222222", "synthetic": "#0072B2"}.get(arm["kind"], "#888888")
        left.plot(arm["by_seed"], [place + 0.22] * len(arm["by_seed"]), ".", color=colour, alpha=0.6, markersize=5)
        for axes, found in ((left, arm), (right, arm["difference_to_real"])):
            if found:
                axes.plot(found["miou"]["interval"], [place, place], color=colour, linewidth=2)
                axes.plot([found["miou"]["value"]], [place], "o", color=colour, markersize=6)
    left.set_yticks(range(len(arms)), list(arms))
    left.invert_yaxis()
    left.set_xlabel("mIoU over defect types, %; dots: seeds")
    right.set_xlabel("difference to real, mIoU points (95%)")
    for axes, at in ((left, arms["real"]["miou"]["value"]), (right, 0)):
        axes.axvline(at, color="#222222", linewidth=0.8, linestyle=":")
        axes.grid(axis="x", alpha=0.3)
        axes.spines[["top", "right"]].set_visible(False)
    canvas.draw()
    return Image.fromarray(np.asarray(canvas.buffer_rgba())[..., :3].copy())


def draw_predictions(shown: ImageSet, predicted: Mapping[str, Sequence[np.ndarray]]) -> Image.Image:
    """Truth, then what a training of each arm predicts: {label: index masks of the images shown}."""
    size = shown.masks[0].shape[::-1]

    def fit(arrays: Sequence[np.ndarray]) -> np.ndarray:
        return np.stack([cv2.resize(array, size, interpolation=cv2.INTER_NEAREST) for array in arrays])

    rows = [Row([label], fit(shown.images), fit(m)) for label, m in {"truth": shown.masks, **predicted}.items()]
    notes = ["one training of each arm, seed 0"]
    return draw_rows("Predictions on validation images", notes, shown.class_names, rows)


def images_to_show(val: ImageSet) -> ImageSet:
    """SHOWN validation images of each type."""
    having = [[i for i, mask in enumerate(val.masks) if (mask == k).any()] for k in range(1, len(val.class_names) + 1)]
    return val.take(list(dict.fromkeys(i for own in having for i in own[:SHOWN])))


def write_report(
    out: str,
    about: dict[str, Any],
    arms: Sequence[Arm],
    results: Mapping[tuple[str, int, int], dict[str, Any]],
    groups: Sequence[str],
    verdict_arm: str,
    shown: ImageSet,
    predicted: Mapping[str, Sequence[np.ndarray]],
) -> None:
    """Sum up all trainings, write the files of OUT and print the tables.

    about: the keys of lift.json that are not computed here. results: by arm's name, generator run and seed. groups: of
    the validation images, then of the defect-free ones. shown, predicted: as in draw_predictions.
    """

    def read(found: dict[str, Any]) -> Outcome:
        on_train = found["train_good_pixels"]
        least = calibrate(np.array(on_train), FALSE_ALARMS) if on_train else MIN_PIXELS
        return Outcome(*(np.array(found[key], np.int64) for key in ("pixels", "good_pixels")), least)

    seeds, outcomes = range(about["counts"]["seeds"]), {}
    for arm in arms:
        runs = about["counts"]["samples"].get(arm.samples, [0])
        outcomes[arm.name] = [[read(results[arm.name, run, seed]) for seed in seeds] for run in range(len(runs))]
    found = summarize(arms, outcomes, Bootstrap.draw(groups, len(seeds)), shown.class_names)
    result = {**about, "arms": found, "verdict": judge(found, verdict_arm)}
    pictures = {"lift.png": draw_arms(found), "predictions.png": draw_predictions(shown, predicted)}
    for file, picture in pictures.items():
        write_atomic(bf.join(out, file), encode_png(np.asarray(picture)))
    write_atomic(bf.join(out, "lift.md"), markdown(result).encode())
    write_json(bf.join(out, "lift.json"), result)  # last: it tells that all is there
    print(f"{markdown(result)}\nlook at {' and '.join(bf.join(out, file) for file in pictures)}")
