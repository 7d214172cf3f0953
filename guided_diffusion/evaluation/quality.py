"""Measure fidelity, diversity, novelty and labels of samples.

    python scripts/evaluate.py quality --real data_held_out --train data --samples work/samples

Compares samples with held-out real images, at the samples' size or in their windows. Real images measured in the
samples' place are the reference.
"""

import argparse
import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from typing import Any

import blobfile as bf

from .. import dist_util
from ..data.records import recorded_settings
from ..errors import InputError, check_range
from ..file_io import ensure_writable, write_atomic
from .copies import draw_closest_pairs
from .features import load_extractor
from .fidelity import LEAST_IMAGES, MEASURES, Seen, compare
from .image_sets import WINDOWS, Row, add_flags, read_sets, sources
from .sample_scores import measure_asked, measure_labels, measure_limits, memorization, score_samples
from .sample_scores import notes as notes_on_copies
from .segmenter import agreement, reserve, train_agreement_segmenter
from .tables import number, table, write_results

TITLES = {"samples": "samples", "train": "training images", "real": "real"}
ALIKE, PARTLY = 0.75, 0.25  # shares of the precision of real images from which on samples look like them, or some do
SMOOTH = 1.5  # dB that the top octave of blurry samples lacks
FEW_GROUPS = 10  # resampling fewer shows too little of how much groups differ


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_flags(parser, ("real", "samples"), ("train", "groups", "device", "seed"))
    parser.add_argument("--out", help="folder for the results (SAMPLES/quality)")
    parser.add_argument("--no_agreement", action="store_true", help="train no segmenter, which takes most of the time")


def main(args: argparse.Namespace) -> None:
    """Raises InputError. A measure is {"value", "interval": [low, high] or None}, or None where images are too few."""
    check_range(args, seed=(0, 10**18))
    samples, sets = read_sets(args)
    real = sets.seen["real"]
    for flag, images in (("--samples", samples), ("--real", real)):
        if len(images) < LEAST_IMAGES:
            raise InputError(f"{flag} {images.folder}: holds {len(images)} images; measures need {LEAST_IMAGES}")
    real.in_groups("--real")
    out = args.out or bf.join(args.samples, "quality")
    extractor = load_extractor(dist_util.setup(args.device))
    ensure_writable(out, "--out")

    key, shown = (args.seed,), {"samples": samples, **sets.seen}
    seen = {side: Seen.look(images, extractor, *key) for side, images in shown.items()}
    # In the samples' place: the training images, and one half of the real images against the other.
    overall = {side: compare(None if side == "real" else own, seen["real"], key) for side, own in seen.items()}
    per_type = [compare(seen["samples"], seen["real"], key, k + 1) for k in range(len(samples.class_names))]
    segmenter = agreed = per_sample = None
    if not args.no_agreement:
        judged = reserve(sets, args.seed)
        segmenter = train_agreement_segmenter(judged, args.seed, extractor.device)
        per_sample, summary = agreement(segmenter, samples)
        agreed = {**summary, "reference": agreement(segmenter, judged.held_out)[1] if len(judged.held_out) else None}
    limits = measure_limits(sets.train, sets.trained, sets.held_out)
    rows, _ = score_samples(samples, sets.train, limits, per_sample)
    provenance = {"segmenter": segmenter and segmenter.provenance, "samples": recorded_settings(args.samples)}
    counts = {"real_images": len(set(sources(real))), "real_groups": len(set(real.groups))}
    counts |= {"samples": len(samples), "train_images": len(sets.train), "good_images": len(sets.good)}
    result = {
        "command": "quality",
        "settings": {**vars(args), "view": asdict(sets.view)},
        "class_names": list(samples.class_names),
        "provenance": {**extractor.provenance, **provenance},
        "counts": counts,
        "overall": overall["samples"],
        "per_type": dict(zip(samples.class_names, per_type, strict=True)),
        "reference": {side: {"overall": overall[side]} if side in overall else None for side in ("real", "train")},
        "labels": measure_labels(shown, limits["speck"], key),
        "memorization": {**memorization(rows), "thresholds": limits},
        "agreement": agreed,
        "asked": measure_asked(samples),
    }
    result["verdict"] = judge(result)
    result["notes"] = [*notes(result), *notes_on_copies(limits)]
    write_atomic(bf.join(out, "samples.jsonl"), "".join(json.dumps(row) + "\n" for row in rows).encode())
    pairs = draw_closest_pairs(samples, sets.train, rows, limits["copy"]["value"])
    write_results(out, result, markdown(result), {"closest_pairs.png": pairs})
    print(result["verdict"]["sentence"])


