"""What samples are worth: a segmenter trained with and without them, tested on held-out real images.

    python scripts/evaluate.py lift --train data --val data_held_out --samples work/samples --out work/lift
    python scripts/evaluate.py lift ... --samples two_stage=run1,run2 --samples large=large1,large2

Arms: `real` (the baseline: the real training images with strong classical augmentation), `plain` (the same without
it), `repeat` (the real images once more: what chance alone does), `copy_paste` (real defects pasted into defect-free
images), and real + samples in several amounts, `<set>_x<ratio to the real count>` or `<set>_n<count>`. All have the
same network, optimiser steps, augmentation and defect-free images (folder good of --train). Scores are in percent.

Intervals are at 95%, from a bootstrap over training seeds, validation images (--groups: which belong together) and
generator runs (--samples NAME=DIR1,DIR2); differences are paired by seed and image. Choosing the best arm and quoting
its interval would flatter it, so the verdict is on one arm that is named beforehand: --verdict_arm.

Writes lift.json, lift.md, lift.png and predictions.png into OUT, and each training's segmenter and pixel counts into
OUT/runs. Run again after a stop, it goes on; segmenters that are there with the same settings and training data are
used again, also with another --val: choose on one held-out set, then test the same segmenters on another.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import multiprocessing
import os
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict, dataclass
from typing import Any

import blobfile as bf
import numpy as np
import torch
from tqdm import tqdm

from .. import dist_util
from ..errors import InputError, unknown_name
from ..file_io import ensure_writable, read_json, write_atomic, write_json
from ..generation.sample_io import recorded_settings
from ..parallel import end_with_parent
from .arms import BASELINES, Arm, choose_verdict_arm, make_pool, plan_arms
from .lift_data import Data, digest, read_data
from .lift_report import encode_mask, images_to_show, write_report
from .scores import count_pixels
from .segmenter import SegmenterSettings, faster_precision, load_segmenter, train_segmenter

HELP = "what samples add to a segmenter: against real images alone, repeated, and copy-paste"
FULL = {
    "ratios": "0.5,1,2,4",
    "counts": "100,300",
    "baselines": ",".join(BASELINES),
    "seeds": 5,
    "steps": SegmenterSettings.steps,
}
QUICK = {"ratios": "1", "counts": "", "baselines": "copy_paste", "seeds": 3, "steps": 150}
VERSION = 2  # of what trainings do: raise it when that changes, so that older runs are not taken for new ones


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
        kind = int if isinstance(FULL[name], int) else str
        add(f"--{name}", type=kind, help=f"{text} ({FULL[name]}; with --quick {QUICK[name] or 'none'})")
    add("--baseline_ratios", default="1", help="repeated and pasted images over real ones, comma-separated (1)")
    add("--verdict_arm", help="the arm that the verdict is on (ratio 1 of the first samples)")
    add("--good_share", type=float, default=0.25, help="defect-free images in each batch (0.25)")
    add("--no_good", action="store_true", help="leave the defect-free images of --train out of all arms")
    add("--real_share", type=float, help="real images among the others in each batch (as many as in the pool)")
    add("--encoder", default=SegmenterSettings.encoder, help=f"timm's name ({SegmenterSettings.encoder})")
    add("--batch_size", type=int, default=SegmenterSettings.batch_size, help=f"({SegmenterSettings.batch_size})")
    add("--min_pixels", type=int, help="from so many predicted defect pixels on an image is defective (calibrated)")
    add("--jobs", type=int, help="trainings at a time, of one thread each (number of cores; on a GPU 1)")
    add(
        "--precision",
        choices=("auto", "fp32", "bf16"),
        default="auto",
        help="of the encoder; auto: bf16 where it is fast",
    )
    add("--device", default="auto", help="auto (default), cpu, cuda or cuda:N")


@dataclass(frozen=True)
class Job:
    """One training. run: which generator run of the arm's set (0 for others)."""

    arm: Arm
    run: int
    seed: int
    key: str  # hash of everything that decides the segmenter
    test: str  # hash of the images it is tested on

    @property
    def name(self) -> str:
        return f"{self.arm.name}_run{self.run}_seed{self.seed}_{self.key[:12]}"

    @property
    def file(self) -> str:
        return f"{self.name}_{self.test[:8]}.json"


