"""The results of a lift: estimates with intervals, a verdict in a sentence, tables and pictures.

lift.json; ESTIMATE is {"value", "interval": [low, high]}, in percent, or both None where nothing is known:

    settings, provenance, class_names
    counts      images: train, train_good, val, val_groups, val_good; samples {set: [of each run]}; seeds
    arms        {name: {kind, ratio, extra, samples, runs, trainings, miou, f1, f1_mean, image_recall,
                false_positive_rate, by_seed (mIoU, mean over generator runs),
                difference_to_real {miou, f1, ...}, difference_to_copy_paste {arm, miou, f1, ...} (None: not there),
                per_type {type: {iou, f1, difference_to_real (of IoU)}}}}
    verdict     {arm, sentence, shown ("lift", "loss" or "none"), miou, real_miou, difference, copy_paste}
    notes, pictures (files)
"""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping, Sequence
from typing import Any

import blobfile as bf
import numpy as np
from PIL import Image

from ..file_io import encode_png, write_atomic, write_json
from .arms import Arm
from .image_sets import ImageSet
from .row_sheet import Row, draw_row_sheet
from .scores import Bootstrap, Outcome, calibrate, estimate, scores

METRICS = {
    "miou": "mIoU",
    "f1": "F1, defect pixels",
    "f1_mean": "F1, mean of types",
    "image_recall": "images found",
    "false_positive_rate": "false alarms",
}
PER_TYPE = 2  # validation images of each type in predictions.png
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
    values = {arm.name: bootstrap.of_arm(outcomes[arm.name], arm.samples or "") for arm in arms}
    result = {}
    for arm in arms:
        own, real = values[arm.name], values["real"]
        pasted = _matching(arm, arms)
        result[arm.name] = {
            "kind": arm.kind,
            "ratio": arm.ratio,
            "extra": arm.extra,
            "samples": arm.samples,
            "runs": len(outcomes[arm.name]),
            "trainings": sum(map(len, outcomes[arm.name])),
            **{metric: estimate(own[metric]) for metric in METRICS},
            "by_seed": _by_seed(outcomes[arm.name]),
            "difference_to_real": None if arm.kind == "real" else _difference(own, real),
            "difference_to_copy_paste": pasted and {"arm": pasted.name, **_difference(own, values[pasted.name])},
            "per_type": {
                name: {
                    "iou": estimate(own["iou_types"][:, k]),
                    "f1": estimate(own["f1_types"][:, k]),
                    "difference_to_real": None
                    if arm.kind == "real"
                    else estimate(own["iou_types"][:, k] - real["iou_types"][:, k]),
                }
                for k, name in enumerate(class_names)
            },
        }
    return result


def judge(arms: Mapping[str, Estimates], name: str) -> dict[str, Any]:
    """The verdict on the arm `name`: whether its interval of the difference to `real` in mIoU leaves out 0."""
    arm, real = arms[name], arms["real"]
    difference = arm["difference_to_real"]["miou"]
    low, high = difference["interval"]
    shown = "lift" if low > 0 else "loss" if high < 0 else "none"
    amount = f"at ratio {arm['ratio']:g}" if arm["ratio"] is not None else f"with {arm['extra']} samples"
    what = f"{difference['value']:+.1f} mIoU, 95% interval {low:.1f} to {high:.1f}, {amount}"
    sentence = {
        "lift": f"{what}.",
        "loss": f"The samples do harm: {what}.",
        "none": f"A lift is not shown: {what}; the interval holds 0.",
    }[shown]
    pasted = arm["difference_to_copy_paste"]
    if pasted:
        low, high = pasted["miou"]["interval"]
        sentence += f" Against copy-paste: {pasted['miou']['value']:+.1f}, {low:.1f} to {high:.1f}."
    return {
        "arm": name,
        "sentence": sentence,
        "shown": shown,
        "miou": arm["miou"],
        "real_miou": real["miou"],
        "difference": difference,
        "copy_paste": pasted and pasted["miou"],
    }


