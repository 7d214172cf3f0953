"""Compare ways to generate, from the same seeds: hand-offs, samplers, spacings, numbers of steps, or checkpoints.

    python scripts/evaluate.py compare --large work/large --small work/small --real data/val --train data/train
    python scripts/evaluate.py compare --checkpoints work/large --small work/small --real data/val   # when to stop

A cell is one combination of the settings, or one checkpoint. It is as good as the first cell, the reference, if
the one-sided upper 95% bound of its difference in KID (seeds and groups of real images resampled together) is under the
margin: the 95% quantile of the difference between the reference and the same from the next seed.
"""

import argparse
from collections import Counter
from collections.abc import Sequence
from functools import lru_cache, partial
from itertools import product
from typing import Any, NamedTuple

import blobfile as bf
import numpy as np
from tqdm import tqdm

from .. import dist_util
from ..data.files import natural_key
from ..data.image_files import View
from ..diffusion.respace import format_num_steps, parse_num_steps
from ..errors import InputError, check_range
from ..file_io import ensure_writable
from ..generation.api import DefectGen
from ..generation.sample_io import common_class_names
from ..generation.settings import DEFAULT_STEPS, Settings
from ..pictures import draw_sheet, row_tile
from ..training.checkpoint import FOLDER, load_checkpoint
from .bootstrap import Resampling, share_interval, with_interval
from .copies import place
from .features import Extractor, load_extractor
from .fidelity import diversity, fine_power, kid, spectrum
from .image_sets import ImageSet, RealSets, Row, add_flags, read_samples
from .sample_scores import measure_limits
from .tables import number, plot_intervals, table, write_results

