"""How good samples are, how different, how new, and whether their masks tell the truth.

    python scripts/evaluate.py quality --real data_held_out --train data --samples work/samples

Compares samples with held-out real images, seen as the samples show them: KID, FID, precision, recall, density,
coverage, diversity, labels, near-copies and duplicates, agreement with a segmenter trained on the training images
alone, and of samples generated under conditions, whether they are as asked for. The same measures of real images in
the samples' place say what the figures mean. Intervals are at 95%.

Writes quality.json, quality.md, samples.jsonl (a line per sample) and closest_pairs.png into OUT.
"""

# quality.json. CI is {"value", "interval": [low, high] or null}; null stands for what so few images do not allow.
#
#   settings, class_names, counts, notes: lines for a person, pictures: {name: file in OUT}
#   provenance      {"extractor", "weights_sha256", "segmenter": {..} or null, "samples": settings in their manifest}
#   overall         {"counts": {"samples", "real", "real_groups"}, kid, fid, precision, recall, density, coverage,
#                   diversity: CI}, or {"counts", "too_few": text}
#   per_type        {type: {"counts", "kid": CI}, or {"counts", "too_few": text}}, of the images whose mask holds it
#   reference       {"real": .., "train": .. or null}: {"overall", "per_type"} of real images in the samples' place: two
#                   halves of the held-out ones; the training images against the held-out ones
#   labels          {"empty", "speck": {side: CI}, "trained", "missing", "missing_in_real": types, "per_type": {type:
#                   {"share", "regions", "area": {side: CI}}}}; sides are "samples", "real" and with --train "train"
#   memorization    {"copies", "duplicates": CI, "thresholds": sample_scores.Limits.as_json}
#   agreement       scores.agreement of the samples, and of real images as "reference"; or null
#   asked           null where nothing was asked for, else {part: null or ..}:
#     types         {type: {"asked", "present": numbers of samples, "obeyed": CI of the share of those asked for it}}
#     masks         {"samples", "agreement": {"samples", "real": CI of the mean IoU with the segmenter} or null}
#     photographs   {"samples", "margin", "outside": asked.measure_outside, or null without --background}

from __future__ import annotations

import argparse
import json
from dataclasses import asdict
from typing import Any

import blobfile as bf
import numpy as np
from PIL import Image

from .. import dist_util
from ..errors import InputError, check_least
from ..file_io import encode_png, ensure_writable, write_atomic, write_json
from ..generation.sample_io import recorded_settings
from . import asked as conditions
from .bootstrap import mean_interval
from .copies import draw_closest_pairs
from .features import Extractor, load_extractor
from .fidelity import LEAST_IMAGES, Seen, compare
from .image_sets import Sets, read_sets, sources
from .image_sets import add_arguments as add_set_arguments
from .labels import measure_labels
from .sample_scores import Limits, score_samples
from .sample_scores import notes as notes_on_copies
from .scores import agreement, train_agreement_segmenter
from .tables import markdown

HELP = "fidelity, diversity, memorisation and labels of samples against real images"
FEW_GROUPS = 10  # resampling fewer shows too little of how much groups differ


def add_arguments(parser: argparse.ArgumentParser) -> None:
    optional = {"train": "--real", "groups": "each by itself", "out": "SAMPLES/quality"}
    seed = "of the resamples and the segmenter"
    add_set_arguments(parser, required=("real", "samples"), **optional, seed=seed)
    add = parser.add_argument
    add("--background", help="photographs that inference.py was given, to compare the samples with")
    add("--windows", type=int, default=4, help="of each real image, where samples show windows of images (4)")
    add("--no_agreement", action="store_true", help="train no segmenter, which takes most of the time")


def main(args: argparse.Namespace) -> None:
    check_least(args, windows=1, seed=0)
    sets = read_sets(args, args.windows)
    for flag, images in (("--samples", sets.samples), ("--real", sets.real)):
        if len(images) < LEAST_IMAGES:
            raise InputError(f"{flag} {images.folder}: holds {len(images)} images; measures need {LEAST_IMAGES}")
    if len(set(sets.real.groups)) < 2:
        raise InputError(f"--real {args.real}: all images are of one group, but intervals need at least 2; add some")
    asked = conditions.measure_asked(sets.samples, args.background)
    out = args.out or bf.join(args.samples, "quality")
    extractor = load_extractor(args.extractor, dist_util.setup(args.device))
    ensure_writable(out, "--out")

    result, rows, picture = measure(args, sets, asked, extractor)
    text = markdown(result) + (conditions.markdown(result["asked"]) if result["asked"] else "")
    write_json(bf.join(out, "quality.json"), result)
    write_atomic(bf.join(out, "quality.md"), text.encode())
    write_atomic(bf.join(out, "samples.jsonl"), "".join(json.dumps(row) + "\n" for row in rows).encode())
    write_atomic(bf.join(out, result["pictures"]["closest_pairs"]), encode_png(np.asarray(picture)))
    print(f"{text}\nlook at {bf.join(out, result['pictures']['closest_pairs'])}")