def markdown(result: dict[str, Any]) -> str:
    """lift.md."""
    counts, arms = result["counts"], result["arms"]
    sizes = "; ".join(f"{name}: {', '.join(map(str, runs))}" for name, runs in counts["samples"].items())
    segmenter = result["settings"]["segmenter"]
    found_from = f"{result['settings']['min_pixels'] or MIN_PIXELS} predicted defect pixels"
    if result["settings"]["min_pixels"] is None and counts["train_good"]:
        found_from = f"so many predicted defect pixels as {FALSE_ALARMS:.0%} of the defect-free training images reach"
    lines = [
        "# What the samples are worth to a segmenter",
        "",
        f"**{result['verdict']['sentence']}** (arm {result['verdict']['arm']}, named before the run)",
        "",
        f"- {counts['train']} real training images and {counts['train_good']} defect-free ones; samples: {sizes}",
        f"- tested on {counts['val']} held-out images in {counts['val_groups']} groups and {counts['val_good']} "
        "defect-free ones",
        f"- DeepLabV3+ with {segmenter['encoder']}, {segmenter['steps']} steps of {segmenter['batch_size']}, "
        f"{counts['seeds']} seeds; percent, intervals at 95% over seeds, groups and generator runs",
        f"- an image is found, or a false alarm, from {found_from} on",
        *(f"- {note}" for note in result["notes"]),
        "",
        "| arm | extra | " + " | ".join(METRICS.values()) + " | to real, mIoU | to copy-paste, mIoU |",
        "|---" * (len(METRICS) + 4) + "|",
    ]
    for name, arm in arms.items():
        cells = [cell(arm[metric]) for metric in METRICS]
        differences = [arm["difference_to_real"], arm["difference_to_copy_paste"]]
        cells += [cell(difference["miou"], signed=True) if difference else "" for difference in differences]
        lines.append(f"| {name} | {arm['extra']} | " + " | ".join(cells) + " |")
    types = result["class_names"]
    lines += ["", "IoU by type:", "", "| arm | " + " | ".join(types) + " |", "|---" * (len(types) + 1) + "|"]
    for name, arm in arms.items():
        lines.append(f"| {name} | " + " | ".join(cell(arm["per_type"][type_]["iou"]) for type_ in types) + " |")
    return "\n".join(lines) + "\n"


def cell(found: Estimates, signed: bool = False) -> str:
    """An estimate as a table shows it."""
    if found["value"] is None:
        return "-"
    low, high = found["interval"]
    return f"{found['value']:{'+' if signed else ''}.1f} ({low:.1f} to {high:.1f})"


def draw_arms(arms: Mapping[str, Estimates]) -> Image.Image:
    """mIoU of each arm with its interval and a dot for each seed; beside it the difference to `real`."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    colours = {"real": "#222222", "synthetic": "#0072B2"}
    figure = Figure(figsize=(11, 1.2 + 0.42 * len(arms)), dpi=110, layout="constrained")
    canvas = FigureCanvasAgg(figure)
    left, right = figure.subplots(1, 2, sharey=True)
    for place, arm in enumerate(arms.values()):
        colour = colours.get(arm["kind"], "#888888")
        _bar(left, arm["miou"], place, colour)
        left.plot(arm["by_seed"], [place + 0.22] * len(arm["by_seed"]), ".", color=colour, alpha=0.6, markersize=5)
        if arm["difference_to_real"]:
            _bar(right, arm["difference_to_real"]["miou"], place, colour)
    left.axvline(arms["real"]["miou"]["value"], color="#222222", linewidth=0.8, linestyle=":")
    right.axvline(0, color="#222222", linewidth=0.8, linestyle=":")
    left.set_yticks(range(len(arms)), list(arms))
    left.invert_yaxis()
    left.set_xlabel("mIoU over defect types, %; dots: seeds")
    right.set_xlabel("difference to real, mIoU points (95%)")
    for axes in (left, right):
        axes.grid(axis="x", alpha=0.3)
        axes.spines[["top", "right"]].set_visible(False)
    canvas.draw()
    return Image.fromarray(np.asarray(canvas.buffer_rgba())[..., :3].copy())


def draw_predictions(shown: Mapping[str, Mapping[str, np.ndarray]], val: ImageSet) -> Image.Image:
    """Truth, then what a training of each arm predicts; shown: {label: {image's name: index mask}}."""
    names = list(next(iter(shown.values())))
    places = [val.names.index(name) for name in names]
    shape = np.asarray(val.images[places[0]]).shape
    images = np.stack([_fit(val.images[i], shape) for i in places])
    rows = [Row(["truth"], images, np.stack([_fit(val.masks[i], shape) for i in places]))]
    for label, masks in shown.items():
        rows.append(Row([label], images, np.stack([_fit(masks[name], shape) for name in names])))
    return draw_row_sheet(
        "Predictions on validation images", ["one training of each arm, seed 0"], val.class_names, rows
    )


def images_to_show(val: ImageSet) -> list[int]:
    """PER_TYPE validation images of each type."""
    chosen: dict[int, None] = {}
    for k in range(1, len(val.class_names) + 1):
        having = [i for i, mask in enumerate(val.masks) if (mask == k).any() and i not in chosen]
        spread = np.linspace(0, len(having) - 1, min(PER_TYPE, len(having))).round().astype(int)
        chosen.update(dict.fromkeys(having[i] for i in spread))
    return list(chosen)


def encode_mask(mask: np.ndarray) -> str:
    """An index mask uint8 [H, W] as text, for JSON."""
    return base64.b64encode(encode_png(mask)).decode()


def decode_mask(text: str) -> np.ndarray:
    """What encode_mask was given."""
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(text))))


