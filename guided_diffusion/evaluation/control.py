"""Whether samples that were made under conditions are as they were asked to be: of types, with masks, in photographs.

    python scripts/evaluate.py control --real data_held_out --train data --samples work/balanced \\
        --reference work/samples

The samples' manifest says what was asked, and what it names is measured:

- types: how many samples were asked for each and how many masks hold it; what a classifier trained on the training
  images finds in them, against held-out images; KID by type, beside that of samples that were asked for nothing
- masks: what a segmenter trained on real images sees, against held-out images; how much samples of one mask differ
- photographs: the largest difference where nothing was to change (needs --background); whether a classifier can tell
  the borders of inserted defects from those of real ones

Intervals are at 95%; --groups says which real images are of one object. What cannot be known is said, with the reason.

Writes control.json, control.md and pictures into OUT.
"""

# control.json. CI is {"value", "interval": [low, high] or null}; verdicts are those of control_bounds.py, by the bounds
# under "settings".
#
#   settings, class_names, counts, provenance    as in quality.json
#   types         null, or {"counts": control_types.measure_counts, "recall": .measure_recall, "kid": .measure_kid}
#   masks         null, or {"samples", "agreement": control_masks.compare_agreement or null,
#                 "variety": control_masks.measure_variety}
#   photographs   null, or {"samples", "margin", "outside": control_background.measure_outside or {"reason"},
#                 "borders": control_boundary.measure_boundary or {"reason"}}
#   pictures      {name: file in OUT}

from __future__ import annotations

import argparse
from collections.abc import Iterable
from dataclasses import asdict, dataclass, replace
from typing import Any

import blobfile as bf
import numpy as np
from PIL import Image
from tqdm import tqdm

from .. import dist_util
from ..errors import InputError
from ..file_io import encode_png, ensure_writable, write_atomic, write_json
from ..generation.class_names import common_class_names
from ..generation.sample_io import recorded_settings
from .bootstrap import LEVEL
from .control_background import measure_outside, read_photographs
from .control_boundary import AUC_BOUND, measure_boundary
from .control_data import Asked, read_asked
from .control_masks import AGREEMENT_BOUND, LEAST_AGREEMENT, VARIETY_BOUND, compare_agreement, measure_variety
from .control_pictures import draw_asked, draw_borders
from .control_tables import markdown
from .control_types import (
    LEAST_RECALL,
    MOST_FALSE,
    RECALL_BOUND,
    asked_table,
    look_at,
    measure_counts,
    measure_kid,
    measure_recall,
    shown,
)
from .features import DEFAULT_EXTRACTOR, EXTRACTORS, Extractor, load_extractor
from .image_sets import ImageSet, read_samples, read_whole
from .quality import Data, count, measure_agreement, read_data
from .seen import SHOW_PROGRESS_FROM

HELP = "whether samples are as they were asked to be: types, masks, photographs"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--real", required=True, help="data set of held-out real images")
    add("--train", required=True, help="data set that the generator was trained on")
    add("--samples", required=True, help="folder of samples that were made under conditions")
    add("--reference", help="folder of samples of the same kind without conditions, to compare KID by type with")
    add("--background", help="photographs that inference.py was given, to compare the samples with")
    add("--groups", help="CSV or JSON file: which real images are of one object (each by itself)")
    add("--out", help="folder for the results (SAMPLES/control)")
    add("--extractor", choices=tuple(EXTRACTORS), default=DEFAULT_EXTRACTOR, help=f"of features ({DEFAULT_EXTRACTOR})")
    add("--windows", type=int, default=8, help="of each real image, where samples show windows of images (8)")
    add("--no_agreement", action="store_true", help="train no segmenter, which takes most of the time")
    add("--device", default="auto", help="auto (default), cpu, cuda or cuda:N")
    add("--seed", type=int, default=0, help="of the resamples and the segmenter (0)")


@dataclass(frozen=True)
class Conditioned:
    """All that is read: quality's sets, what was asked of the samples, samples asked for nothing, real images whole
    (held-out and training ones), and the photograph under each sample that has one.
    """

    data: Data
    asked: Asked
    reference: ImageSet | None
    whole: ImageSet
    photographs: np.ndarray | None


def main(args: argparse.Namespace) -> None:
    for flag, least in (("windows", 1), ("seed", 0)):
        if getattr(args, flag) < least:
            raise InputError(f"--{flag} {getattr(args, flag)}: must be at least {least}")
    given = read_conditioned(args)
    out = args.out or bf.join(args.samples, "control")
    extractor = load_extractor(args.extractor, dist_util.setup(args.device))
    ensure_writable(out, "--out")

    result, pictures = measure(given, extractor, args)
    text = markdown(result)
    for name, picture in pictures.items():
        write_atomic(bf.join(out, result["pictures"][name]), encode_png(np.asarray(picture)))
    write_json(bf.join(out, "control.json"), result)
    write_atomic(bf.join(out, "control.md"), text.encode())
    print("\n".join([text, *(f"look at {bf.join(out, file)}" for file in result["pictures"].values())]))


