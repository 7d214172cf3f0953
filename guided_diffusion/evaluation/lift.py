"""What samples add: a segmenter trained with and without them, tested on held-out real images.

    python scripts/evaluate.py lift --train data --val data_held_out --samples work/samples --out work/lift
    python scripts/evaluate.py lift ... --samples two_stage=run1,run2 --samples large=large1,large2

docs/evaluation.md describes the arms. Intervals are at 95%, from a bootstrap over training seeds, validation images
(--groups: which belong together) and generator runs (--samples NAME=DIR1,DIR2), paired by seed and image. The verdict
is on one arm that is named beforehand, --verdict_arm. Run again after a stop, it goes on; OUT/runs keeps segmenters.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import multiprocessing
import os
import re
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

import blobfile as bf
import numpy as np
import torch
from tqdm import tqdm

from .. import dist_util
from ..errors import InputError, check_least, unknown_name
from ..file_io import ensure_writable, read_json, write_atomic, write_json
from ..generation.sample_io import common_class_names
from ..keyed_random import numpy_generator
from ..parallel import default_workers, end_with_parent
from ..precision import resolve_precision
from .arms import BASELINES, Arm, choose_verdict_arm, copy_paste, plan_arms
from .image_sets import ImageSet, View, read_good, read_samples, read_whole, view_of_samples
from .lift_report import images_to_show, write_report
from .scores import count_pixels
from .segmenter import Pool, SegmenterSettings, load_segmenter, train_segmenter

HELP = "what samples add to a segmenter: against real images alone, repeated, and copy-paste"
STEPS, BATCH_SIZE = SegmenterSettings.steps, SegmenterSettings.batch_size
FULL = {"ratios": "0.5,1,2,4", "counts": "100,300", "baselines": ",".join(BASELINES), "seeds": 5, "steps": STEPS}
QUICK = {"ratios": "1", "counts": "", "baselines": "copy_paste", "seeds": 3, "steps": 150}
VERSION = 3  # of what trainings do: raise it when that changes, so that older runs are not taken for new ones


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--train", required=True, help="data set the generator was trained on; its folder good is used too")
    add("--val", required=True, help="held-out real images to test on, and in its folder good defect-free ones")
    add("--samples", required=True, action="append", metavar="[NAME=]DIR[,DIR...]", help="samples; may be repeated")
    add("--out", required=True, help="folder for results; trainings that are there already are used again")
    add("--groups", help="CSV or JSON file: which real images are resampled together (each by itself)")
    add("--quick", action="store_true", help="a first look in minutes: fewer arms, seeds and steps")
    for name, text in (
        ("ratios", "samples over real images, comma-separated"),
        ("counts", "numbers of samples, comma-separated"),
        ("baselines", "comma-separated, of " + ", ".join(BASELINES)),
        ("seeds", "trainings of each arm"),
        ("steps", "optimiser steps of each training"),
    ):
        add(f"--{name}", type=type(FULL[name]), help=f"{text} ({FULL[name]}; with --quick {QUICK[name] or 'none'})")
    add("--verdict_arm", help="the arm that the verdict is on (ratio 1 of the first samples)")
    add("--good_share", type=float, default=0.25, help="defect-free images in each batch (0.25)")
    add("--real_share", type=float, help="real images among the others in each batch (as many as in the pool)")
    add("--batch_size", type=int, default=BATCH_SIZE, help=f"({BATCH_SIZE})")
    add("--jobs", type=int, help="trainings at a time, of one thread each (number of cores; on a GPU 1)")
    precisions = ("auto", "fp32", "bf16")
    add("--precision", choices=precisions, default="auto", help="of the encoder; auto: bf16 where it is fast")
    add("--device", default="auto", help="auto (default), cpu, cuda or cuda:N")


@dataclass(frozen=True)
class Setup:
    """What all trainings share. samples: the generator runs of each set, by its name; shares: as in Pool."""

    view: View
    train: ImageSet
    good: ImageSet
    val: ImageSet
    val_good: ImageSet
    samples: dict[str, list[ImageSet]]
    segmenter: SegmenterSettings = SegmenterSettings()
    good_share: float = 0.25
    real_share: float | None = None


class Job(NamedTuple):
    """One training. run: which generator run of the arm's set (0 for others). Files are in OUT/runs."""

    arm: Arm
    run: int
    seed: int
    weights: str
    result: str  # depends on the images that it is tested on, too


