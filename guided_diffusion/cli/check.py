"""What is in a labelled data set, and what would go wrong in training on it.

    python scripts/check_data.py data --config configs/large_recep.yml

DIR may have any layout that scripts/prepare_data.py reads; it is only read. Prints images, types, areas and what is
left of them at the training resolution; the least resolution that keeps all regions; copies, odd masks and broken
files. Draws a sheet of outlines for each type into OUT. Exit status: 0 fine or warnings; 1 training would go wrong; 2
wrong usage.
"""

import argparse
import os
from dataclasses import replace
from functools import partial
from math import prod

import blobfile as bf

from .. import MAX_TYPES
from ..config import DataConfig, ModelConfig
from ..config_file import load_config, read_sections
from ..data.image_files import MAX_PLAUSIBLE_INDEX, View
from ..data.prepared import FirstShots
from ..errors import InputError, Parser, check_range
from ..file_io import ensure_writable, is_cloud, lies_in, write_json
from ..parallel import check_memory, default_workers
from ..prepare.check import ERROR, NOTE, WARNING, Finding, check, look, size_text
from ..prepare.check_report import as_text, draw_sheets, suggest_resolution, summarize
from ..prepare.layouts import Dataset, Options, read_layout
from ..prepare.layouts.drawing import decide_bits
from ..prepare.layouts.pairs import INDEX_PAIRS


def main(argv: list[str] | None = None) -> int:
    parser = Parser(description=__doc__)
    add = parser.add_argument
    add("data", metavar="DIR", help="the data set")
    add("--out", help="folder for the sheets, outside DIR (DIR_check, beside DIR)")
    add("--json", metavar="FILE", help="file for all figures and findings, outside DIR")
    add("--config", help="YAML file of the training: resolution, crops, label map, num_image_train, val_dir")
    add("--resolution", type=int, nargs="+", metavar="N", help="height and width of training, or one number for both")
    add("--num_defect", type=int, help="number of types, if neither the YAML nor the data set names them")
    add("--val_dir", metavar="DIR", help="held-out set to compare with DIR (default: data.val_dir of the YAML)")
    add("--format", default="auto", help="layout of DIR, if detection fails (auto)")
    add("--workers", type=int, default=0, help="processes that read images (0: one per CPU)")
    args = parser.parse_args(argv)
    check_range(args, workers=(0, 1024), num_defect=(1, MAX_TYPES), resolution=(1, 2**16))
    data, config, model = read_plan(args)
    view = View.of(config)
    check_memory(8 * prod(view.whole_size), "--resolution or data.crop_from: an image", "give a smaller one")
    val_dir, first = args.val_dir or config.val_dir, config.num_image_train
    out = args.out or f"{data.root if is_cloud(data.root) else os.path.abspath(data.root)}_check"
    for flag, folder in (("--out", out), ("--json", args.json and (bf.dirname(args.json) or "."))):
        if folder and lies_in(folder, data.root):
            raise InputError(f"{flag} {folder}: lies in {data.root}, which is only read; name a place outside it")
        if folder:
            ensure_writable(folder, flag)
    if args.json and bf.isdir(args.json):
        raise InputError(f"--json {args.json}: is a folder; name a file")

    num_defect, workers = len(data.label_map or ()) or args.num_defect, args.workers or default_workers()
    # Where the number of types is unknown, any plausible index is one.
    look_at = partial(look, num_defect=num_defect or MAX_PLAUSIBLE_INDEX, view=view, workers=workers)
    records = look_at([*data.samples, *data.good], rule=data.rule, why="reading")
    rule, odd = data.rule, []
    try:
        rule = replace(rule, bits=decide_bits({record.image: record.top for record in records}, None))
    except InputError as error:
        odd.append(Finding(ERROR, "bits", [], str(error)))
    if first:  # those that training takes, and all that cannot be read or are defect-free
        shots = FirstShots(first)
        records = [r for r in records if r.good or shots.takes(r.folder, r.types.keys()) or r.problem]
    highest = num_defect or max((index for record in records for index in record.types), default=1)
    label_map = data.label_map or {f"defect_{index}": index for index in range(1, highest + 1)}  # as training does
    names = dict(sorted((index, name) for name, index in label_map.items()))
    val = read_layout(val_dir, Options(data.label_map), workers=workers) if val_dir else Dataset(data.root, data.format)
    held_out = [replace(r, part=val_dir) for r in look_at(val.samples, rule=val.rule, why="reading held-out images")]

    findings = [*odd, *(Finding(ERROR, "layout", [], problem) for problem in (*data.problems, *val.problems))]
    findings += check(records, held_out, names, size_text(view.whole_size), data.root)
    left = [*data.unlabelled, *val.unlabelled]
    severity = ERROR if data.format in INDEX_PAIRS else WARNING  # training refuses it; prepare_data.py leaves it out
    findings += [Finding(severity, "unlabelled", left, "has no mask or label; add it")] if left else []
    findings += [Finding(WARNING, "types", [], doubt) for doubt in data.doubts]
    if rule.bits:
        data.notes.append(f"16-bit images hold levels of {rule.bits} bits: {2**rule.bits - 1} is white")
    findings += [Finding(NOTE, "layout", [data.root], note) for note in (*data.notes, *val.notes)]
    findings.sort(key=lambda finding: (ERROR, WARNING, NOTE).index(finding.severity))
    figures = summarize(records, names)
    figures["resolution"] = None if view.windows else suggest_resolution(records, model.size_multiple)
    status = int(any(finding.severity == ERROR for finding in findings))
    limit = f", the first {first} of each type (data.num_image_train)" if first else ""
    held = summarize(held_out, names) if val_dir else None
    print(f"{data.root} ({data.format}{limit})\n\n{as_text(figures, names, view, findings, held)}")
    if args.json:
        write_json(args.json, {**figures, "findings": [vars(finding) for finding in findings], "status": status})
    if figures["images"]:
        draw_sheets(out, data.samples, records, names, rule)
        print(f"\nlook at {out}")
    return status


def read_plan(args: argparse.Namespace) -> tuple[Dataset, DataConfig, ModelConfig]:
    """The data set's files, and how training would see them. Raises InputError for wrong usage."""
    sides = tuple(args.resolution or ())
    overrides = {"data.resolution": sides if len(sides) > 1 else sides[0]} if sides else {}
    label_map, workers = None, args.workers or default_workers()
    if args.config and read_sections(args.config)["data"].get("label_map"):
        label_map = load_config(args.config, args.num_defect, overrides).data.label_map
    dataset = read_layout(args.data.rstrip("/") or "/", Options(label_map), format=args.format, workers=workers)
    if (count := len(dataset.label_map or ())) and args.num_defect not in (None, count):
        raise InputError(f"--num_defect {args.num_defect}: the label map names {count} types; leave the flag out")
    if not args.config:
        return dataset, DataConfig(resolution=overrides.get("data.resolution", ModelConfig.image_size)), ModelConfig()
    overrides |= {"data.label_map": dataset.label_map} if dataset.label_map else {}
    config = load_config(args.config, args.num_defect, overrides)
    return dataset, config.data, config.model
