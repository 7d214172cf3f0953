#!/usr/bin/env python3
"""Turn a labelled defect data set of any usual layout into a training data set.

    python scripts/prepare_data.py bottle data/bottle                         # MVTec AD, found by its folders
    python scripts/prepare_data.py photos data/parts --val_fraction 0.2 --group_regex '(part\\d+)'
    python scripts/prepare_data.py DIR data/parts --colormap crack=255,0,0 hole=0,255,0

OUT gets test/ (images), converted_ground_truth/ (index masks) and dataset.json (label map, sources, types, sizes,
hashes); with a split one such folder per part, OUT/train, OUT/val. SOURCE is only read. Everything is checked before
anything is written; run again, it goes on where it stopped, writes what is missing or has changed and removes what is
gone from SOURCE.
docs/data.md shows the layouts.
"""

from __future__ import annotations

import argparse
import re
from collections import Counter
from dataclasses import asdict, replace
from typing import Any

import blobfile as bf

from ..data.index_masks import DrawingRule
from ..errors import InputError, unknown_name
from ..file_io import lies_in
from ..parallel import default_workers
from ..prepare.first_look import survey
from ..prepare.layouts import FORMATS, Dataset, Options, read_layout
from ..prepare.partition import find_groups, listed_parts, parts_of
from ..prepare.preparation import Job, Recipe, plan_set, write_set
from ..prepare.prepare_report import report_leaks, report_overlaps, report_part, report_straddling
from ..prepare.shaping import FITS
from ..prepare.split_file import SplitFile, parse_colormap, parse_label_map, read_split, relative_to


