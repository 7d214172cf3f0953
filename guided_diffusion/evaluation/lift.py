"""What samples add: segmenters trained with and without them, tested on held-out real images.

    python scripts/evaluate.py lift --train data --val data_held_out --samples work/samples --out work/lift
    python scripts/evaluate.py lift ... --samples two_stage=run1,run2 --samples large=large1,large2

Intervals are at 95%, over training seeds, validation images (--groups) and generator runs (DIR1,DIR2). Name the arm of
the verdict beforehand: --verdict_arm. Run again after a stop, it goes on: OUT/runs keeps segmenters.
"""

import argparse
import hashlib
import io
import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from typing import Any

import blobfile as bf
import numpy as np
import torch
from tqdm import tqdm

from .. import dist_util
from ..data.image_files import View, present_types
from ..errors import InputError, brief, check_range, unknown_name
from ..file_io import lock_folder, write_atomic
from ..generation.sample_io import common_class_names
from ..keyed_random import numpy_generator
from ..parallel import default_workers, parallel_map
from ..training.checkpoint import read_weights
from .arms import ALL, BASELINES, Arm, copy_paste, plan_arms
from .bootstrap import NUM_RESAMPLES, Resampling, with_interval
from .image_sets import ImageSet, Row, add_flags, check_unseen, read_good, read_real, read_samples, view_of_samples
from .segmenter import SEGMENTERS, Outcome, Pool, Segmenter, calibrate, count_pixels, scores, train_segmenter
from .tables import number, plot_intervals, table, write_results

Runs = Sequence[Sequence[Outcome]]  # of an arm: by generator run, then seed
# Of what trainings do: change it when that changes, so that older runs are not taken for new ones.
VERSIONS = {"deeplab": 4, "unet": "unet 2"}
FROZEN = "net.encoder."  # what the files of segmenters leave out
FULL = {"ratios": [0.5, 1, 2, 4, ALL], "seeds": 5, "steps": 600}
QUICK = {"ratios": [ALL], "seeds": 3, "steps": 150}
METRICS = dict(miou="mIoU", f1="F1, defect pixels", image_recall="images found", false_positive_rate="false alarms")
FALSE_ALARMS = 0.05  # share of the defect-free training images that may be taken for defective
GPU_WORKERS = 10  # at most: a training's host is busier than the GPU
MIN_PIXELS = 5  # predicted defect pixels from which an image is, where there are no defect-free training images


def ratios(text: str) -> list[float | str]:
    parts = {*text.split(",")}
    try:
        return sorted(float(part) for part in parts - {ALL}) + [ALL] * (ALL in parts)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{brief(text)} is not a list such as 0.5,1,{ALL}") from None


def sample_set(text: str) -> tuple[str, list[str]]:
    """Name and folders of [NAME=]DIR[,DIR...]."""
    name, folders = re.fullmatch(r"(?s)(?:([\w-]+)=)?(.*)", text).groups()
    runs = [folder.rstrip("/") for folder in folders.split(",")]
    if "" in runs or len(set(runs)) < len(runs):
        raise argparse.ArgumentTypeError(f"{brief(text)} names a folder twice, or none")
    return name or "synthetic", runs


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add_flags(parser, ["train"], ["groups", "device"])
    add("--val", required=True, help="held-out real images to test on; its folder good/ holds defect-free ones")
    add("--samples", required=True, action="append", type=sample_set, metavar="[NAME=]DIR[,DIR...]", help="repeatable")
    add("--out", required=True, help="folder for results; trainings that are there already are used again")
    add("--quick", action="store_true", help="a first look in minutes: fewer arms, seeds and steps")
    add("--ratios", type=ratios, help="samples over real images, comma-separated (0.5,1,2,4,all; with --quick all)")
    add("--seeds", type=int, help="trainings of each arm (5; with --quick 3)")
    add("--steps", type=int, help="optimiser steps of each training (600; with --quick 150)")
    add("--segmenter", choices=[*SEGMENTERS, "both"], default="deeplab", help="what is trained (deeplab)")
    add("--verdict_arm", help="arm of the verdict (default: that with most samples of the first set)")


@dataclass(frozen=True)
class Setup:
    """What all trainings share."""

    view: View
    train: ImageSet
    train_good: ImageSet
    val: ImageSet
    val_good: ImageSet
    samples: dict[str, list[ImageSet]]  # the generator runs of each set, by its name
    steps: int
    device: torch.device
    runs: str  # folder of the segmenters