def main(args: argparse.Namespace) -> None:
    strict = [name for name in ("ratios", "counts") if getattr(args, name) is not None]
    for name, value in (QUICK if args.quick else FULL).items():
        if getattr(args, name) is None:
            setattr(args, name, value)
    numbers = {name: _numbers(args, name) for name in ("ratios", "counts")}
    check_least(args, seeds=1, steps=1, batch_size=2, jobs=1)
    for name in ("good_share", "real_share"):
        if not 0 <= (getattr(args, name) or 0) < 1:
            raise InputError(f"--{name} {getattr(args, name)}: is a share, from 0 to below 1")
    baselines = [name for name in args.baselines.split(",") if name]
    if unknown := [name for name in baselines if name not in BASELINES]:
        raise InputError(unknown_name("--baselines", unknown[0], BASELINES))
    device = dist_util.setup(args.device)
    setup, notes = read_setup(args, device)
    there = {name: min(map(len, runs)) for name, runs in setup.samples.items()}
    arms, left_out = plan_arms(len(setup.train), there, **numbers, baselines=baselines, strict=strict)
    verdict_arm = choose_verdict_arm(args.verdict_arm, arms)
    ensure_writable(args.out, "--out")
    jobs = plan_jobs(arms, args.seeds, setup, bf.join(args.out, "runs"))
    run_jobs(jobs, setup, args.jobs or (default_workers() if device.type == "cpu" else 1), str(device))
    results = {(job.arm.name, job.run, job.seed): read_json(job.result) for job in jobs}
    if args.seeds < FULL["seeds"]:
        notes.insert(0, f"Intervals over so few seeds ({args.seeds}) are rough: take {FULL['seeds']} or more.")
    if args.quick:
        notes.insert(0, "A first look only: with few steps scores are low.")
    flags = {name: value for name, value in vars(args).items() if isinstance(value, str | int | float | list | None)}
    about = {
        "settings": {**flags, "view": asdict(setup.view), "segmenter": asdict(setup.segmenter)},
        "provenance": results["real", 0, 0]["provenance"],
        "class_names": list(setup.val.class_names),
        "counts": {
            "train": len(setup.train),
            "train_good": len(setup.good),
            "val": len(setup.val),
            "val_groups": len(set(setup.val.groups)),
            "val_good": len(setup.val_good),
            "samples": {name: [len(run) for run in runs] for name, runs in setup.samples.items()},
            "seeds": args.seeds,
        },
        "notes": [*notes, *left_out],
    }
    shown = images_to_show(setup.val)
    predicted = {
        job.arm.name: load_segmenter(job.weights, setup.segmenter, len(shown.class_names), device).predict(shown.images)
        for job in jobs
        if not job.run and not job.seed and bf.exists(job.weights)
    }
    groups = [*setup.val.groups, *setup.val_good.groups]
    write_report(args.out, about, arms, results, groups, verdict_arm, shown, predicted)