def judge(result: Row) -> Row:
    """In words: {"looks": "real", "partly", "blurry", "wrong" or None where images are too few, "sentence"}."""
    own, real = result["overall"], result["reference"]["real"]["overall"]
    if result["labels"]["empty"]["samples"]["value"] == 1:
        return {"looks": "wrong", "sentence": "All masks of the samples are empty: train longer."}
    precision, best = (of["precision"]["value"] if of.get("precision") else None for of in (own, real))
    if precision is None or not best:
        return {"looks": None, "sentence": "Too few images to say whether the samples look like real ones."}
    dull = own["spectrum"]["value"] < -SMOOTH
    looks = "real" if precision >= ALIKE * best else "partly" if precision >= PARTLY * best else "wrong"
    looks = "blurry" if looks == "wrong" and dull else looks
    said = {
        "real": "The samples look like real images",
        "partly": "Some samples look like real images, others do not yet: train longer",
        "blurry": "The samples are still blurry: train longer",
        "wrong": "The samples do not look like real images yet: train longer",
    }
    of = "precision {:.2f}, recall {:.2f}, KID x 1000 {:.1f}"
    figures = ([side[key]["value"] for key in ("precision", "recall", "kid")] for side in (own, real))
    shown = (of.format(precision, recall, 1000 * kid) for precision, recall, kid in figures)
    sentence = "{} ({}; real ones among themselves: {}).".format(said[looks], *shown)
    if own["recall"]["value"] < PARTLY * real["recall"]["value"]:
        sentence += " They show little of the variety of real ones: if longer training does not help, add photographs."
    return {"looks": looks, "sentence": sentence}


def notes(result: Row) -> list[str]:
    """What a person has to know to read the figures."""
    settings, labels = result["settings"], result["labels"]
    blocks = (result["overall"], *result["per_type"].values())
    few = any(block["counts"]["real_groups"] < FEW_GROUPS for block in blocks if "kid" in block)
    kids = [number(of and of["overall"].get("kid"), 1000, 1) for of in (result, result["reference"]["train"])]
    told = {
        "KID x 1000 of the samples is {}; that of the training images against the same real images, which samples can "
        "hardly undercut, {}.".format(*kids): "-" not in kids,
        "Without --train, --real stands for the training images: fidelity is to images that the generator has seen, "
        "and there are no others to tell a near-copy from a likeness.": not settings["train"],
        f"The samples show windows of images; they are compared with {WINDOWS} windows of each real image, cut as in "
        "training.": settings["view"]["windows"],
        "Each real image is a group of its own; images of one object need --groups.": not settings["groups"],
        f"Intervals are too narrow where real images are of fewer than {FEW_GROUPS} groups.": few,
    }
    lines = [line for line, applies in told.items() if applies]
    ask = "Ask inference.py for more samples, or train on more of it."
    lines += [f"{name}: was trained, but no sample has it. {ask}" for name in labels["missing"]]
    return lines + [f"{name}: was trained, but no image of --real has it." for name in labels["missing_in_real"]]


