"""How good samples are, how different, how new, and whether their masks tell the truth.

    python scripts/evaluate.py quality --real data_held_out --train data --samples work/samples

Compares samples with held-out real images, seen as the samples show them: overall, per type (the images whose mask
holds it) and inside the masks (crops around the regions, each stretched to the extractor's size).

- fidelity: KID, FID, precision, recall, density, coverage
- diversity: mean perceptual distance of pairs, of all and within the clusters around training images
- labels: empty masks, specks, types, numbers and areas of regions
- agreement: IoU of the samples' masks with those of a segmenter trained on the training images alone
- memorisation: the nearest training image of each sample, near-copies, duplicates

The same measures of real images in the samples' place say what the figures mean: of the training images, and of two
halves of the held-out ones. Intervals are at 95%; --groups says which real images are of one object.

Writes quality.json, quality.md, samples.jsonl (a line per sample) and closest_pairs.png into OUT.
"""

# quality.json. CI is {"value", "interval": [low, high] or null}; null stands for what so few images do not allow.
#
#   settings, class_names, counts
#   provenance      {"extractor", "weights_sha256", "segmenter": {..} or null, "samples": settings in their manifest}
#   overall         block: {"counts": {"samples", "real", "real_groups"}, kid, fid, precision, recall, density,
#                   coverage, diversity: CI, "cluster_diversity": CI and {"clusters", "of", "largest"}}, or
#                   {"counts", "too_few": text}; see seen.py
#   per_type        {type: block}
#   inside_masks    {"overall": block, "per_type": {type: block}}; counts are of crops
#   reference       {"real": .., "train": .. or null}: {"overall", "per_type", "inside_masks"} of real images in the
#                   samples' place: two halves of the held-out ones; the training images against the held-out ones
#   labels          labels.measure_labels
#   memorization    sample_scores.Scores.memorization, and its thresholds as "thresholds"
#   agreement       agreement.agreement_summary of the samples, and of real images as "reference"; or null
#   pictures        {name: file in OUT}
#   notes           lines for a person

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any

import blobfile as bf
import numpy as np
import torch
from PIL import Image
from tqdm import tqdm

from .. import dist_util
from ..errors import InputError
from ..file_io import encode_png, ensure_writable, write_atomic, write_json
from ..generation.class_names import common_class_names
from ..generation.sample_io import recorded_settings
from .agreement import agreement, agreement_summary, train_agreement_segmenter
from .bootstrap import LEVEL
from .closest_pairs import draw_closest_pairs
from .features import DEFAULT_EXTRACTOR, EXTRACTORS, Extractor, load_extractor
from .fidelity import DENSITY_NEIGHBOURS, PRECISION_NEIGHBOURS
from .image_sets import ImageSet, View, read_good, read_samples, read_whole, read_windows, view_of_samples
from .labels import measure_labels
from .sample_scores import notes as notes_on_copies
from .sample_scores import score_samples
from .seen import LEAST_IMAGES, compare, compare_halves, look, look_inside, sources
from .tables import markdown

HELP = "fidelity, diversity, memorisation and labels of samples against real images"
FEW_GROUPS = 10  # resampling fewer shows too little of how much groups differ
STAGES = 7


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--real", required=True, help="data set of real images to measure against, best held out")
    add("--samples", required=True, help="folder of generated samples")
    add("--train", help="data set that the generator was trained on (--real)")
    add("--groups", help="CSV or JSON file: which real images are of one object (each by itself)")
    add("--out", help="folder for the results (SAMPLES/quality)")
    add("--extractor", choices=tuple(EXTRACTORS), default=DEFAULT_EXTRACTOR, help=f"of features ({DEFAULT_EXTRACTOR})")
    add("--windows", type=int, default=4, help="of each real image, where samples show windows of images (4)")
    add("--no_agreement", action="store_true", help="train no segmenter, which takes most of the time")
    add("--device", default="auto", help="auto (default), cpu, cuda or cuda:N")
    add("--seed", type=int, default=0, help="of the resamples and the segmenter (0)")


