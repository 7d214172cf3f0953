"""Compare samplers and numbers of steps: is 20 steps as good as 1,000?

    python scripts/compare_samplers.py --large_recep work/large --small_recep work/small \\
        --real data_held_out --out work/samplers --reference_only      # references and margin first
    python scripts/compare_samplers.py --large_recep work/large --small_recep work/small \\
        --real data_held_out --out work/samplers                       # then the table

Every cell (sampler, spacing, number of steps) generates the same seeds and is measured by KID against real images,
and by its difference to its family's reference of all 1,000 steps (cold; ddim for ddim and dpmpp_2m; ddpm).

The margin is fixed before any cell is made, from two ddim runs of all steps, of --seed and --seed + 1: it is the 95%
quantile of |KID(one) - KID(other)| over a bootstrap that resamples their seeds independently, and the real images by
their groups: what the seed alone can do. A cell is called as good as its reference if the one-sided upper 95% bound
of KID(cell) - KID(reference), with the seeds resampled together, is under the margin. OUT/margin.json keeps it, and
no later call changes it.

Writes cells/<name>/ (sample folders), margin.json, table.json, table.md and contact_sheet.png into OUT. Run again
after a stop, it goes on; cells that are there are used again.
"""

from __future__ import annotations

import argparse
import hashlib
from collections.abc import Iterable
from typing import Any

import blobfile as bf
import numpy as np
from tqdm import tqdm

from .. import dist_util
from ..data.groups import read_groups
from ..data.image_datasets import DefectDataset
from ..diffusion.respace import SPACINGS, format_num_steps, parse_num_steps
from ..errors import InputError, unknown_name
from ..evaluation.bootstrap import LEVEL
from ..evaluation.cells import CellStore
from ..evaluation.features import DEFAULT_EXTRACTOR, EXTRACTORS, Extractor, load_extractor
from ..evaluation.row_sheet import Row, draw_row_sheet
from ..evaluation.sampler_comparison import (
    FAMILIES,
    NUM_RESAMPLES,
    Cell,
    Judge,
    margin_cells,
    markdown_table,
    reference_of,
    row_label,
    table_cells,
)
from ..file_io import encode_png, ensure_writable, read_json, write_atomic, write_json
from ..generation.api import DefectGen
from ..keyed_random import numpy_generator

BATCH_SIZE = 16
SHEET_SEEDS = 10  # columns of the contact sheet