def read_setup(args: argparse.Namespace, device: torch.device) -> tuple[Setup, list[str]]:
    """Everything read and checked, and notes on what is missing. Raises InputError."""
    folders = _named_folders(args.samples)
    first, *others = [folder for runs in folders.values() for folder in runs]
    flags = {"--samples": first} | {f"--samples #{k}": folder for k, folder in enumerate(others, start=2)}
    class_names = common_class_names({"--train": args.train, "--val": args.val, **flags})
    samples = {name: [read_samples(folder, class_names) for folder in runs] for name, runs in folders.items()}
    views = {run.folder: view_of_samples(run.folder, run.masks.shape[1:]) for runs in samples.values() for run in runs}
    view = views[first]
    for folder, other in views.items():
        if (other.size, other.windows, other.crop_from) != (view.size, view.windows, view.crop_from):
            raise InputError(
                f"--samples {folder}: shows {_seen(other)}, but {first} {_seen(view)}; compare samples of one kind"
            )
    train = read_whole(args.train, class_names, view, groups=args.groups, flag="--train")
    val = read_whole(args.val, class_names, view, groups=args.groups, flag="--val")
    good = read_good(args.train, class_names, view)
    val_good = read_good(args.val, class_names, view, groups=args.groups)
    if len(set(val.groups)) < 2:
        raise InputError(f"--val {args.val}: an interval needs images of at least 2 groups; add some")
    known = {image.tobytes() for image in train.images}
    if both := [name for name, image in zip(val.names, val.images, strict=True) if image.tobytes() in known]:
        raise InputError(
            f"--val {args.val}: {both[0]} is also in --train {args.train}, as are {len(both) - 1} more; test on images "
            "that no training has seen"
        )
    trained, tested = _shown(train), _shown(val)
    if not set(trained) & set(tested):
        raise InputError(
            f"--val {args.val}: shows {', '.join(tested)}, but --train {args.train} {', '.join(trained)}; test on "
            "types that are trained"
        )
    notes = []
    if missing := [name for name in class_names if name not in tested]:
        notes.append(f"--val shows no {', '.join(missing)}: left out of all means.")
    if missing := [name for name in tested if name not in trained]:
        notes.append(f"--train shows no {', '.join(missing)}, which --val does.")
    for name, runs in samples.items():
        given = {type_ for run in runs for type_ in _shown(run)}
        if not given & set(trained):
            raise InputError(f"--samples {runs[0].folder}: its masks show none of the types of --train {args.train}")
        if missing := [type_ for type_ in trained if type_ not in given]:
            notes.append(f"The samples of {name} show no {', '.join(missing)}.")
    if not good:
        notes.append("No defect-free images in training: --train has no folder good.")
    if not val_good:
        notes.append("--val has no defect-free images (folder good): false-positive rates are not known.")
    precision = resolve_precision(args.precision, device)
    segmenter = SegmenterSettings(steps=args.steps, batch_size=args.batch_size, precision=precision)
    return Setup(view, train, good, val, val_good, samples, segmenter, args.good_share, args.real_share), notes


def plan_jobs(arms: Sequence[Arm], seeds: int, setup: Setup, folder: str) -> list[Job]:
    """All trainings, the first seed of every arm first. Names of files hold a hash of everything that decides them."""
    common = [VERSION, asdict(setup.segmenter), setup.good_share, asdict(setup.view)]
    common += [digest(setup.train), digest(setup.good)]
    test = _sha256([digest(setup.val), digest(setup.val_good), digest(setup.good)])
    jobs = []
    for seed in range(seeds):
        for arm in arms:
            for run, samples in enumerate(setup.samples[arm.samples] if arm.samples else [None]):
                used = digest(samples.take(range(arm.extra))) if samples else ""
                key = _sha256([*common, used, arm.kind, arm.extra, setup.real_share if arm.extra else None, seed])
                path = bf.join(folder, f"{arm.name}_run{run}_seed{seed}_{key[:12]}")
                jobs.append(Job(arm, run, seed, f"{path}.pt", f"{path}_{test[:8]}.json"))
    return jobs


def run_jobs(jobs: Sequence[Job], setup: Setup, workers: int, device: str) -> None:
    """Do what is missing of the trainings, with a bar; every one is written as soon as it is done."""
    missing = [job for job in jobs if not bf.exists(job.result)]
    bar = {"total": len(missing), "desc": "trainings", "unit": "training", "disable": not missing}
    if workers == 1 or len(missing) < 2:
        for job in tqdm(missing, **bar):
            run_job(job, setup, device, f"{job.arm.name}, seed {job.seed}")
        return
    context = multiprocessing.get_context("spawn")  # CUDA and torch's thread pools do not outlive a fork
    with ProcessPoolExecutor(min(workers, len(missing)), context, _start_worker, (setup, device)) as pool:
        for _ in tqdm(pool.map(_work, missing), **bar):  # which cancels the others when one fails
            pass