@dataclass(frozen=True)
class Protocol:
    """What is the same in all trainings."""

    segmenter: SegmenterSettings
    good_share: float
    real_share: float | None


def main(args: argparse.Namespace) -> None:
    strict = [name for name in ("ratios", "counts") if getattr(args, name) is not None]
    for name, value in (QUICK if args.quick else FULL).items():
        if getattr(args, name) is None:
            setattr(args, name, value)
    ratios, baseline_ratios = (_numbers(args, name, float, 0) for name in ("ratios", "baseline_ratios"))
    counts = _numbers(args, "counts", int, 1)
    for name, least in (("seeds", 1), ("steps", 1), ("batch_size", 2), ("min_pixels", 1), ("jobs", 1)):
        if getattr(args, name) is not None and getattr(args, name) < least:
            raise InputError(f"--{name} {getattr(args, name)}: must be at least {least}")
    for name in ("good_share", "real_share"):
        if getattr(args, name) is not None and not 0 <= getattr(args, name) < 1:
            raise InputError(f"--{name} {getattr(args, name)}: is a share, from 0 to below 1")
    baselines = [name for name in args.baselines.split(",") if name]
    for name in baselines:
        if name not in BASELINES:
            raise InputError(unknown_name("--baselines", name, BASELINES))
    device = dist_util.setup(args.device)
    protocol = Protocol(
        SegmenterSettings(
            encoder=args.encoder,
            steps=args.steps,
            batch_size=args.batch_size,
            precision=faster_precision(device) if args.precision == "auto" else args.precision,
        ),
        args.good_share,
        args.real_share,
    )
    data, notes = read_data(args)
    there = {name: min(map(len, runs)) for name, runs in data.samples.items()}
    arms, left_out = plan_arms(
        len(data.train), there, ratios=ratios, counts=counts, baselines=baselines, baseline_ratios=baseline_ratios,
        strict=strict,
    )  # fmt: skip
    verdict_arm = choose_verdict_arm(args.verdict_arm, arms)
    ensure_writable(args.out, "--out")
    folder = bf.join(args.out, "runs")
    jobs = plan_jobs(arms, args.seeds, data, protocol)
    seconds = time.perf_counter()
    workers = args.jobs or (len(os.sched_getaffinity(0)) if device.type == "cpu" else 1)
    run_jobs(jobs, data, protocol, folder, workers, str(device))
    results = {job: read_json(bf.join(folder, job.file)) for job in jobs}
    if args.seeds < FULL["seeds"]:
        notes.insert(0, f"Intervals over so few seeds ({args.seeds}) are rough: take {FULL['seeds']} or more.")
    if args.quick:
        notes.insert(0, "A first look only: with few steps scores are low.")
    settings = {
        **{k: v for k, v in vars(args).items() if isinstance(v, str | int | float | list | None)},
        "view": asdict(data.view),
        **asdict(protocol),
    }
    provenance = {
        **results[jobs[0]]["provenance"],
        "samples": {name: [recorded_settings(run.folder) for run in runs] for name, runs in data.samples.items()},
        "seconds_of_this_call": round(time.perf_counter() - seconds, 1),
    }
    write_report(args.out, arms, results, data, settings, provenance, verdict_arm, [*notes, *left_out])


def plan_jobs(arms: Sequence[Arm], seeds: int, data: Data, protocol: Protocol) -> list[Job]:
    """All trainings, the first seed of every arm first."""
    alone = asdict(protocol) | {"real_share": None}  # what arms of real images alone do not depend on
    common = json.dumps([VERSION, alone, asdict(data.view)], sort_keys=True)
    common += digest(data.train) + digest(data.good)
    images = digest(data.val) + digest(data.val_good) + digest(data.good)
    test = hashlib.sha256(images.encode()).hexdigest()

    def key(arm: Arm, run: int, seed: int) -> str:
        used = digest(data.samples[arm.samples][run].take(range(arm.extra))) if arm.samples else ""
        kind = json.dumps([arm.kind, arm.extra, protocol.real_share if arm.extra else None, seed])
        return hashlib.sha256((common + used + kind).encode()).hexdigest()

    runs = {arm.name: range(len(data.samples[arm.samples])) if arm.samples else range(1) for arm in arms}
    return [Job(arm, r, seed, key(arm, r, seed), test) for seed in range(seeds) for arm in arms for r in runs[arm.name]]