def parse_args(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--large_recep", required=True, help="checkpoint of the large network, or its work_dir")
    add("--small_recep", required=True, help="checkpoint of the small network, or its work_dir")
    add("--real", required=True, help="data set of real images to measure against, best held out")
    add("--real_groups", help="CSV or JSON file: which real images are resampled together (each by itself)")
    add("--out", required=True, help="folder for cells, margin, table and contact sheet")
    add("--num_samples", type=int, default=64, help="in every cell (64)")
    add("--step_inference", type=int, default=400, help="the hand-off, as in inference.py (400)")
    add("--samplers", default=",".join(FAMILIES), help="comma-separated (all)")
    add("--num_steps", default="10,20,30,50,100,1000", help="comma-separated: N or A+B (10,20,30,50,100,1000)")
    add("--spacing", default=",".join(SPACINGS), help="comma-separated (all)")
    add("--seed", type=int, default=0, help="of all cells; the margin takes the next one too (0)")
    add("--batch_size", type=int, default=BATCH_SIZE, help=f"images at a time; a stop loses one batch ({BATCH_SIZE})")
    add("--precision", choices=("fp32", "bf16"), default="fp32", help="(fp32)")
    add("--extractor", choices=tuple(EXTRACTORS), default=DEFAULT_EXTRACTOR, help=f"of features ({DEFAULT_EXTRACTOR})")
    add("--device", default="auto", help="auto (default), cpu, cuda or cuda:N")
    add("--reference_only", action="store_true", help="only make the references and fix the margin")
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> None:
    args = parse_args(argv)
    for flag, least in (("num_samples", 2), ("batch_size", 1), ("seed", 0)):
        if getattr(args, flag) < least:
            raise InputError(f"--{flag} {getattr(args, flag)}: must be at least {least}")
    samplers = choices("--samplers", args.samplers, FAMILIES)
    spacings = choices("--spacing", args.spacing, SPACINGS)
    num_steps = [parse_num_steps(text) for text in args.num_steps.split(",")]

    device = dist_util.setup(args.device)
    generator = DefectGen.load(args.large_recep, args.small_recep, device=device, precision=args.precision)
    networks = {"large": generator.large.sha256, "small": generator.small.sha256}
    store = CellStore(
        args.out,
        generator,
        step_inference=args.step_inference,
        num_samples=args.num_samples,
        batch_size=args.batch_size,
        provenance={"weights": "ema", "precision": generator.precision, "checkpoints": networks},
    )
    T = generator.diffusion.num_timestep
    cells = table_cells(samplers, spacings, num_steps, T, args.seed)
    references = {cell: reference_of(cell.sampler, T, args.seed) for cell in cells}
    for cell in cells:
        store.settings(cell)  # raises for steps that cannot be shared out, before hours of work
    real, groups = read_real(args, generator)
    extractor = load_extractor(args.extractor, device)
    conditions = {
        **{flag: getattr(args, flag) for flag in ("num_samples", "seed", "step_inference")},
        "precision": generator.precision,
        "image_size": list(real.shape[1:3]),
        **{f"{name}_sha256": sha256 for name, sha256 in networks.items()},
        "real_images": len(real),
        "real_groups": len(set(groups)),
        "real_sha256": hashlib.sha256(real.tobytes() + "\n".join(groups).encode()).hexdigest(),
        **extractor.provenance,
        "num_resamples": NUM_RESAMPLES,
        "level": LEVEL,
    }
    ensure_writable(args.out, "--out")
    path = bf.join(args.out, "margin.json")
    fixed = read_margin(path, conditions)

    pair = margin_cells(T, args.seed)
    store.generate(list(dict.fromkeys([*pair, *references.values()])))
    judge = Judge(extractor(real), groups, args.num_samples)
    if fixed is None:
        one, other = (extractor(store.read(cell)[0]) for cell in pair)
        fixed = {**judge.margin(one, other), "cells": [cell.name for cell in pair], "conditions": conditions}
        write_json(path, fixed)
    print(f"margin {1000 * fixed['margin']:.2f} thousandths of KID, kept in {path}")
    if not args.reference_only:
        store.generate(cells)
        report(args.out, references, store, extractor, judge, fixed)


def choices(flag: str, text: str, known: Iterable[str]) -> list[str]:
    """The names in a comma-separated list. Raises InputError for one that is not known."""
    names = text.split(",")
    for name in names:
        if name not in known:
            raise InputError(unknown_name(flag, name, known))
    return names


def read_real(args: argparse.Namespace, generator: DefectGen) -> tuple[np.ndarray, list[str]]:
    """Real images uint8 [N, H, W, 3] as the networks were trained on them, and the group of each."""
    dataset = DefectDataset.as_trained(args.real, generator.config)
    images, _ = dataset.batch(np.arange(len(dataset)), numpy_generator("real images"))  # one crop of each, if crops
    groups = read_groups(args.real_groups, dataset.names) if args.real_groups else dataset.names
    if len(set(groups)) < 2:
        raise InputError(f"--real {args.real}: an interval needs images of at least 2 groups; add some")
    return images.permute(0, 2, 3, 1).contiguous().numpy(), groups


def read_margin(path: str, conditions: dict[str, Any]) -> dict[str, Any] | None:
    """What an earlier call has fixed, or None. Raises InputError where it was fixed under other conditions."""
    if not bf.exists(path):
        return None
    fixed = read_json(path)
    for key, value in conditions.items():
        found = fixed["conditions"].get(key)
        if found != value:
            raise InputError(
                f"--out: {path} was fixed with {key} {str(found)[:16]}, not {str(value)[:16]}; "
                "use the same settings and real images, or another --out"
            )
    return fixed


def report(
    out: str,
    references: dict[Cell, Cell],
    store: CellStore,
    extractor: Extractor,
    judge: Judge,
    fixed: dict[str, Any],
) -> None:
    """Measure the cells, all of which are there; write table and contact sheet, print the table."""
    samples = {cell: store.read(cell) for cell in references}
    features = {cell: extractor(samples[cell][0]) for cell in tqdm(references, desc="features", unit="cell")}
    rows = [
        {
            "name": cell.name,
            "sampler": cell.sampler,
            "spacing": cell.spacing,
            "num_steps": format_num_steps(cell.num_steps),
            "reference": reference.name,
            **judge.compare(features[cell], features[reference], fixed["margin"]),
            "seconds_per_image": store.seconds_per_image(cell),
        }
        for cell, reference in references.items()
    ]
    known = fixed["conditions"]
    height, width = known["image_size"]
    notes = [
        f"{known['num_samples']} samples in each, {height} x {width} px, step_inference {known['step_inference']}, "
        f"{known['precision']}, seed {known['seed']}",
        f"KID to {known['real_images']} real images in {known['real_groups']} groups by {known['extractor']} "
        f"({known['weights_sha256'][:8]}), intervals at 95%",
        f"as good: the upper bound of the difference is under the margin, {1000 * fixed['margin']:.1f}",
    ]
    title = "Samplers and numbers of steps"
    table = f"# {title}\n\n" + "".join(f"- {note}\n" for note in notes) + "\n" + markdown_table(rows)
    shown = [
        Row(row_label(row), *(array[:SHEET_SEEDS] for array in samples[cell]))
        for row, cell in zip(rows, references, strict=True)
    ]
    sheet = draw_row_sheet(title, notes, store.class_names, shown)
    write_json(bf.join(out, "table.json"), {"margin": fixed["margin"], "conditions": known, "rows": rows})
    write_atomic(bf.join(out, "table.md"), table.encode())
    write_atomic(bf.join(out, "contact_sheet.png"), encode_png(np.asarray(sheet)))
    print(f"{table}\nlook at {bf.join(out, 'contact_sheet.png')}")
