#!/usr/bin/env python3
"""What is in a labelled data set, and what would go wrong in training on it.

    python scripts/check_data.py data --config configs/large_recep.yml

DIR may have any layout that training reads; it is only read. Prints images, types, areas and what is left of them at
the training resolution; what to set in the YAML; copies, odd masks and broken files. Draws into OUT a sheet of overlays
for each type, and histograms.png. Exit status: 0 fine, or warnings only; 1 training would go wrong; 2 wrong usage.
"""

import argparse
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial

import blobfile as bf

from ..errors import InputError
from ..file_io import ensure_writable, is_cloud, lies_in, write_json
from ..parallel import default_workers, parallel_map

# No torch here: each process that reads images imports this file. What needs it is imported where it is used.
from ..prepare.check import ERROR, NOTE, check, told, unreadable
from ..prepare.check_report import as_text, summarize
from ..prepare.data_check_duplicates import find_duplicates
from ..prepare.data_check_facts import Record, View, candidate_sizes, look_at
from ..prepare.layouts import Dataset, Options, Sample, read_layout
from ..prepare.layouts.mask_values import MAX_PLAUSIBLE_INDEX
from ..prepare.splits import FirstShots


def parse_args(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("data", metavar="DIR", help="the data set")
    add("--out", help="folder for the pictures, outside DIR (DIR_check, beside DIR)")
    add("--json", metavar="FILE", help="file for everything found, outside DIR")
    add("--config", help="YAML file of the training: resolution, crops, label map, num_image_train, val_dir")
    add("--resolution", type=int, nargs="+", metavar="N", help="height and width of training, or one number for both")
    add("--num_defect", type=int, help="number of types, if neither the YAML nor the data set names them")
    add("--val_dir", metavar="DIR", help="held-out data set, to find photographs that are in both (that of the YAML)")
    add("--format", default="auto", help="layout of DIR, where it cannot be told (auto)")
    add("--workers", type=int, default=0, help="processes that read images (0: one per CPU)")
    return parser.parse_args(argv)


@dataclass(frozen=True)
class Plan:
    """How a training would take the data. multiple: of which height and width must be; first: num_image_train."""

    view: View
    multiple: int
    first: int | None
    val_dir: str | None


def main(argv: list[str] | None = None) -> int:
    args = parse_args(argv)
    check_numbers(args)
    data, plan = read_plan(args)
    out = args.out or f"{data.root if is_cloud(data.root) else os.path.abspath(data.root)}_check"
    for flag, path in (("--out", out), ("--json", args.json)):
        if path:
            if lies_in(path, data.root):
                raise InputError(f"{flag} {path}: lies in {data.root}, which is only read; name a place outside it")
    ensure_writable(out, "--out")
    if args.json:
        ensure_writable(bf.dirname(args.json) or ".", "--json")
    workers = args.workers or default_workers()
    num_defect = len(data.label_map) if data.label_map else args.num_defect
    view = plan.view
    if view.fit == "resize":
        view = replace(view, candidates=candidate_sizes(data.samples, plan.multiple))

    records = look([*data.samples, *data.good], num_defect, view, workers, "reading")
    if plan.first:
        records = first_of_each_type(records, plan.first)
    names = type_names(records, data.label_map, num_defect)
    findings = [told(ERROR, "layout", problem, data.root) for problem in data.problems]
    findings += check(records, names, view, data.root)
    held_out: list[Record] = []
    if plan.val_dir:
        val = read_layout(plan.val_dir, Options(data.label_map))
        findings += [told(ERROR, "layout", problem, val.root) for problem in val.problems]
        held_out = look(val.samples, num_defect, View(view.resolution), workers, "reading held-out images")
        held_out = [replace(record, part=plan.val_dir) for record in held_out]
        findings += unreadable(held_out)
    findings += find_duplicates([*records, *held_out], data.root)
    findings += [told(NOTE, "layout", note, data.root) for note in data.notes]
    findings.sort(key=lambda finding: finding.rank)

    about = {"root": data.root, "format": data.format, "first": plan.first}
    summary = summarize(records, names, view, findings, about)
    print(as_text(summary, findings))
    if args.json:
        write_json(args.json, summary)
    if summary["images"]:
        from ..prepare.data_check_pictures import draw_pictures

        draw_pictures(out, data.samples, records, names, num_defect or MAX_PLAUSIBLE_INDEX, summary)
        print(f"\nlook at {out}")
    return summary["status"]


def check_numbers(args: argparse.Namespace) -> None:
    for flag, least in (("workers", 0), ("num_defect", 1)):
        value = getattr(args, flag)
        if value is not None and value < least:
            raise InputError(f"--{flag} {value}: must be at least {least}")
    sides = args.resolution
    if sides and (len(sides) > 2 or min(sides) < 1):
        raise InputError(f"--resolution {' '.join(map(str, sides))}: must be one number or two, height and width")


def read_plan(args: argparse.Namespace) -> tuple[Dataset, Plan]:
    """The data set's files, and how training would take them. Raises InputError for wrong usage."""
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
    view = View(data.resolution, data.fit, data.crop_from)
    return dataset, Plan(view, model.size_multiple, data.num_image_train, args.val_dir or data.val_dir)


def look(samples: Sequence[Sample], num_defect: int | None, view: View, workers: int, what: str) -> list[Record]:
    """Records of samples, in their order; where the number of types is unknown, any plausible index is one."""
    one = partial(look_at, num_defect=num_defect or MAX_PLAUSIBLE_INDEX, view=view)
    return list(parallel_map(one, samples, workers=workers, description=what))


def first_of_each_type(records: Sequence[Record], count: int) -> list[Record]:
    """Those that training takes under num_image_train, and all that cannot be read or are defect-free."""
    shots = FirstShots(count)
    return [r for r in records if r.good or shots.takes(r.folder, r.types.keys()) or r.facts.problem]


def type_names(
    records: Sequence[Record], label_map: Mapping[str, int] | None, num_defect: int | None
) -> dict[int, str]:
    """{index: name} of the types; without a label map they are called as training calls them."""
    if label_map:
        return {index: name for name, index in sorted(label_map.items(), key=lambda item: item[1])}
    highest = max((index for record in records for index in record.types), default=1)
    return {index: f"defect_{index}" for index in range(1, (num_defect or highest) + 1)}