def run_jobs(jobs: Sequence[Job], data: Data, protocol: Protocol, folder: str, workers: int, device: str) -> None:
    """Do what is missing of the trainings, with a bar; every one is written as soon as it is done."""
    missing = [job for job in jobs if not bf.exists(bf.join(folder, job.file))]
    with tqdm(total=len(missing) * protocol.segmenter.steps, unit="step", desc="training", disable=not missing) as bar:
        if workers == 1 or len(missing) < 2:
            threads = torch.get_num_threads()
            torch.set_num_threads(1)  # as the workers do: the results do not depend on how many there are
            try:
                for job in missing:
                    bar.set_description(f"{job.arm.name}, seed {job.seed}")
                    run_job(job, data, protocol, folder, device, lambda steps: _counted(steps, bar))
            finally:
                torch.set_num_threads(threads)
            return
        # Spawned: CUDA and torch's thread pools do not outlive a fork.
        with ProcessPoolExecutor(
            min(workers, len(missing)),
            multiprocessing.get_context("spawn"),
            initializer=_start_worker,
            initargs=(data, protocol, folder, device),
        ) as pool:
            running = [pool.submit(_work, job) for job in missing]
            try:
                for done in as_completed(running):
                    done.result()
                    bar.update(protocol.segmenter.steps)
            except BaseException:
                pool.shutdown(cancel_futures=True)
                raise


def run_job(job: Job, data: Data, protocol: Protocol, folder: str, device: str, progress: Any = iter) -> None:
    """One training and its test; writes the segmenter and its pixel counts. A segmenter that is there is used again."""
    started = time.perf_counter()
    num_types = len(data.train.class_names)
    weights = bf.join(folder, f"{job.name}.pt")
    if bf.exists(weights):
        segmenter = load_segmenter(weights, protocol.segmenter, num_types, device)
    else:
        samples = data.samples[job.arm.samples][job.run] if job.arm.samples else None
        pool = make_pool(
            job.arm, data.train, data.good, samples, data.view.size, job.seed, protocol.good_share, protocol.real_share
        )
        segmenter = train_segmenter(pool, protocol.segmenter, job.seed, device, progress)
        write_atomic(weights, segmenter.to_bytes())
    predicted = segmenter.predict(data.val.images)
    on_good, on_train_good = (
        [int(np.count_nonzero(mask)) for mask in segmenter.predict(part.images if part else [])]
        for part in (data.val_good, data.good)
    )
    counts = [count_pixels(p, t, num_types).tolist() for p, t in zip(predicted, data.val.masks, strict=True)]
    result = {
        "arm": job.arm.name,
        "run": job.run,
        "seed": job.seed,
        "key": job.key,
        "provenance": segmenter.provenance,
        "seconds": round(time.perf_counter() - started, 1),
        "names": data.val.names,
        "pixels": counts,  # [images][any type, then each][both, predicted, true]
        "good_pixels": on_good,  # predicted on defect-free images
        "train_good_pixels": on_train_good,  # on those of training, which say from how many on an image is defective
    }
    if job.seed == 0:
        result["shown"] = {data.val.names[i]: encode_mask(predicted[i]) for i in images_to_show(data.val)}
    write_json(bf.join(folder, job.file), result)


_worker: tuple = ()


def _start_worker(*arguments: Any) -> None:
    global _worker
    end_with_parent()
    torch.set_num_threads(1)
    _worker = arguments


def _work(job: Job) -> None:
    run_job(job, *_worker)


def _counted(steps: range, bar: tqdm) -> Iterator[int]:
    for step in steps:
        yield step
        bar.update()


def _numbers(args: argparse.Namespace, name: str, kind: type, least: float) -> list:
    """The numbers in a comma-separated flag, ascending. Raises InputError."""
    text = getattr(args, name)
    try:
        values = sorted({kind(part) for part in text.split(",") if part})
    except ValueError:
        values = [-1]
    if any(not value > 0 or value < least for value in values):
        raise InputError(f"--{name} {text}: should be positive numbers with commas between")
    return values
