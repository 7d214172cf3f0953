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
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import blobfile as bf

from ..data.prepared import TRAIN, check_label_map
from ..errors import InputError, check_least, unknown_name
from ..file_io import lies_in, read_json
from ..parallel import default_workers
from ..prepare.check import find_overlaps
from ..prepare.layouts import FORMATS, Options, read_layout
from ..prepare.layouts.drawing import DrawingRule
from ..prepare.preparation import Recipe, look_first, plan_set, report_set, report_split
from ..prepare.shaping import FITS
from ..prepare.splits import Item, apply_split, find_groups, read_split, split_by_fraction, split_by_shots, take_parts

LEAST = dict(line_width=1, shots=1, tile=8, mask_threshold=0, keep_empty=0, workers=0, overlap=0, seed=0)
MOST = dict(line_width=1000, mask_threshold=254, keep_empty=1, workers=1024)


def parse_args(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("source", metavar="SOURCE", help="folder of the data set")
    add("out", metavar="OUT", help="folder for the training data set")
    add("--format", choices=("auto", *FORMATS), default="auto", help="layout of SOURCE (default auto)")
    add("--label_map", metavar="MAP", help="crack,hole or crack=1,hole=2 or a JSON file (default: what SOURCE tells)")
    add("--mask_values", choices=("auto", "index", "binary", "colour"), default="auto", help="what mask files hold")
    add("--mask_threshold", type=int, default=127, help="defective is a mask value above this (default 127)")
    add("--colormap", nargs="+", default=[], metavar="NAME=R,G,B", help="types of colours or grey levels")
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
    add("--keep_empty", type=float, default=0.1, metavar="F", help="share of tiles without defects kept (default 0.1)")
    add("--workers", type=int, default=0, help="processes (default 0: one per CPU)")
    return parser.parse_args(argv)


def check_args(args: argparse.Namespace) -> None:
    """Raise InputError for flags that are out of range or exclude each other."""
    check_least(args, **LEAST)
    for name, high in MOST.items():
        if getattr(args, name) > high:
            raise InputError(f"--{name} {getattr(args, name)}: must be at most {high}")
    if args.val_fraction is not None and not 0 < args.val_fraction < 1:
        raise InputError(f"--val_fraction: {args.val_fraction} is not between 0 and 1")
    splits = [name for name in ("shots", "val_fraction", "split") if getattr(args, name) is not None]
    pairs = [*zip(splits, splits[1:], strict=False), ("group_regex", "group_csv"), ("fit", "tile")]
    pairs += [(name, "part") for name in splits if name != "split"]
    for one, other in pairs:
        if getattr(args, one) is not None and getattr(args, other):
            raise InputError(f"--{one} and --{other}: exclude each other; give one")
    if bool(args.fit) != bool(args.size):
        raise InputError("--fit and --size: go together, as in --fit pad --size 256")
    if args.size and (len(args.size) > 2 or min(args.size) < 8):
        raise InputError(f"--size: {args.size} should be one or two numbers, height and width, from 8")
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


def parse_label_map(text: str) -> dict[str, int]:
    """--label_map: `crack,hole`, `crack=1,hole=2`, or a JSON file of {name: index}, also below the key label_map."""
    if text.lower().endswith(".json"):
        try:
            content = read_json(text)
        except OSError as error:
            raise InputError(f"--label_map {text}: cannot be read ({error.strerror or error})") from error
        return check_label_map(content.get("label_map", content) if isinstance(content, dict) else content, text)
    pairs = [item.partition("=") for item in text.split(",")]
    numbered = {name.strip(): index.strip() or str(k) for k, (name, _, index) in enumerate(pairs, 1)}
    if not all(name and index.isdecimal() for name, index in numbered.items()) or len(numbered) < len(pairs):
        raise InputError(f"--label_map: {text!r} should be names, each once, as in crack,hole or crack=1,hole=2")
    return check_label_map({name: int(index) for name, index in numbered.items()}, "--label_map")


def parse_colormap(items: Sequence[str]) -> dict[str, tuple[int, int, int]]:
    """--colormap: `crack=255,0,0`, or `crack=128` for a grey level; {name: (r, g, b)}."""
    colours: dict[str, tuple[int, int, int]] = {}
    for item in items:
        name, _, value = item.partition("=")
        levels = [int(level) if level.strip().isdecimal() else 256 for level in value.split(",")]
        colour = tuple(levels * 3 if len(levels) == 1 else levels)
        if not name or len(colour) != 3 or max(colour) > 255 or name in colours or colour in colours.values():
            raise InputError(f"--colormap: {item!r} should be a NAME=R,G,B or NAME=GREY of its own, levels 0..255")
        colours[name] = colour
    return colours


def main(argv: list[str] | None = None) -> None:
    args = parse_args(argv)
    check_args(args)
    workers = args.workers or default_workers()
    path = args.split or bf.join(args.source, "split.json")
    if args.split and not bf.exists(path):
        raise InputError(f"--split: there is no split file {path}; name one that is there")
    drawn = args.shots is not None or args.val_fraction is not None
    split, label_map = read_split(path) if not drawn and bf.exists(path) else (None, None)
    label_map = parse_label_map(args.label_map) if args.label_map else label_map
    options = Options(label_map, parse_colormap(args.colormap) or None, args.mask_values, args.type_regex)
    data = read_layout(args.source, options, format=args.format)
    data.check()

    root = args.source.rstrip("/") + "/"
    items = [Item(sample, sample.image.removeprefix(root), None, sample.part) for sample in data.samples + data.good]
    find_groups(items if args.keep_good else items[: len(data.samples)], args.group_regex, args.group_csv)
    if split:
        apply_split(path, split, items)
        print(f"{path}: parts {', '.join(dict.fromkeys(str(entry['part']) for entry in split.values()))}")
    if args.part:
        take_parts(items, args.part)
    listed = split or args.part
    items = [i for i in items if (i.sample.mask or args.keep_good) and (not listed or i.part is not None)]
    if not items:
        raise InputError(f"SOURCE {args.source}: all that is asked for is defect-free; --keep_good takes it")
    if twice := [name for name, count in Counter(item.sample.name for item in items).items() if count > 1]:
        raise InputError(f"SOURCE {args.source}: two images would become {twice[0]}.png; rename one")

    priority = [name.strip() for name in args.priority.split(",") if args.priority]
    if unknown := [name for name in priority if name not in (data.label_map or {})]:
        raise InputError(f"--priority: {unknown_name('type', unknown[0], data.label_map or {})}")
    rule = DrawingRule(args.mask_threshold, args.line_width, tuple(data.label_map[name] for name in priority))
    label_map = look_first(items, data.label_map, rule, workers=workers)
    by = bf.basename(path) if split else "layout"
    if args.shots is not None:
        split_by_shots(items, args.shots)
        by = f"shots {args.shots}"
    elif args.val_fraction is not None:
        split_by_fraction(items, args.val_fraction, args.seed)
        by = f"val_fraction {args.val_fraction}, seed {args.seed}"
    elif not listed:
        parted = any(item.part for item in items if item.sample.mask)
        for item in items:
            item.part = (item.part or TRAIN) if parted else ""
    report_split(items)
    names = {index: name for name, index in label_map.items()}
    for finding in () if priority else find_overlaps([item.record for item in items], names):
        print(finding.line)

    size = tuple(args.size * 2)[:2] if args.size else None
    keep_empty = args.keep_empty if args.tile else 0.0
    recipe = Recipe(label_map, rule, args.fit, size, args.tile, args.overlap, keep_empty, args.seed)
    made: dict[str, Any] = asdict(recipe)
    del made["label_map"]
    source = {"prepared_from": bf.basename(args.source.rstrip("/")), "format": data.format, **made.pop("rule"), **made}
    plans = {}
    for part in dict.fromkeys(item.part for item in items if item.part is not None):
        about = {"source": source, "split": {"part": part or ", ".join(args.part or ["all"]), "by": by}}
        own = [item for item in items if item.part == part]
        out = bf.join(args.out, part) if part else args.out
        plans[out] = plan_set(out, own, recipe, about, workers=workers)
    for out, write in plans.items():  # all of them are looked at before the first is written
        report_set(out, *write())
    print("label map: " + ", ".join(f"{name} {index}" for name, index in label_map.items()))
    if left := sum(item.part is None for item in items):
        print(f"left out: {left} images that show a part of another side of the split, but are not wanted there")
    if data.good and not args.keep_good:
        print(f"left out: {len(data.good)} defect-free images (--keep_good takes them)")
    for note in data.notes:
        print(f"note: {note}")
