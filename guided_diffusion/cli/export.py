#!/usr/bin/env python3
"""Write generated samples, and real images beside them, in the format of another program.

    python scripts/export_data.py work/samples work/coco --format coco --real data --val data_held_out

SAMPLES is a sample folder, or any data set that training reads, whose images are then marked as real. --real joins the
training part, --val becomes the validation part; names, and where the format can say it a field, tell generated from
real. Everything is only read but OUT, which must be empty or hold an earlier export of the same files: that is brought
up to date. docs/export.md has a section per format.
"""

from __future__ import annotations

import argparse
from collections import Counter

import blobfile as bf

from ..errors import InputError
from ..export import FORMATS
from ..export.coco import load_mask_api
from ..export.records import Export, read_export, safe_names
from ..export.writing import write_export
from ..file_io import lies_in
from ..prepare.layouts import find_good


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("samples", metavar="SAMPLES", help="folder of generated samples, or a data set")
    add("out", metavar="OUT", help="folder for the export")
    add("--format", required=True, choices=tuple(FORMATS), help="whose layout to write")
    add("--real", metavar="DIR", help="data set of real images that join the training part")
    add("--val", metavar="DIR", help="data set of held-out real images, which become the validation part")
    add("--keep_good", action="store_true", help="take their defect-free images too (mvtec always does)")
    add("--segmentation", choices=("polygon", "rle"), help="coco only: how regions are written (polygon)")
    add("--object", metavar="NAME", help="mvtec only: name of the object's folder (the name of OUT)")
    args = parser.parse_args(argv)
    form = FORMATS[args.format]
    check(args)
    keep_good = args.keep_good or form.takes_good

    export = read_export(
        args.samples,
        args.real,
        args.val,
        keep_good=keep_good,
        segmentation=args.segmentation or "polygon",
        object_name=args.object or safe_names([bf.basename(args.out.rstrip("/"))])[0],
    )
    settings = {flag: getattr(args, flag) for flag in ("samples", "real", "val", "keep_good", "segmentation", "object")}
    written = write_export(args.out, args.format, form, export, {"settings": settings, "counts": count(export)})

    if all(record.origin != "gen" for record in export.records):
        print(f"note: {args.samples} has no manifest.jsonl, so its images are marked as real")
    print(f"{args.out}: {summary(export)}, {written or 'no'} files written")
    for note in form.notes(export):
        print(f"note: {note}")
    if not keep_good and (good := sum(len(find_good(folder)) for folder in (args.real, args.val) if folder)):
        print(f"left out: {good} defect-free images (--keep_good takes them)")


def check(args: argparse.Namespace) -> None:
    """Raise InputError for flags that do not go together, and for folders that lie in each other."""
    for flag, owner in (("segmentation", "coco"), ("object", "mvtec")):
        if getattr(args, flag) is not None and args.format != owner:
            raise InputError(f"--{flag}: only --format {owner} knows it; leave it out")
    if args.val and not FORMATS[args.format].has_parts:
        raise InputError(f"--val: {args.format} has no parts; export {args.val} to a folder of its own")
    if args.object is not None and safe_names([args.object]) != [args.object]:
        raise InputError(f"--object {args.object}: must consist of letters, digits, '-' and '_'")
    if args.segmentation == "rle":
        load_mask_api()
    for flag, folder in (("SAMPLES", args.samples), ("--real", args.real), ("--val", args.val)):
        if folder and (lies_in(args.out, folder) or lies_in(folder, args.out)):
            raise InputError(f"OUT {args.out}: lies in {flag} {folder} or around it; name a folder apart from it")


def count(export: Export) -> dict[str, int]:
    kinds = {"gen": "generated", "real": "real", "val": "held out"}
    return dict(Counter(kinds[record.origin] for record in export.records))


def summary(export: Export) -> str:
    kinds = ", ".join(f"{number} {kind}" for kind, number in count(export).items())
    types = Counter(name for record in export.records for name in record.types)
    return f"{kinds} (" + ", ".join(f"{name} in {types[name]}" for name in export.class_names) + ")"