def markdown(result: Row) -> str:
    """quality.md: measures in rows; sets, or types, in columns."""
    counts, settings, provenance = (result[part] for part in ("counts", "settings", "provenance"))
    labels, agreed, asked, copies = (result[part] for part in ("labels", "agreement", "asked", "memorization"))
    limits, reference, per_type = copies["thresholds"], result["reference"], labels["per_type"]
    sides = {"samples": result, **reference}
    masks = [_row(title, labels[key].values(), 100, 1) for key, title in (("empty", "empty"), ("speck", "specks only"))]
    measured = (("share", "in % of", 100), ("regions", "regions,", 1), ("area", "median area in %,", 100))
    regions = [
        _row(f"{title} {side}", (own[part][side] for own in per_type.values()), factor)
        for part, title, factor in measured
        for side in labels["empty"]
    ]
    near = []
    for key, title, by in (("copies", "a training image", "copy"), ("duplicates", "another sample", "duplicate")):
        row = _row(f"near-copies of {title}", (copies[key], limits[by]["false_alarms"]), 100, 1)
        near.append([*row, f"{limits[by]['value']:.3f}"])
    found = ", ".join(f"{kind} {100 * share:.0f}%" for kind, share in limits["copy"]["planted_found"].items())
    parts = [
        "# Quality of the samples\n",
        f"**{result['verdict']['sentence']}**\n",
        f"{counts['samples']} samples of {settings['samples']} against {counts['real_images']} real images "
        f"({counts['real_groups']} groups) of {settings['real']}. Features: {provenance['extractor']}, "
        f"weights {provenance['weights_sha256'][:12]}. In brackets: 95% intervals; -: too few images.\n",
        "".join(f"- {note}\n" for note in result["notes"]),
        "## Overall\n",
        _measures({title: side["overall"] for key, title in TITLES.items() if (side := sides[key])}, list(MEASURES)),
        "Real: distances from one half of the real images to the other; diversity of all of them. Top octave: power at "
        "a quarter to half a cycle per pixel against that of real images; below 0 is too smooth.\n",
        "## Per type\n",
        _measures(result["per_type"], ["kid"]),
        "## Labels\n",
        table(["masks, in %", *labels["empty"]], masks),
        f"Trained types in no sample: {', '.join(labels['missing']) or 'none'}.\n",
        table(["type", *per_type], regions),
        "## Memorisation\n",
        table(["in %", "samples", "false alarms among real images", "distance under"], near),
        f"Thresholds: {limits['copy']['calibrated_on']}, {limits['copy']['images']} in {limits['copy']['groups']} "
        f"groups. Planted copies of training images found: {found}.\n",
    ]
    if agreed:
        columns = {"samples": agreed} | ({"real": agreed["reference"]} if agreed["reference"] else {})
        rows = [["images", *(of["images"] for of in columns.values())]]
        rows.append(_row("mean of an image", (of["mean"] for of in columns.values())))
        rows += [_row(f"{k}, all pixels", (of["per_type"][k] for of in columns.values())) for k in per_type]
        parts += ["## Agreement with a segmenter\n", table(["IoU", *columns], rows)]
    if asked:
        head = ["type", "samples asked for it", "masks that hold it", "of those asked for it, in %"]
        rows = [[k, own["asked"], own["present"], number(own["obeyed"], 100, 1)] for k, own in asked.items()]
        parts += ["## As asked for\n", table(head, rows)]
    return "\n".join(parts)


def _row(title: str, found: Iterable[Row | None], *how: Any) -> list[str]:
    return [title, *(number(ci, *how) for ci in found)]


def _measures(blocks: dict[str, Row], measures: Sequence[str]) -> str:
    """Measures of blocks by their titles."""
    counts = ["{samples} / {real} in {real_groups} groups".format(**block["counts"]) for block in blocks.values()]
    rows = []
    for key in measures:
        title, *how = MEASURES[key]
        rows.append(_row(title, (block.get(key) for block in blocks.values()), *how))
    return table(["measure", *blocks], [["compared / with", *counts], *rows])
