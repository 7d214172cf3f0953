"""Keep the samples that are worth training on, and say why the others were dropped.

    python scripts/curate.py --samples work/samples --train data --real data_held_out --out work/curated --per_type 100

Drops empty masks and specks, near-copies of training images, near-duplicates of other samples, clipped colours, and
masks that a segmenter trained on real images does not agree with; then balances the types. What "near" and "agree"
mean is calibrated on the held-out images of --real; guided_diffusion/evaluation/curation.py has the rules.

--list reads what a person marked in the report: {"keep": ["000012", ...], "drop": [...]}. Drop wins over all measures,
keep overrides them.

Writes the kept samples into OUT as another sample folder, files unchanged and numbers kept, kept.jsonl, dropped.jsonl
(name, reason, score) and curate.json (limits and counts). SAMPLES is only read. inference.py does not add to OUT.
"""

from __future__ import annotations

import argparse
from collections import Counter
from collections.abc import Sequence
from typing import Any

import blobfile as bf
import numpy as np
import torch
from tqdm import tqdm

from .. import dist_util
from ..errors import InputError
from ..evaluation.agreement import agreement, train_agreement_segmenter
from ..evaluation.curation import RULES, Curated, agreement_limits, curate, read_list, write_curated
from ..evaluation.features import DEFAULT_EXTRACTOR, EXTRACTORS, load_extractor
from ..evaluation.image_sets import ImageSet, View, read_good, read_samples, read_whole, read_windows, view_of_samples
from ..evaluation.sample_scores import notes, score_samples
from ..file_io import ensure_writable, write_json
from ..generation.class_names import common_class_names
from ..generation.sample_io import read_manifest