def parse_args(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("source", metavar="SOURCE", help="folder of the data set")
    add("out", metavar="OUT", help="folder for the training data set")
    add(
        "--format",
        choices=("auto", *FORMATS),
        default="auto",
        help="layout of SOURCE (default auto)",
    )
    add("--label_map", metavar="MAP", help="crack,hole or crack=1,hole=2 or a JSON file (default: what SOURCE tells)")
    add("--mask_values", choices=("auto", "index", "binary", "colour"), default="auto", help="what mask files hold")
    add("--mask_threshold", type=int, default=127, help="defective is a mask value above this (default 127)")
    add(
        "--colormap",
        nargs="+",
        default=[],
        metavar="NAME=R,G,B",
        help="types of colours or grey levels",
    )
    add("--priority", default="", metavar="TYPES", help="types that win where masks overlap, the first most (a,b,c)")
    add("--line_width", type=int, default=10, help="pixels, of lines drawn in labelme (default 10)")
    add("--type_regex", metavar="REGEX", help="its first group, searched in a file's stem, is the type")
    add("--shots", type=int, metavar="N", help="OUT/train: the first N images of each type; OUT/val: the rest")
    add("--val_fraction", type=float, metavar="F", help="OUT/val: this share of each type; OUT/train: the rest")
    add("--split", metavar="FILE", help="JSON or CSV of parts (default SOURCE/split.json, if there)")
    add("--part", metavar="NAME", nargs="+", help="take these parts of the split only, together into OUT")
    add("--group_regex", metavar="REGEX", help="images whose path gives the same first group show one part")
    add("--group_csv", metavar="FILE", help="rows image,group: images of one group show one part")
    add("--seed", type=int, default=0, help="of --val_fraction and of the tiles without defects (default 0)")
    add("--keep_good", action="store_true", help="take defect-free images too, without masks")
    add("--fit", choices=FITS, help="bring images to --size: stretch, crop around the defects, or pad")
    add("--size", type=int, nargs="+", metavar="PX", help="height and width for --fit; one number for both")
    add("--tile", type=int, metavar="PX", help="cut images into square tiles of this side")
    add("--overlap", type=int, default=0, metavar="PX", help="of neighbouring tiles, at least (default 0)")
    add(
        "--keep_empty",
        type=float,
        default=0.1,
        metavar="F",
        help="share of tiles without defects kept (default 0.1)",
    )
    add("--workers", type=int, default=0, help="processes (default 0: one per CPU)")
    return parser.parse_args(argv)


def check_args(args: argparse.Namespace) -> None:
    """Raise InputError for flags that are out of range or exclude each other."""
    ranges = {
        "mask_threshold": (0, 254),
        "line_width": (1, 1000),
        "keep_empty": (0, 1),
        "workers": (0, 1024),
        "shots": (1, None),
        "tile": (8, None),
        "overlap": (0, None),
        "seed": (0, None),
    }
    for name, (low, high) in ranges.items():
        value = getattr(args, name)
        if value is not None and not (low <= value and (high is None or value <= high)):
            raise InputError(f"--{name}: {value} is not in {low}..{'' if high is None else high}")
    if args.val_fraction is not None and not 0 < args.val_fraction < 1:
        raise InputError(f"--val_fraction: {args.val_fraction} is not between 0 and 1")
    splits = [f"--{name}" for name in ("shots", "val_fraction", "split") if getattr(args, name) is not None]
    if len(splits) > 1:
        raise InputError(f"{' and '.join(splits)}: exclude each other; give one")
    if args.part and splits and splits != ["--split"]:
        raise InputError(f"--part: goes with a split file, not with {splits[0]}; leave one out")
    if args.group_regex and args.group_csv:
        raise InputError("--group_regex and --group_csv: exclude each other; give one")
    if bool(args.fit) != bool(args.size):
        raise InputError("--fit and --size: go together, as in --fit pad --size 256")
    if args.size and (len(args.size) > 2 or min(args.size) < 8):
        raise InputError(f"--size: {args.size} should be one or two numbers, height and width, from 8")
    if args.fit and args.tile:
        raise InputError("--fit and --tile: exclude each other; give one")
    if args.overlap and (args.tile is None or args.overlap >= args.tile):
        raise InputError(f"--overlap: {args.overlap} needs a --tile that is larger")
    for name in ("group_regex", "type_regex"):
        pattern = getattr(args, name)
        try:
            if pattern is not None and not re.compile(pattern).groups:
                raise InputError(f"--{name}: {pattern!r} has no group; put what matters in parentheses")
        except re.error as error:
            raise InputError(f"--{name}: {pattern!r} is no regular expression ({error})") from error
    if lies_in(args.out, args.source):
        raise InputError(f"OUT {args.out}: lies in SOURCE, which is never written to; name a folder outside it")


def find(args: argparse.Namespace) -> tuple[Dataset, SplitFile | None]:
    """What SOURCE holds, and its split file."""
    path = args.split or bf.join(args.source, "split.json")
    split = None
    if bf.exists(path) and args.shots is None and args.val_fraction is None:
        split = read_split(path)
    elif args.split:
        raise InputError(f"--split: there is no split file {path}; name one that is there")
    label_map = parse_label_map(args.label_map) if args.label_map else split and split.label_map
    options = Options(label_map, parse_colormap(args.colormap) or None, args.mask_values, args.type_regex)
    data = read_layout(args.source, options, format=args.format)
    data.check()
    return data, split


def main(argv: list[str] | None = None) -> None:
    args = parse_args(argv)
    check_args(args)
    args.workers = args.workers or default_workers()
    data, split = find(args)
    everything = data.samples + data.good
    sources = [relative_to(sample.image, args.source) for sample in everything]
    count = len(everything if args.keep_good else data.samples)  # the good ones come last
    names = [sample.name for sample in everything[:count]]
    groups = find_groups(names, sources[:count], args.group_regex, args.group_csv)
    groups += [None] * (len(everything) - count)
    parts = listed_parts(split, args.part, everything, sources, groups)
    if split:
        print(f"{split.path}: parts {', '.join(split.parts)}")
    taken = [
        place
        for place, sample in enumerate(everything)
        if (sample.mask or args.keep_good) and (parts is None or parts[place] is not None)
    ]
    if not taken:
        raise InputError(f"SOURCE {args.source}: all that is asked for is defect-free; --keep_good takes it")
    samples, sources, groups = ([values[place] for place in taken] for values in (everything, sources, groups))
    if twice := [name for name, count in Counter(sample.name for sample in samples).items() if count > 1]:
        raise InputError(f"SOURCE {args.source}: two images would become {twice[0]}.png; rename one")
    rule = DrawingRule(args.mask_threshold, args.line_width)
    if args.priority:
        rule = replace(rule, priority=parse_priority(args.priority, data))
    facts, label_map = survey(samples, data.label_map, rule, workers=args.workers)
    chosen = (
        [parts[place] for place in taken]
        if parts
        else parts_of(samples, facts, groups, shots=args.shots, val_fraction=args.val_fraction, seed=args.seed)
    )
    report_straddling(chosen, groups)
    report_leaks(chosen, sources, facts)
    report_overlaps(facts, label_map, args.priority)

    size = tuple(args.size * 2)[:2] if args.size else None
    recipe = Recipe(
        label_map, rule, args.fit, size, args.tile, args.overlap, args.keep_empty if args.tile else 0.0, args.seed
    )
    source = {"prepared_from": bf.basename(args.source.rstrip("/")), "format": data.format, **made_how(recipe)}
    plans = []
    for part in dict.fromkeys(chosen):
        if part is None:
            continue
        places = [place for place, own in enumerate(chosen) if own == part]
        jobs = [Job(samples[place], sources[place], groups[place]) for place in places]
        out = bf.join(args.out, part) if part else args.out
        about = {
            "source": source,
            "split": {"part": part or ", ".join(args.part or ["all"]), "by": split_by(args, split)},
        }
        plans.append(plan_set(out, jobs, recipe, about, workers=args.workers))
    for plan in plans:  # all of them are looked at before the first is written
        report_part(plan.root, *write_set(plan, workers=args.workers))
    print("label map: " + ", ".join(f"{name} {index}" for name, index in label_map.items()))
    if left := sum(part is None for part in chosen):
        print(f"left out: {left} images that show a part of another side of the split, but are not wanted there")
    if data.good and not args.keep_good:
        print(f"left out: {len(data.good)} defect-free images (--keep_good takes them)")
    for note in data.notes:
        print(f"note: {note}")


def parse_priority(text: str, data: Dataset) -> tuple[int, ...]:
    """--priority: type names, the most important first, as indices."""
    names = [name.strip() for name in text.split(",")]
    for name in names:
        if name not in (data.label_map or {}):
            raise InputError(f"--priority: {unknown_name('type', name, data.label_map or {})}")
    return tuple(data.label_map[name] for name in names)


def made_how(recipe: Recipe) -> dict[str, Any]:
    """The recipe for dataset.json, without what stands elsewhere in it."""
    values = asdict(recipe)
    del values["label_map"]
    return {**values.pop("rule"), **values}


def split_by(args: argparse.Namespace, split: SplitFile | None) -> str:
    """How the split was made, for dataset.json."""
    if split:
        return bf.basename(split.path)
    if args.shots is not None:
        return f"shots {args.shots}"
    return f"val_fraction {args.val_fraction}, seed {args.seed}" if args.val_fraction is not None else "layout"