def main(args: argparse.Namespace) -> None:
    for name, value in (QUICK if args.quick else FULL).items():
        if getattr(args, name) is None:
            setattr(args, name, value)
    check_range(args, seeds=(1, 1000), steps=(1, 10**6))
    check_range(argparse.Namespace(ratios=[ratio for ratio in args.ratios if ratio != ALL]), ratios=(0.001, 10**6))
    setup = read_setup(args)
    baselines = ["copy_paste"] if args.quick else BASELINES
    arms, notes = plan_arms(len(setup.train), setup.samples, args.ratios, baselines)
    known = [arm.name for arm in arms[1:]]
    if args.verdict_arm and args.verdict_arm not in known:
        raise InputError(unknown_name("--verdict_arm", args.verdict_arm, known))
    first = next(arm.samples for arm in arms if arm.samples)
    verdict_arm = args.verdict_arm or [arm.name for arm in arms if arm.samples == first][-1]
    kinds = list(SEGMENTERS) if args.segmenter == "both" else [args.segmenter]
    seeds = range(args.seeds)
    jobs = [(kind, arm, run, seed) for kind in kinds for arm in arms for run in range(arm.runs) for seed in seeds]
    workers = default_workers()
    workers = workers if setup.device.type == "cpu" else max(1, min(GPU_WORKERS, workers - 2))
    bar = {"description": "trainings", "unit": "training", "chunk": 1, "least": 2}
    with lock_folder(args.out, "--out"):
        tested = iter(list(parallel_map(partial(run_job, setup=setup), jobs, workers=workers, **bar)))
    val, judged = setup.val, []
    for kind in kinds:
        outcomes = {arm: [[next(tested) for _ in seeds] for _ in range(arm.runs)] for arm in arms}
        found = summarize(outcomes, [*val.groups, *setup.val_good.groups], val.class_names)
        about = {"segmenter": kind, "provenance": SEGMENTERS[kind](1, "cpu").provenance}
        verdict = judge(found, verdict_arm, SEGMENTERS[kind].title, args.seeds)
        judged.append({**about, "arms": found, "verdict": verdict})
    counts: dict[str, Any] = {name: len(getattr(setup, name)) for name in ("train", "train_good", "val", "val_good")}
    counts |= {"val_groups": len(set(val.groups)), "seeds": args.seeds}
    counts["samples"] = {name: [len(run) for run in runs] for name, runs in setup.samples.items()}
    result = {
        "command": "lift",
        "settings": {**vars(args), "view": asdict(setup.view)},
        "class_names": list(val.class_names),
        "counts": counts,
        "notes": ["A first look only: with fewer than 5 seeds intervals are rough."] * (args.seeds < 5) + notes,
        **judged[0],
        "others": judged[1:],
    }
    panels = []
    for of in judged:
        own, real, title = of["arms"].values(), of["arms"]["real"]["miou"], SEGMENTERS[of["segmenter"]].title
        gains = [arm["difference_to_real"] and arm["difference_to_real"]["miou"] for arm in own]
        panels.append((f"{title}, mIoU, %", 1, [arm["miou"] for arm in own], {":": real["value"]}))
        panels.append(("difference to real", 1, gains, {":": 0}))
    write_results(args.out, result, markdown(result), {"lift.png": plot_intervals([arm.name for arm in arms], panels)})


def read_setup(args: argparse.Namespace) -> Setup:
    """Everything read and checked. Raises InputError."""
    device, sets = dist_util.setup(args.device), dict(args.samples)
    if len({*sets, *BASELINES}) < len(args.samples) + len(BASELINES):
        raise InputError(f"--samples: name each set NAME=DIR, with a name of its own, none of {', '.join(BASELINES)}")
    folders = {f"--samples #{k}": run for k, run in enumerate((run for runs in sets.values() for run in runs), start=1)}
    names = common_class_names({"--train": args.train, "--val": args.val, **folders})
    samples = {name: [read_samples(folder, names) for folder in runs] for name, runs in sets.items()}
    generated = [run for runs in samples.values() for run in runs]
    views = [replace(view_of_samples(run.folder, run.masks.shape[1:]), crop_defect=0.0) for run in generated]
    for run, view in zip(generated, views, strict=True):
        if view != views[0]:
            first = f"the size and view of {generated[0].folder}"
            raise InputError(f"--samples {run.folder}: are not of {first}; compare what is alike")
    train, train_good = read_real(args.train, names, view), read_good(args.train, names, view)
    val = read_real(args.val, names, view, groups=args.groups).in_groups("--val")
    val_good = read_good(args.val, names, view, groups=args.groups)
    check_unseen("--val", val, train)
    trained = _types(train)
    for flag, images in [("--val", val), *(("--samples", run) for run in generated)]:
        if not set(trained) & set(own := _types(images)):
            shown = f"shows {', '.join(own) or 'no defects'}, but --train {args.train} {', '.join(trained)}"
            remedy = "take images of types that are trained" if own or flag == "--val" else "train the generator longer"
            raise InputError(f"{flag} {images.folder}: {shown}; {remedy}")
    return Setup(view, train, train_good, val, val_good, samples, args.steps, device, bf.join(args.out, "runs"))