def run_job(job: Job, setup: Setup, device: str, title: str = "") -> None:
    """One training and its test; writes the segmenter and its pixel counts. A segmenter that is there is used again."""
    torch.set_num_threads(1)  # so that the results do not depend on how many trainings run at a time
    num_types = len(setup.train.class_names)
    if bf.exists(job.weights):
        segmenter = load_segmenter(job.weights, setup.segmenter, num_types, device)
    else:
        segmenter = train_segmenter(
            make_pool(job.arm, job.run, job.seed, setup), setup.segmenter, job.seed, device, title
        )
        write_atomic(job.weights, segmenter.to_bytes())
    predicted = zip(segmenter.predict(setup.val.images), setup.val.masks, strict=True)
    result = {
        "provenance": segmenter.provenance,
        # [images][any type, then each][both, predicted, true]
        "pixels": [count_pixels(mask, true, num_types).tolist() for mask, true in predicted],
    }
    # Predicted on defect-free images; those of training say from how many on an image is defective.
    for key, images in (("good_pixels", setup.val_good), ("train_good_pixels", setup.good)):
        result[key] = [int(np.count_nonzero(mask)) for mask in segmenter.predict(images.images)]
    write_json(job.result, result)


def make_pool(arm: Arm, run: int, seed: int, setup: Setup) -> Pool:
    """What a training of this arm takes."""
    real, extra = setup.train, None
    if arm.kind == "repeat":
        extra = real.take(numpy_generator("repeat", seed).permutation(np.arange(arm.extra) % len(real)))
    elif arm.kind == "copy_paste":
        extra = copy_paste(real, setup.good, arm.extra, numpy_generator("copy_paste", seed))
    elif arm.kind == "synthetic":
        extra = setup.samples[arm.samples][run].take(range(arm.extra))
    augment = arm.kind != "plain"
    return Pool(real, extra, setup.good, setup.view.size, setup.good_share, setup.real_share, augment)


_shared: tuple = ()


def _start_worker(*shared: Any) -> None:
    global _shared
    end_with_parent()
    _shared = shared


def _work(job: Job) -> None:
    run_job(job, *_shared)


def digest(images: ImageSet) -> str:
    """Hash of pixels and masks."""
    digest = hashlib.sha256()
    for image, mask in zip(images.images, images.masks, strict=True):
        digest.update(str(image.shape).encode() + image.tobytes() + mask.tobytes())
    return digest.hexdigest()


def _sha256(parts: list) -> str:
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def _named_folders(values: Sequence[str]) -> dict[str, list[str]]:
    """{name: folders} of --samples; a single unnamed one is called synthetic, others by their folder."""
    found: dict[str, list[str]] = {}
    for value in values:
        name, _, listed = value.rpartition("=") if re.match(r"[^/]*=", value) else ("", "", value)
        folders = [folder for folder in listed.split(",") if folder]
        if not folders:
            raise InputError(f"--samples {value}: names no folder")
        if not name:
            name = "synthetic" if len(values) == 1 else os.path.basename(os.path.normpath(folders[0]))
        if not re.fullmatch(r"[A-Za-z0-9_-]+", name) or name in ("real", *BASELINES):
            raise InputError(
                f"--samples {value}: cannot be called {name!r}; name it NAME=DIR, of letters, digits, _ and -"
            )
        if name in found:
            raise InputError(f"--samples {value}: a second set called {name}; name them NAME=DIR")
        found[name] = folders
    return found


def _shown(images: ImageSet) -> list[str]:
    """The types in the masks, in the order of their indices."""
    indices = {int(k) for mask in images.masks for k in np.unique(mask)}
    return [name for k, name in enumerate(images.class_names, start=1) if k in indices]


def _seen(view: View) -> str:
    return f"{'windows' if view.windows else 'whole images'} of {view.size[1]} x {view.size[0]} px"


def _numbers(args: argparse.Namespace, name: str) -> list:
    """The numbers in a comma-separated flag, ascending; counts are whole. Raises InputError."""
    text = getattr(args, name)
    try:
        values = sorted({(int if name == "counts" else float)(part) for part in text.split(",") if part})
    except ValueError:
        values = [-1]
    if not all(value > 0 for value in values):
        raise InputError(f"--{name} {text}: should be positive numbers with commas between")
    return values