def measure(
    args: argparse.Namespace, sets: Sets, asked: tuple[dict[str, Any] | None, list[int]], extractor: Extractor
) -> tuple[dict[str, Any], list[dict[str, Any]], Image.Image]:
    """What quality.json holds, the rows of samples.jsonl, and the picture of the closest pairs."""
    trained, held_out = sets.trained or sets.real, sets.real if sets.trained else None
    key, names = (args.seed,), sets.samples.class_names
    shown = {"samples": sets.samples, "real": sets.real} | ({"train": sets.trained} if sets.trained else {})
    seen = {side: Seen.look(images, extractor, *key) for side, images in shown.items()}
    blocks = {side: compare(seen[side], seen["real"], names, *key) for side in shown}
    blocks["real"] = compare(None, seen["real"], names, *key)
    segmenter, agreed, per_sample = None, None, None
    if not args.no_agreement:
        segmenter, reference = train_agreement_segmenter(
            sets.train, sets.good, sets.view, args.seed, held_out=held_out, device=extractor.device
        )
        per_sample, summary = agreement(segmenter, sets.samples)
        agreed = {**summary, "reference": reference}
        obeyed, of_masks = asked
        if of_masks and (own := mean_interval(per_sample[of_masks], [sets.samples.groups[i] for i in of_masks])):
            obeyed["masks"]["agreement"] = {"samples": own, "real": reference and reference["mean"]}
    limits = Limits.measure(sets.train, trained, held_out)
    scores = score_samples(sets.samples, sets.train, limits, per_sample)
    picture = draw_closest_pairs(sets.samples, sets.train, scores.rows, limits.copy.value)
    flags = ("real", "train", "samples", "background", "groups", "windows", "seed", "extractor")
    result = {
        "command": "quality",
        "settings": {
            **{flag: getattr(args, flag) for flag in flags},
            "agreement": not args.no_agreement,
            "view": asdict(sets.view),
        },
        "class_names": list(names),
        "provenance": {
            **extractor.provenance,
            "segmenter": segmenter and segmenter.provenance,
            "samples": recorded_settings(args.samples),
        },
        "counts": {
            "samples": len(sets.samples),
            "real_images": len(set(sources(sets.real))),
            "real_groups": len(set(sets.real.groups)),
            "real_views": len(sets.real),  # windows of them where samples show windows, else the images again
            "train_images": len(sets.train),
            "train_views": len(trained),
            "good_images": len(sets.good),
        },
        **blocks["samples"],
        "reference": {"real": blocks["real"], "train": blocks.get("train")},
        "labels": measure_labels(shown, sets.train, key),
        "memorization": {**scores.memorization, "thresholds": scores.thresholds},
        "agreement": agreed,
        "asked": asked[0],
        "pictures": {"closest_pairs": "closest_pairs.png"},
    }
    result["notes"] = [*notes(result), *notes_on_copies(scores.thresholds)]
    return result, scores.rows, picture


def notes(result: dict[str, Any]) -> list[str]:
    """What a person has to know to read the figures."""
    settings, labels = result["settings"], result["labels"]
    blocks = [block for block in (result["overall"], *result["per_type"].values()) if "too_few" not in block]
    few = any(block["counts"]["real_groups"] < FEW_GROUPS for block in blocks)
    told = {
        "Without --train, --real stands for the training images: fidelity is to images that the generator has seen, "
        "and there are no others to tell a near-copy from a likeness.": not settings["train"],
        f"The samples show windows of images; they are compared with {settings['windows']} windows of each real image, "
        "cut as in training.": settings["view"]["windows"],
        "Each real image is a group of its own; images of one object need --groups.": not settings["groups"],
        f"Intervals are too narrow where real images are of fewer than {FEW_GROUPS} groups.": few,
        "FID falls as counts grow: compare it at equal counts only. KID does not.": True,
    }
    lines = [line for line, applies in told.items() if applies]
    ask = "Ask inference.py for more samples, or train on more of it."
    lines += [f"{name}: was trained, but no sample has it. {ask}" for name in labels["missing"]]
    return lines + [f"{name}: was trained, but no image of --real has it." for name in labels["missing_in_real"]]