STEPS = (0, 50, 200, 400, 600, 1000)
SHEET_SEEDS = 10  # columns of the sheet
MEASURES = {  # key: title, factor, decimals, sign
    "kid": ("KID x 1000", 1000, 1, ""),
    "difference": ("difference to the reference", 1000, 1, "+"),
    "diversity": ("diversity", 1, 3, ""),
    "spectrum": ("top octave, dB", 1, 1, "+"),
    "copies": ("near-copies, %", 100, 1, ""),
    "empty": ("empty masks, %", 100, 1, ""),
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--large", help="checkpoint of the large network, or its work_dir")
    add("--small", help="checkpoint of the small network, or its work_dir")
    add("--checkpoints", metavar="WORK_DIR", help="compare the checkpoints of this training, in place of that network")
    add_flags(parser, ("real",), ("train", "groups", "device", "seed"))
    add("--out", default="work/compare", help="folder for the results (work/compare)")
    about = "(0,50,200,400,600,1000 within the networks' train.t_range, and its ends; 400 if another setting varies)"
    add("--steps", help=f"hand-offs, comma-separated {about}")
    add("--samplers", default=Settings.sampler, help=f"comma-separated ({Settings.sampler})")
    add("--spacings", default=Settings.spacing, help=f"of the steps, comma-separated ({Settings.spacing})")
    add("--num_steps", default=str(DEFAULT_STEPS), help=f"denoising steps, N or A+B, comma-separated ({DEFAULT_STEPS})")
    add("--num_samples", type=int, default=64, help="in every cell (64)")


class Cell(NamedTuple):
    """One set of samples."""

    name: str
    networks: tuple[str | None, str | None]  # checkpoints
    settings: dict[str, Any]  # of DefectGen.generate


def main(args: argparse.Namespace) -> None:
    """Make and measure all cells; write the results and print the table. Raises InputError."""
    check_range(args, num_samples=(4, 10**6), seed=(0, 10**18))
    load = lru_cache(1)(partial(DefectGen.load, device=dist_util.setup(args.device), precision="fp32"))
    pairs = checkpoint_pairs(args) if args.checkpoints else {"": (args.large, args.small)}
    generator = load(*next(iter(pairs.values())))
    cells = make_cells(args, pairs, generator.hand_offs)
    for cell in cells:
        generator.settings(**cell.settings)  # refuses before anything is made
    real_sets = {f"--{name}": root for name in ("real", "train") if (root := getattr(args, name))}
    names = common_class_names(real_sets, {"the networks": generator.layout.class_names})
    view = View.of(generator.config.data)
    sets = RealSets.read(args, names, view)
    real = sets.seen["real"].in_groups("--real")
    extractor = load_extractor(generator.device)
    ensure_writable(args.out, "--out")
    other = generate(args, cells[0]._replace(name=f"{cells[0].name}_again"), generator, args.seed + 1)
    samples = [generate(args, cell, load(*cell.networks), args.seed) for cell in cells]

    rows, margin = measure(cells, samples, other, real, extractor)
    if args.train:
        limit = measure_limits(sets.train, sets.trained, real)["copy"]["value"]
        for row, images in zip(rows, samples, strict=True):
            row["copies"] = share_interval(place(images.images, sets.train.images)[0].min(axis=1) < limit, images.names)
    height, width = view.size
    notes = [
        f"{args.num_samples} samples in each cell, {height} x {width} px, seed {args.seed}, fp32",
        f"{len(real)} real images in {len(set(real.groups))} groups of {args.real}; features of {extractor.name} "
        f"({extractor.provenance['weights_sha256'][:8]}); intervals at 95%",
        f"near-copies of {args.train}" if args.train else "near-copies not measured: no --train",
        f"as good: the upper 95% bound of the difference is under the margin, {1000 * margin:.1f}; uncorrected",
    ]
    result = {
        "command": "compare",
        "class_names": list(names),
        "reference": cells[0].name,
        "margin": margin,
        "cells": rows,
        "real": {"diversity": diversity(extractor, real.images, real.groups)},
        "notes": notes,
        "provenance": {**extractor.provenance, "real": args.real, "train": args.train},
    }
    write(args.out, result, samples)


def measure(
    cells: Sequence[Cell], samples: Sequence[ImageSet], other: ImageSet, real: ImageSet, extractor: Extractor
) -> tuple[list[Row], float]:
    """The rows of cells, each of MEASURES an Estimate or None; and the margin. other: samples of the first cell's
    settings and other seeds."""
    seeds, y, power = range(len(other)), extractor(real.images), fine_power(real.images)
    of_real = Resampling.draw(real.groups, "compare", "real")
    of_seeds, of_others = (Resampling.draw(seeds, "compare", "seeds", i) for i in range(2))
    found = [kid(extractor(images.images), y, of_seeds, of_real) for images in tqdm(samples, "measuring", unit="cell")]
    by_chance = found[0] - kid(extractor(other.images), y, of_others, of_real)
    margin, rows = float(np.quantile(np.abs(by_chance[1:]), 0.95)), []
    for cell, images, own in zip(cells, samples, found, strict=True):
        difference = own - found[0]
        row = {"name": cell.name, "settings": cell.settings}
        row |= {"kid": with_interval(own), "difference": with_interval(difference), "copies": None}
        row["upper_bound"] = float(np.quantile(difference[1:], 0.95))
        row["as_good"] = row["upper_bound"] < margin
        row["diversity"] = diversity(extractor, images.images, seeds)
        row["spectrum"] = with_interval(spectrum(fine_power(images.images), power, of_seeds, of_real))
        row["empty"] = share_interval([not mask.any() for mask in images.masks], seeds)
        rows.append(row)
    return rows, margin


def make_cells(args: argparse.Namespace, pairs: dict[str, tuple], possible: range) -> list[Cell]:
    """The cells in the order of the flags, at least two. possible: hand-offs to choose from. Raises InputError."""
    samplers, spacings = args.samplers.split(","), args.spacings.split(",")
    num_steps = [parse_num_steps(text) for text in args.num_steps.split(",")]
    hand_offs = [Settings.step_inference]
    if args.steps:
        try:
            hand_offs = [int(text) for text in args.steps.split(",")]
        except ValueError:
            raise InputError(f"`steps` {args.steps}: must be whole numbers with commas between") from None
    elif len(pairs) * len(samplers) * len(spacings) * len(num_steps) == 1:
        hand_offs = sorted({S for S in STEPS if S in possible} | {*possible[:1], *possible[-1:]})
    cells = []
    for prefix, S, sampler, spacing, steps in product(pairs, hand_offs, samplers, spacings, num_steps):
        how = sampler if spacing == Settings.spacing else f"{sampler}_{spacing}"
        name = f"{prefix}s{S}_{how}_{format_num_steps(steps)}_seed{args.seed}"
        settings = {"step_inference": S, "sampler": sampler, "spacing": spacing, "num_steps": steps}
        cells.append(Cell(name, pairs[prefix], settings))
    flags = "`steps`, `samplers`, `spacings`, `num_steps`"
    if twice := [name for name, count in Counter(cell.name for cell in cells).items() if count > 1]:
        raise InputError(f"{flags}: name the cell {twice[0]} twice; leave one out")
    if len(cells) < 2:
        raise InputError(f"{flags}: name at least two cells to compare")
    return cells


def checkpoint_pairs(args: argparse.Namespace) -> dict[str, tuple]:
    """By the beginning of its cells' names, a pair for each checkpoint of a training, beside the other network."""
    folder = bf.join(args.checkpoints, FOLDER)
    files = sorted((n for n in bf.listdir(folder) if n.endswith(".pt")), key=natural_key) if bf.isdir(folder) else []
    config = load_checkpoint(bf.join(folder, files[0]), "--checkpoints").config if len(files) > 1 else None
    if config is None:
        raise InputError(f"`checkpoints` {args.checkpoints}: needs 2 checkpoints that carry a configuration")
    own = "small" if config.model.patch else "large"
    if getattr(args, own):
        raise InputError(f"`{own}`: `checkpoints` takes its place; leave one out")
    given = {"large": args.large, "small": args.small}
    return {f"{name[:-3]}_": tuple((given | {own: bf.join(folder, name)}).values()) for name in files}


def generate(args: argparse.Namespace, cell: Cell, generator: DefectGen, seed: int) -> ImageSet:
    """The samples of a cell; what is not there is made. Raises InputError."""
    path = bf.join(args.out, "cells", cell.name)
    generator.generate_into(path, args.num_samples, generator.settings(**cell.settings), seed=seed)
    return read_samples(path, generator.layout.class_names).take(range(args.num_samples))


def write(out: str, result: Row, samples: Sequence[ImageSet]) -> None:
    """Write table, plot and sheet, compare.json last; print the table. samples: of the cells, in their order. The plot
    has a panel for each measure; dotted: real images, dashed: the margin."""
    cells, real = result["cells"], result["real"]
    keys = [key for key in MEASURES if any(cell[key] for cell in cells)]
    rows, sheet = [], []
    for cell, images in zip(cells, samples, strict=True):
        shown = {key: number(cell[key], *MEASURES[key][1:]) for key in keys}
        verdict = "reference" if cell["name"] == result["reference"] else "yes" if cell["as_good"] else "not shown"
        rows.append([cell["name"], *shown.values(), verdict])
        label = [cell["name"], *(f"{MEASURES[key][0]}: {shown[key]}" for key in ("kid", "difference"))]
        sheet.append(row_tile(", ".join(label), images.images[:SHEET_SEEDS], images.masks[:SHEET_SEEDS]))
    lines = {"difference": {"--": result["margin"]}, "diversity": {":": real["diversity"]["value"]}}
    lines["spectrum"] = {":": 0}
    panels = [(*MEASURES[key][:2], [cell[key] for cell in cells], lines.get(key, {})) for key in keys]
    head = ["cell", *(MEASURES[key][0] for key in keys), "as good"]
    text = f"# Comparison\n\n{table(head, rows)}\n" + "".join(f"- {note}\n" for note in result["notes"])
    plot = plot_intervals([cell["name"] for cell in cells], panels)
    picture = draw_sheet("The same seeds in every cell", result["notes"], result["class_names"], sheet, rows=True)
    write_results(out, result, text, {"compare.png": plot, "compare_sheet.png": picture})