@dataclass(frozen=True)
class Data:
    """What is compared. Real images without --train: training images are the held-out ones, train_given is False."""

    samples: ImageSet
    real: ImageSet  # as the samples show them
    train: ImageSet  # as the samples show them
    train_whole: ImageSet
    good: ImageSet  # defect-free training images, whole
    view: View
    train_given: bool


def main(args: argparse.Namespace) -> None:
    for flag, least in (("windows", 1), ("seed", 0)):
        if getattr(args, flag) < least:
            raise InputError(f"--{flag} {getattr(args, flag)}: must be at least {least}")
    data = read_data(args)
    out = args.out or bf.join(args.samples, "quality")
    device = dist_util.setup(args.device)
    extractor = load_extractor(args.extractor, device)
    ensure_writable(out, "--out")

    with tqdm(total=STAGES - args.no_agreement, unit="stage") as bar:
        result, rows, picture = measure(data, extractor, args, bar)
    text = markdown(result)
    write_json(bf.join(out, "quality.json"), result)
    write_atomic(bf.join(out, "quality.md"), text.encode())
    write_atomic(bf.join(out, "samples.jsonl"), "".join(json.dumps(row) + "\n" for row in rows).encode())
    write_atomic(bf.join(out, result["pictures"]["closest_pairs"]), encode_png(np.asarray(picture)))
    print(f"{text}\nlook at {bf.join(out, result['pictures']['closest_pairs'])}")


def read_data(args: argparse.Namespace) -> Data:
    """Raises InputError where a set cannot be read, or the sets do not go together."""
    train = args.train or args.real
    folders = {"--samples": args.samples, "--real": args.real} | ({"--train": args.train} if args.train else {})
    class_names = common_class_names(folders)
    samples = read_samples(args.samples, class_names)
    view = view_of_samples(args.samples, samples.masks.shape[1:])
    real, trained = (
        read_windows(root, class_names, view, windows=args.windows, groups=args.groups, flag=flag)
        for root, flag in ((args.real, "--real"), (train, "--train" if args.train else "--real"))
    )
    for images in (samples, real):
        if len(images) < LEAST_IMAGES:
            flag = "--samples" if images is samples else "--real"
            raise InputError(f"{flag} {images.folder}: holds {len(images)} images; measures need {LEAST_IMAGES}")
    if len(set(real.groups)) < 2:
        raise InputError(f"--real {args.real}: all images are of one group, but intervals need at least 2; add some")
    whole = read_whole(train, class_names, view, groups=args.groups, flag="--train" if args.train else "--real")
    return Data(samples, real, trained, whole, read_good(train, class_names, view), view, bool(args.train))


def measure(
    data: Data, extractor: Extractor, args: argparse.Namespace, bar: tqdm
) -> tuple[dict[str, Any], list[dict[str, Any]], Image.Image]:
    """What quality.json holds, the rows of samples.jsonl, and the picture of the closest pairs."""
    key = (args.seed,)
    names = data.samples.class_names

    @contextmanager
    def stage(name: str) -> Iterator[None]:
        bar.set_description(name)
        yield
        bar.update()

    blocks = {}
    for where, see in (("whole", look), ("inside the masks", look_inside)):
        with stage(f"features, {where}"):
            samples, real = (see(images, extractor, *key) for images in (data.samples, data.real))
            train = see(data.train, extractor, *key) if data.train_given else real
        with stage(f"fidelity and diversity, {where}"):
            blocks[where] = {
                "samples": compare(samples, real, train, names, *key),
                "real": compare_halves(real, train if data.train_given else None, names, *key),
                "train": compare(train, real, None, names, *key) if data.train_given else None,
            }

    def part(of: str) -> dict[str, Any] | None:
        whole, inside = blocks["whole"][of], blocks["inside the masks"][of]
        return whole and {**whole, "inside_masks": inside}

    with stage("labels"):
        labels = measure_labels(data.samples, data.real, data.train_whole, LEAST_IMAGES, key)
    agreed, provenance, per_sample = None, None, None
    if not args.no_agreement:
        with stage("agreement"):
            agreed, provenance, per_sample = measure_agreement(data, extractor.device, args.seed)
    with stage("memorisation"):
        scores = score_samples(
            data.samples,
            data.train_whole,
            data.real if data.train_given else None,
            extractor,
            per_sample,
            patches=True,
        )
        limit = scores.thresholds["copy"]["value"]
        picture = draw_closest_pairs(data.samples, data.train_whole, scores.rows, limit)
    result = {
        "command": "quality",
        "settings": {
            **{flag: getattr(args, flag) for flag in ("real", "train", "samples", "groups", "windows", "seed")},
            "extractor": args.extractor,
            "agreement": not args.no_agreement,
            "view": asdict(data.view),
            "least_images": LEAST_IMAGES,
            "neighbours": {"precision_recall": PRECISION_NEIGHBOURS, "density_coverage": DENSITY_NEIGHBOURS},
            "level": LEVEL,
        },
        "class_names": list(names),
        "provenance": {
            **extractor.provenance,
            "segmenter": provenance,
            "samples": recorded_settings(args.samples),
        },
        "counts": count(data),
        **part("samples"),
        "reference": {"real": part("real"), "train": part("train")},
        "labels": labels,
        "memorization": {**scores.memorization, "thresholds": scores.thresholds},
        "agreement": agreed,
        "pictures": {"closest_pairs": "closest_pairs.png"},
        "notes": [],
    }
    result["notes"] = [*notes(result), *notes_on_copies(scores.thresholds)]
    return result, scores.rows, picture


