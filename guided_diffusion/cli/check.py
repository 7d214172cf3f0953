#!/usr/bin/env python3
"""What is in a labelled data set, and what would go wrong in training on it.

    python scripts/check_data.py data --config configs/large_recep.yml

DIR may have any layout that scripts/prepare_data.py reads; it is only read. Prints images, types, areas and what is
left of them at the training resolution; what to set in the YAML; copies, odd masks and broken files. Draws a sheet of
overlays for each type into OUT. Exit status: 0 fine, or warnings only; 1 training would go wrong; 2 wrong usage.
"""

import argparse
import os
from dataclasses import replace
from functools import partial

import blobfile as bf

from ..data.image_files import MAX_PLAUSIBLE_INDEX, View
from ..data.prepared import FirstShots
from ..errors import InputError, check_least
from ..file_io import ensure_writable, is_cloud, lies_in, write_json
from ..parallel import default_workers

# No torch here: each process that reads images imports this file. What needs it is imported where it is used.
from ..prepare.check import ERROR, NOTE, OWN_SIZE, WARNING, Record, check, find_duplicates, told, unreadable
from ..prepare.layouts import Dataset, Options, read_layout
from ..prepare.survey import candidate_sizes, look


def parse_args(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("data", metavar="DIR", help="the data set")
    add("--out", help="folder for the sheets, outside DIR (DIR_check, beside DIR)")
    add("--json", metavar="FILE", help="file for all figures and findings, outside DIR")
    add("--config", help="YAML file of the training: resolution, crops, label map, num_image_train, val_dir")
    add("--resolution", type=int, nargs="+", metavar="N", help="height and width of training, or one number for both")
    add("--num_defect", type=int, help="number of types, if neither the YAML nor the data set names them")
    add("--val_dir", metavar="DIR", help="held-out data set, to find photographs that are in both (that of the YAML)")
    add("--format", default="auto", help="layout of DIR, where it cannot be told (auto)")
    add("--workers", type=int, default=0, help="processes that read images (0: one per CPU)")
    args = parser.parse_args(argv)
    check_least(args, workers=0, num_defect=1)
    if args.resolution and (len(args.resolution) > 2 or min(args.resolution) < 1):
        sides = " ".join(map(str, args.resolution))
        raise InputError(f"--resolution {sides}: must be one number or two, height and width")
    return args


def main(argv: list[str] | None = None) -> int:
    args = parse_args(argv)
    data, view, multiple, first, val_dir = read_plan(args)
    out = args.out or f"{data.root if is_cloud(data.root) else os.path.abspath(data.root)}_check"
    for flag, path in (("--out", out), ("--json", args.json)):
        if path and lies_in(path, data.root):
            raise InputError(f"{flag} {path}: lies in {data.root}, which is only read; name a place outside it")
    ensure_writable(out, "--out")
    if args.json:
        ensure_writable(bf.dirname(args.json) or ".", "--json")

    # Where the number of types is unknown, any plausible index is one.
    num_defect = len(data.label_map or ()) or args.num_defect
    look_at = partial(look, num_defect=num_defect or MAX_PLAUSIBLE_INDEX, workers=args.workers or default_workers())
    candidates = () if view.windows else candidate_sizes(data.samples, multiple)
    everything = [*data.samples, *data.good]
    records = look_at(everything, view=view, candidates=candidates, description="reading")
    if first:  # those that training takes, and all that cannot be read or are defect-free
        shots = FirstShots(first)
        records = [r for r in records if r.good or shots.takes(r.folder, r.types.keys()) or r.problem]
    highest = num_defect or max((index for record in records for index in record.types), default=1)
    label_map = data.label_map or {f"defect_{index}": index for index in range(1, highest + 1)}  # as training does
    names = {index: name for name, index in sorted(label_map.items(), key=lambda item: item[1])}

    findings = [told(ERROR, "layout", problem, data.root) for problem in data.problems]
    findings += check(records, names, " x ".join(map(str, view.whole_size)) or OWN_SIZE, data.root)
    held_out: list[Record] = []
    if val_dir:
        val = read_layout(val_dir, Options(data.label_map))
        findings += [told(ERROR, "layout", problem, val.root) for problem in val.problems]
        read = look_at(val.samples, description="reading held-out images")
        held_out = [replace(record, part=val_dir) for record in read]
        findings += unreadable(held_out)
    findings += find_duplicates([*records, *held_out], data.root)
    findings += [told(NOTE, "layout", note, data.root) for note in data.notes]
    findings.sort(key=lambda finding: (ERROR, WARNING, NOTE).index(finding.severity))

    from ..prepare.check_report import as_text, draw_sheets, summarize

    figures = summarize(records, names, candidates)
    status = int(any(finding.severity == ERROR for finding in findings))
    limit = f", the first {first} of each type (data.num_image_train)" if first else ""
    print(f"{data.root} ({data.format}{limit})\n\n{as_text(figures, records, names, view, findings)}")
    if args.json:
        write_json(args.json, {**figures, "findings": [vars(finding) for finding in findings], "status": status})
    if figures["images"]:
        draw_sheets(out, data.samples, records, names, num_defect or MAX_PLAUSIBLE_INDEX)
        print(f"\nlook at {out}")
    return status


def read_plan(args: argparse.Namespace) -> tuple[Dataset, View, int, int | None, str | None]:
    """The data set's files; how training would see them; of what height and width must be multiples; num_image_train;
    the held-out set. Raises InputError for wrong usage."""
    from ..config import DataConfig, ModelConfig
    from ..config_file import load_config, read_sections

    sides = tuple(args.resolution or ())
    overrides = {"data.resolution": sides * (2 // len(sides))} if sides else {}
    label_map = None
    if args.config and read_sections(args.config)["data"].get("label_map"):
        label_map = load_config(args.config, args.num_defect, overrides).data.label_map
    dataset = read_layout(args.data.rstrip("/") or "/", Options(label_map), format=args.format)
    if dataset.label_map and args.num_defect not in (None, len(dataset.label_map)):
        raise InputError(
            f"--num_defect {args.num_defect}: the label map names {len(dataset.label_map)} types; leave the flag out"
        )
    if args.config:
        if dataset.label_map:
            overrides["data.label_map"] = dataset.label_map
        config = load_config(args.config, args.num_defect, overrides)
        data, model = config.data, config.model
    else:
        model = ModelConfig()
        data = DataConfig(resolution=overrides.get("data.resolution", model.image_size))
    view = View(data.resolution, data.fit == "random_crop", tuple(data.crop_from))
    return dataset, view, model.size_multiple, data.num_image_train, args.val_dir or data.val_dir