def read_conditioned(args: argparse.Namespace) -> Conditioned:
    """Raises InputError where a set cannot be read, the sets do not go together, or a flag has nothing to go with."""
    data = read_data(args)
    asked = read_asked(data.samples)
    for flag, of, what in (
        ("--reference", asked.with_types(), "for types"),
        ("--background", asked.with_backgrounds(), "into photographs"),
    ):
        if getattr(args, flag[2:]) and not of:
            raise InputError(f"{flag}: no sample of --samples {args.samples} was asked {what}; leave it out")
    names, reference = data.samples.class_names, None
    if args.reference:
        common_class_names({"--samples": args.samples, "--reference": args.reference})
        reference = read_samples(args.reference, names, "--reference")
        if reference.masks.shape[1:] != data.view.size:
            raise InputError(
                f"--reference {args.reference}: shows images of another size than --samples {args.samples}; "
                "name samples of the same kind"
            )
    held_out = read_whole(args.real, names, data.view, groups=args.groups)
    photographs = None
    if args.background:
        files = [asked.backgrounds[i] for i in asked.with_backgrounds()]
        photographs = read_photographs(args.background, files, data.view.size)
    return Conditioned(data, asked, reference, together(held_out, data.train_whole), photographs)


def together(first: ImageSet, second: ImageSet) -> ImageSet:
    """The images of both, as lists."""
    parts = {
        field: [*getattr(first, field), *getattr(second, field)] for field in ("images", "masks", "names", "groups")
    }
    return replace(first, **parts)


def measure(
    given: Conditioned, extractor: Extractor, args: argparse.Namespace
) -> tuple[dict[str, Any], dict[str, Image.Image]]:
    """What control.json holds, and the pictures by name."""
    data, pictures = given.data, {}
    result = {
        "command": "control",
        "settings": {
            **{flag: getattr(args, flag) for flag in ("real", "train", "samples", "reference", "background", "groups")},
            **{flag: getattr(args, flag) for flag in ("windows", "seed", "extractor")},
            "view": asdict(data.view),
            "bounds": {
                "recall": RECALL_BOUND,
                "agreement": AGREEMENT_BOUND,
                "variety": VARIETY_BOUND,
                "auc": AUC_BOUND,
            },
            "false_positives": MOST_FALSE,
            "least_recall": LEAST_RECALL,
            "least_agreement": LEAST_AGREEMENT,
            "level": LEVEL,
        },
        "class_names": list(data.samples.class_names),
        "provenance": {**extractor.provenance, "segmenter": None, "samples": recorded_settings(args.samples)},
        "counts": count(data),
        **dict.fromkeys(("types", "masks", "photographs")),
    }
    if given.asked.with_types():
        result["types"], pictures["asked"] = measure_types(given, extractor, args.seed)
    if given.asked.with_masks():
        result["masks"], result["provenance"]["segmenter"] = measure_masks(given, extractor, args)
    if given.asked.with_backgrounds():
        result["photographs"], pictures["borders"] = measure_photographs(given, extractor, args.seed)
    pictures = {name: picture for name, picture in pictures.items() if picture}
    result["pictures"] = {name: f"{name}.png" for name in pictures}
    return result, pictures


def measure_types(given: Conditioned, extractor: Extractor, seed: int) -> tuple[dict[str, Any], Image.Image | None]:
    data, at = given.data, given.asked.with_types()
    samples, names = data.samples.take(at), data.samples.class_names
    asked = asked_table([given.asked.types[i] for i in at], len(names))
    sets = {"train": data.train, "real": data.real, "samples": samples}
    if given.reference:
        sets["reference"] = given.reference
    features = look_at(sets, extractor, progress)
    result = {
        "counts": measure_counts(asked, shown(samples), names),
        "recall": measure_recall(data.train, data.real, samples, asked, features),
        "kid": measure_kid(data.real, asked, given.reference, features, (seed,)),
    }
    return result, draw_asked(samples, asked)


def measure_masks(
    given: Conditioned, extractor: Extractor, args: argparse.Namespace
) -> tuple[dict[str, Any], dict[str, Any] | None]:
    """What is measured, and which segmenter did."""
    at = given.asked.with_masks()
    data = replace(given.data, samples=given.data.samples.take(at))
    files = [given.asked.masks[i] for i in at]
    agreement = segmenter = None
    if not args.no_agreement:
        summary, segmenter, _ = measure_agreement(data, extractor.device, args.seed)
        agreement = compare_agreement(summary)
    variety = measure_variety(data.samples, files, data.real, extractor, (args.seed,))
    return {"samples": len(at), "agreement": agreement, "variety": variety}, segmenter


def measure_photographs(
    given: Conditioned, extractor: Extractor, seed: int
) -> tuple[dict[str, Any], Image.Image | None]:
    at, margin = given.asked.with_backgrounds(), given.asked.margin
    samples = replace(given.data.samples.take(at), groups=[given.asked.backgrounds[i] for i in at])
    if margin is None:
        unknown = {"reason": "the manifest does not say which margin was drawn anew"}
        return {"samples": len(at), "margin": None, "outside": unknown, "borders": unknown}, None
    outside: dict[str, Any] = {"reason": "--background was not given"}
    if given.photographs is not None:
        outside = measure_outside(samples, given.photographs, margin)
    borders, patches = measure_boundary(given.whole, samples, margin, extractor, (seed,))
    return {"samples": len(at), "margin": margin, "outside": outside, "borders": borders}, draw_borders(patches)


def progress(starts: range) -> Iterable[int]:
    return tqdm(starts, desc="features", unit="batch", leave=False, disable=len(starts) < SHOW_PROGRESS_FROM)