def measure_agreement(data: Data, device: torch.device, seed: int) -> tuple[dict[str, Any], dict[str, Any], np.ndarray]:
    """What quality.json holds as "agreement", which segmenter it was, and the agreement float64 [N] of each sample."""
    segmenter = train_agreement_segmenter(
        data.train_whole,
        data.good if len(data.good) else None,
        data.view,
        seed,
        held_out=data.real if data.train_given else None,
        device=device,
        progress=lambda steps: tqdm(steps, desc="segmenter", unit="step", leave=False),
    )
    summary = {**agreement_summary(segmenter, data.samples), "reference": segmenter.reference}
    return summary, segmenter.provenance, agreement(segmenter, data.samples)


def count(data: Data) -> dict[str, int]:
    """Of images; views are windows of them where samples show windows, else the images again."""
    return {
        "samples": len(data.samples),
        "real_images": len(set(sources(data.real))),
        "real_groups": len(set(data.real.groups)),
        "real_views": len(data.real),
        "train_images": len(data.train_whole),
        "train_views": len(data.train),
        "good_images": len(data.good),
    }


def notes(result: dict[str, Any]) -> list[str]:
    """What a person has to know to read the figures."""
    settings, labels = result["settings"], result["labels"]
    lines = []
    if settings["train"] is None:
        lines.append(
            "Without --train, --real stands for the training images: fidelity is to images that the generator has "
            "seen, and there are no others to tell a near-copy from a likeness."
        )
    if settings["view"]["windows"]:
        lines.append(
            f"The samples show windows of images; they are compared with {settings['windows']} windows of each real "
            "image, cut as in training."
        )
    if settings["groups"] is None:
        lines.append("Each real image is a group of its own; images of one object need --groups, or intervals lie.")
    blocks = [result["overall"], *result["per_type"].values(), *result["inside_masks"]["per_type"].values()]
    if any("too_few" not in block and block["counts"]["real_groups"] < FEW_GROUPS for block in blocks):
        lines.append(f"Intervals are too narrow where real images are of fewer than {FEW_GROUPS} groups.")
    lines += [
        f"{name}: was trained, but no sample has it. Ask inference.py for more samples, or train on more of it."
        for name in labels["missing"]
    ]
    lines += [f"{name}: was trained, but no image of --real has it." for name in labels["missing_in_real"]]
    return lines + [
        "FID falls as counts grow: compare it at equal counts only. KID does not. Compare either under one extractor.",
        "Intervals of precision and density are over samples, those of recall and coverage over real groups; the "
        "other set is taken as it is.",
        "Diversity is a mean perceptual distance without learned weights; hold it against that of the real images.",
    ]