def _types(images: ImageSet) -> list[str]:
    return sorted({name for mask in images.masks for name in present_types(mask, images.class_names)})


def run_job(job: tuple[str, Arm, int, int], setup: Setup) -> Outcome:
    """Train a segmenter, unless it is there, and test it. job: which of SEGMENTERS, arm, generator run or 0, seed."""
    torch.set_num_threads(1)  # so that the results do not depend on how many trainings run at a time
    (kind, arm, run, seed), num_types = job, len(setup.train.class_names)
    pool = make_pool(arm, run, seed, setup)
    path = bf.join(setup.runs, f"{arm.name}_run{run}_seed{seed}_{digest(pool, setup.steps, kind)}.pt")
    segmenter = load_segmenter(path, SEGMENTERS[kind](num_types, setup.device)) if bf.exists(path) else None
    if segmenter is None:
        segmenter = train_segmenter(pool, setup.steps, seed, setup.device, kind=kind)
        trained = {name: part for name, part in segmenter.state_dict().items() if not name.startswith(FROZEN)}
        torch.save(trained, file := io.BytesIO())
        write_atomic(path, file.getvalue())
    pairs = zip(segmenter.predict(setup.val.images), setup.val.masks, strict=True)
    pixels = [count_pixels(mask, true, num_types) for mask, true in pairs]
    on_val, on_train = (
        np.array([np.count_nonzero(mask) for mask in segmenter.predict(good.images)], np.int64)
        for good in (setup.val_good, setup.train_good)
    )
    return Outcome(np.stack(pixels), on_val, calibrate(on_train, FALSE_ALARMS) if len(on_train) else MIN_PIXELS)


def load_segmenter(path: str, segmenter: Segmenter) -> Segmenter | None:
    """It with what run_job has saved; None, with a line on stderr, where that is damaged."""
    try:
        state, _ = read_weights(path, path)
        own = segmenter.state_dict()
        segmenter.load_state_dict({name: own[name] if name.startswith(FROZEN) else state[name] for name in own})
        return segmenter
    except Exception as error:  # what torch.load raises has no common type
        tqdm.write(f"{path}: is damaged ({type(error).__name__}), so it is trained anew", sys.stderr)
        return None


def make_pool(arm: Arm, run: int, seed: int, setup: Setup) -> Pool:
    """What a training of this arm takes."""
    real, extra = setup.train, None
    if arm.kind == "repeat":
        extra = real.take(numpy_generator("repeat", seed).permutation(np.arange(arm.extra) % len(real)))
    elif arm.kind == "copy_paste":
        extra = copy_paste(real, setup.train_good, arm.extra, numpy_generator("copy_paste", seed))
    elif arm.kind == "synthetic":
        extra = setup.samples[arm.samples][run].take(range(arm.extra))
    return Pool(real, extra, setup.train_good, setup.view.size)


def digest(pool: Pool, steps: int, kind: str) -> str:
    """A hash of all that decides a training but its seed."""
    found = hashlib.sha256(repr((VERSIONS[kind], steps, pool.size)).encode())
    for images in (pool.real, pool.extra, pool.good):
        for image, mask in zip(images.images, images.masks, strict=True) if images else ():
            found.update(repr(image.shape).encode() + image.tobytes() + mask.tobytes())
        found.update(b"next")
    return found.hexdigest()[:12]


def resampled_scores(
    outcomes: Runs, groups: Sequence[str], name: str = "", num_resamples: int = NUM_RESAMPLES
) -> dict[str, np.ndarray]:
    """Each of `scores`, in percent, [1 + R, ...]: of an arm as it is, and of resamples of images, seeds and runs.

    groups: of the validation images, then of the defect-free ones. name: of the set whose runs these are. All arms get
    the same draws of images and seeds, so that their differences are paired."""
    images = Resampling.draw(groups, "lift", "images", least=1, num_resamples=num_resamples).weights
    runs = _shares(len(outcomes), num_resamples, "runs", name)
    seeds = _shares(len(outcomes[0]), num_resamples, "seeds")
    trainings = [
        (scores(one, images), runs[:, r] * seeds[:, s]) for r, of in enumerate(outcomes) for s, one in enumerate(of)
    ]
    return {key: sum(np.where(w > 0, one[key].T, 0) * 100 * w for one, w in trainings).T for key in trainings[0][0]}