def parse_args(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--samples", required=True, help="folder of generated samples")
    add("--train", required=True, help="data set that the generator was trained on")
    add("--out", required=True, help="folder for the kept samples, new or empty")
    add("--real", help="data set of held-out real images, which set the limits (the training images)")
    add("--groups", help="CSV or JSON file: which real images are of one object (each by itself)")
    add("--per_type", type=int, metavar="N", help="keep about so many samples with each type (all that pass)")
    add("--list", metavar="FILE", help="JSON file of names to keep and to drop, as the report exports it")
    add(
        "--min_agreement",
        default="auto",
        metavar="X|auto|off",
        help="least IoU of a mask with a segmenter's; auto: by type, what all but the worst 5%% of --real reach (auto)",
    )
    add("--extractor", choices=tuple(EXTRACTORS), default=DEFAULT_EXTRACTOR, help=f"of features ({DEFAULT_EXTRACTOR})")
    add("--device", default="auto", help="auto (default), cpu, cuda or cuda:N")
    add("--seed", type=int, default=0, help="of the segmenter (0)")
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> None:
    args = parse_args(argv)
    for flag, least in (("per_type", 1), ("seed", 0)):
        if getattr(args, flag) is not None and getattr(args, flag) < least:
            raise InputError(f"--{flag} {getattr(args, flag)}: must be at least {least}")
    wish = parse_min_agreement(args.min_agreement)
    if bf.exists(args.out) and (not bf.isdir(args.out) or next(iter(bf.listdir(args.out)), None)):
        raise InputError(f"--out {args.out}: is not empty; name a new folder, or remove what is there")

    samples, manifest, view = read(args.samples, args.train, args.real)
    names = samples.class_names
    keep, drop = read_list(args.list, samples.names) if args.list else (set(), set())
    train = read_whole(args.train, names, view, groups=args.groups, flag="--train")
    real = read_windows(args.real, names, view, groups=args.groups) if args.real else None
    device = dist_util.setup(args.device)
    extractor = load_extractor(args.extractor, device)
    ensure_writable(args.out, "--out")

    limits: float | dict[str, float] | None = wish if isinstance(wish, float) else None
    values = None
    if limits is not None or (wish == "auto" and real):
        values, of_real = measure_agreement(samples, train, real, view, device, args)
        if wish == "auto":
            limits = agreement_limits(of_real, real)
            print("least agreement asked for: " + ", ".join(f"{name} {limit:.2f}" for name, limit in limits.items()))
    elif wish == "auto":
        print("no --real: no sample is dropped because a segmenter disagrees with its mask")
    scores = score_samples(samples, train, real, extractor, values)
    for line in notes(scores.thresholds):
        print(line)
    curated = curate(scores, min_agreement=limits, per_type=args.per_type, keep=keep, drop=drop)
    counted = Counter(row["rule"] for row in curated.dropped)
    if not curated.kept:
        reasons = ", ".join(f"{rule} {counted[rule]}" for rule in RULES if counted[rule])
        raise InputError(f"--samples {args.samples}: all {len(samples)} samples would be dropped ({reasons})")

    settings = {
        flag: getattr(args, flag) for flag in ("samples", "train", "real", "groups", "per_type", "list", "seed")
    }
    about = {"per_type": args.per_type, "min_agreement": limits, "listed": bool(args.list), "of": len(samples)}
    result = {
        "command": "curate",
        "settings": settings,
        "provenance": extractor.provenance,
        "limits": {**scores.thresholds, "agreement": limits},
        "uncurated": scores.memorization,
        "counts": {"samples": len(samples), "kept": len(curated.kept), "dropped": dict(counted)},
        "per_type": count_types(scores.rows, curated, names),
    }
    write_json(bf.join(args.out, "curate.json"), result)
    write_curated(args.out, args.samples, manifest, curated, names, about)
    print(table(result, curated, args.per_type))
    sheet = bf.join(args.out, "contact_sheet.png")
    print(f"\n{len(curated.kept)} of {len(samples)} samples in {args.out}; look at {sheet}")


def parse_min_agreement(text: str) -> float | str:
    """auto, off or a number from 0 to 1. Raises InputError."""
    if text in ("auto", "off"):
        return text
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value <= 1:
        raise InputError(f"--min_agreement {text}: must be auto, off or a number from 0 to 1")
    return value


def read(folder: str, train: str, real: str | None) -> tuple[ImageSet, dict[str, Any], View]:
    """The samples that the manifest lists, its rows by name, and how they show the world. Raises InputError."""
    path = bf.join(folder, "manifest.jsonl")
    if not bf.exists(path):
        raise InputError(f"--samples {folder}: has no manifest.jsonl; name a folder that inference.py wrote")
    manifest = {f"{row['index']:06d}": row for row in read_manifest(path)}
    names = common_class_names({"--samples": folder, "--train": train} | ({"--real": real} if real else {}))
    samples = read_samples(folder, names)
    samples = samples.take([i for i, name in enumerate(samples.names) if name in manifest])
    if not len(samples):
        raise InputError(f"--samples {folder}: no image is in its manifest.jsonl; generate samples with inference.py")
    return samples, manifest, view_of_samples(folder, samples.masks.shape[1:])


def measure_agreement(
    samples: ImageSet,
    train: ImageSet,
    real: ImageSet | None,
    view: View,
    device: torch.device,
    args: argparse.Namespace,
) -> tuple[np.ndarray, np.ndarray | None]:
    """Agreement of the samples, and of the held-out images, with a segmenter trained on the training images."""
    good = read_good(args.train, train.class_names, view)
    segmenter = train_agreement_segmenter(
        train,
        good if len(good) else None,
        view,
        args.seed,
        held_out=real,
        device=device,
        progress=lambda steps: tqdm(steps, desc="training a segmenter", unit="step", leave=False),
    )
    return agreement(segmenter, samples), real and agreement(segmenter, real)


def count_types(rows: Sequence[dict[str, Any]], curated: Curated, names: Sequence[str]) -> dict[str, dict[str, int]]:
    kept = {row["name"] for row in curated.kept}
    return {
        name: {
            "samples": sum(name in row["types"] for row in rows),
            "kept": sum(name in row["types"] for row in rows if row["name"] in kept),
        }
        for name in names
    }


def table(result: dict[str, Any], curated: Curated, wish: int | None) -> str:
    """Dropped by rule, and kept by type."""
    lines = [f"{'dropped':14} {'samples':>8}"]
    lines += [
        f"{rule:14} {result['counts']['dropped'][rule]:8,}" for rule in RULES if rule in result["counts"]["dropped"]
    ]
    lines += ["", f"{'type':14} {'samples':>8} {'kept':>8}"]
    for name, count in result["per_type"].items():
        short = f"   {curated.wanting[name]} short of {wish}" if name in curated.wanting else ""
        lines.append(f"{name:14} {count['samples']:8,} {count['kept']:8,}{short}")
    return "\n".join(lines)