def write_report(
    out: str,
    arms: Sequence[Arm],
    results: Mapping[Any, dict[str, Any]],
    data: Any,
    settings: dict[str, Any],
    provenance: dict[str, Any],
    verdict_arm: str,
    notes: Sequence[str],
) -> dict[str, Any]:
    """Sum up all trainings (results: by job), write the files of OUT and print the table; returns lift.json."""
    seeds = 1 + max(job.seed for job in results)
    table = {(job.arm.name, job.run, job.seed): found for job, found in results.items()}
    runs = {arm.name: 1 + max(job.run for job in results if job.arm.name == arm.name) for arm in arms}

    def read(found: dict[str, Any]) -> Outcome:
        min_pixels = settings["min_pixels"]
        if min_pixels is None and found["train_good_pixels"]:
            min_pixels = calibrate(np.array(found["train_good_pixels"]), FALSE_ALARMS)
        return Outcome(
            np.array(found["pixels"], np.int64), np.array(found["good_pixels"], np.int64), min_pixels or MIN_PIXELS
        )

    outcomes = {
        name: [[read(table[name, r, s]) for s in range(seeds)] for r in range(number)] for name, number in runs.items()
    }
    bootstrap = Bootstrap.draw([*data.val.groups, *data.val_good.groups], seeds)
    found = summarize(arms, outcomes, bootstrap, data.val.class_names)
    result = {
        "settings": settings,
        "provenance": provenance,
        "class_names": list(data.val.class_names),
        "counts": {
            "train": len(data.train),
            "train_good": len(data.good or ()),
            "val": len(data.val),
            "val_groups": len(set(data.val.groups)),
            "val_good": len(data.val_good),
            "samples": {name: [len(run) for run in runs] for name, runs in data.samples.items()},
            "seeds": seeds,
        },
        "arms": found,
        "verdict": judge(found, verdict_arm),
        "notes": list(notes),
        "pictures": ["lift.png", "predictions.png"],
    }
    synthetic = {name: arm["miou"]["value"] for name, arm in found.items() if arm["kind"] == "synthetic"}
    best = max(synthetic, key=synthetic.get)
    wanted = dict.fromkeys(["real", best, *(arm.name for arm in arms if arm.kind == "copy_paste")])
    shown = {name: {k: decode_mask(v) for k, v in table[name, 0, 0]["shown"].items()} for name in wanted}
    write_atomic(bf.join(out, "lift.png"), encode_png(np.asarray(draw_arms(found))))
    write_atomic(bf.join(out, "predictions.png"), encode_png(np.asarray(draw_predictions(shown, data.val))))
    write_atomic(bf.join(out, "lift.md"), markdown(result).encode())
    write_json(bf.join(out, "lift.json"), result)  # last: it tells that all is there
    print(f"{markdown(result)}\nlook at {bf.join(out, 'lift.png')} and {bf.join(out, 'predictions.png')}")
    return result


def _difference(own: dict[str, np.ndarray], other: dict[str, np.ndarray]) -> Estimates:
    return {metric: estimate(own[metric] - other[metric]) for metric in METRICS}


def _by_seed(outcomes: Sequence[Sequence[Outcome]]) -> list[float]:
    """mIoU in percent of each seed, mean over generator runs."""
    even = np.ones((1, len(outcomes[0][0].pixels) + len(outcomes[0][0].good)))
    return (100 * np.mean([[scores(one, even)["miou"][0] for one in seeds] for seeds in outcomes], axis=0)).tolist()


def _matching(arm: Arm, arms: Sequence[Arm]) -> Arm | None:
    """The copy-paste arm that has the nearest number of extra images; none for the baselines."""
    pasted = [other for other in arms if other.kind == "copy_paste"]
    if arm.kind != "synthetic" or not pasted:
        return None
    return min(pasted, key=lambda other: abs(np.log(other.extra / arm.extra)))


def _bar(axes: Any, found: Estimates, place: float, colour: str) -> None:
    low, high = found["interval"]
    axes.plot([low, high], [place, place], color=colour, linewidth=2)
    axes.plot([found["value"]], [place], "o", color=colour, markersize=6)


def _fit(array: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """Stretched to the height and width of `shape`, for a picture."""
    return np.asarray(Image.fromarray(array).resize(shape[1::-1], Image.Resampling.NEAREST))