def _shares(size: int, num_resamples: int, *key: str) -> np.ndarray:
    """Shares float64 [num_resamples + 1, size] of units in resamples of them; the first row is even. A resample has one
    unit less than there are, for an unbiased variance of means (Hesterberg 2004)."""
    drawn, even = max(size - 1, 1), np.full(size, 1 / size)
    return np.vstack([even, numpy_generator("lift", *key).multinomial(drawn, even, num_resamples) / drawn])


def summarize(outcomes: Mapping[Arm, Runs], groups: Sequence[str], class_names: Sequence[str]) -> dict[str, Row]:
    """The estimates of each arm. outcomes, by arm, and groups: as in resampled_scores."""
    values = {arm: resampled_scores(own, groups, arm.samples or "") for arm, own in outcomes.items()}
    by_kind, found = {arm.kind: own for arm, own in values.items()}, {}
    for arm, own in values.items():
        found[arm.name] = asdict(arm) | {metric: with_interval(own[metric]) for metric in METRICS}
        for kind, compared in (("real", arm.kind != "real"), ("copy_paste", arm.samples)):
            other = by_kind.get(kind) if compared else None
            differences = other and {key: with_interval(own[key] - other[key]) for key in METRICS}
            found[arm.name][f"difference_to_{kind}"] = differences
        per_type = {name: {"iou": with_interval(own["iou_types"][:, k])} for k, name in enumerate(class_names)}
        found[arm.name]["per_type"] = per_type
    return found


def judge(arms: Mapping[str, Row], name: str, segmenter: str, seeds: int) -> Row:
    """The verdict on the arm `name` of so many seeds: does its interval of mIoU minus that of `real` leave out 0?"""
    arm = arms[name]
    difference, pasted = (arm[key] and arm[key]["miou"] for key in ("difference_to_real", "difference_to_copy_paste"))
    low, high = difference["interval"]
    gain = f"{difference['value']:+.1f} mIoU of {segmenter}"
    sentence = f"{gain}, 95% interval {low:.1f} to {high:.1f}, at ratio {arm['ratio']:.3g}"
    if seeds < 2:
        sentence = f"One training of each arm shows nothing for certain: {sentence}"
    elif high < 0:
        sentence = f"The samples do harm: {sentence}"
    elif low <= 0:
        sentence = f"A lift is not shown: {sentence}; the interval holds 0"
    if pasted:
        sentence += ". Against copy-paste: {:+.1f}, {:.1f} to {:.1f}".format(pasted["value"], *pasted["interval"])
    return {"arm": name, "sentence": f"{sentence}.", "difference": difference, "copy_paste": pasted}


def markdown(result: Row) -> str:
    """lift.md."""
    counts, types, judged = result["counts"], result["class_names"], [result, *result["others"]]
    sizes = "; ".join(f"{name}: {', '.join(map(str, runs))}" for name, runs in counts["samples"].items())
    titles = [SEGMENTERS[of["segmenter"]].title for of in judged]
    encoders = [f"with {name}, frozen" if (name := of["provenance"]["encoder"]) else "from scratch" for of in judged]
    trained = " and ".join(map(" ".join, zip(titles, encoders, strict=True)))
    lines = [
        "# What the samples add to a segmenter\n",
        *(f"**{of['verdict']['sentence']}** (arm {of['verdict']['arm']})\n" for of in judged),
        f"- {counts['train']} real training images and {counts['train_good']} defect-free ones; samples: {sizes}",
        f"- tested on {counts['val']} images of {counts['val_groups']} groups, {counts['val_good']} defect-free ones",
        f"- {trained}: {result['settings']['steps']} steps, {counts['seeds']} seeds; percent, intervals at 95% over "
        "seeds, groups and generator runs",
        f"- an image is found, or a false alarm, from as many predicted defect pixels on as {FALSE_ALARMS:.0%} of the "
        f"defect-free training images reach ({MIN_PIXELS} without such images)",
        *(f"- {note}" for note in result["notes"]),
        "",
    ]
    for of, title in zip(judged, titles, strict=True):
        rows, by_type = [], []
        for name, arm in of["arms"].items():
            differences = [arm["difference_to_real"], arm["difference_to_copy_paste"]]
            rows.append([name, arm["extra"], *(number(arm[metric], 1, 1) for metric in METRICS)])
            rows[-1] += [number(gain["miou"], 1, 1, "+") if gain else "" for gain in differences]
            by_type.append([name, *(number(arm["per_type"][type_]["iou"], 1, 1) for type_ in types)])
        head = ["arm", "extra", *METRICS.values(), "to real, mIoU", "to copy-paste, mIoU"]
        lines += [f"## {title}\n", table(head, rows)]
        lines += ["IoU by type:\n", table(["arm", *types], by_type)]
    return "\n".join(lines)
