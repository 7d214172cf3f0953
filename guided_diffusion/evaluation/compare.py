"""Compare ways to generate, from the same seeds: hand-offs, samplers, numbers of steps, or checkpoints of a training.

    python scripts/evaluate.py compare --large work/large --small work/small --real data/val --train data/train
    python scripts/evaluate.py compare ... --steps 400 --samplers ddim,dpmpp_2m --num_steps 1000,20,10   # few steps
    python scripts/evaluate.py compare --checkpoints work/large --small work/small --real data/val   # when to stop

A cell is one combination of the settings, or one checkpoint; --steps are hand-offs S (0: large network only, T: small
only). Measured in each cell: KID to held-out real images, diversity, near-copies of training images (with --train),
agreement with a segmenter trained on real images, empty masks. Differences in KID to the reference are paired: seeds
and groups of real images are resampled together. The margin is what chance does: the 95% quantile of the difference
between the reference and the same from the next seed. A cell is as good as the reference if the one-sided upper 95%
bound of its difference is under the margin.

Writes cells/<name>/ (sample folders), compare.json, compare.md, compare.png and compare_sheet.png (the same seeds in
every cell) into OUT. Run again, it goes on; cells that are there are used again.
"""

from __future__ import annotations

import argparse
import io
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import product
from typing import Any

import blobfile as bf
import numpy as np
import torch
from tqdm import tqdm

from .. import dist_util
from ..data.files import natural_key
from ..data.image_files import View
from ..diffusion.respace import SPACINGS, format_num_steps, parse_num_steps
from ..diffusion.samplers import SAMPLERS
from ..diffusion.two_stage import HANDOFFS
from ..errors import InputError, check_least, unknown_name
from ..file_io import encode_png, ensure_writable, write_atomic, write_json
from ..generation.api import DefectGen
from ..generation.conditions import Conditions
from ..generation.rounds import generate_rounds, provenance
from ..generation.sample_io import SampleFolder
from ..generation.settings import DEFAULT_STEPS, Settings
from ..keyed_random import numpy_generator
from ..pictures import Row, draw_rows
from ..precision import PRECISIONS
from ..training.checkpoint import FOLDER, load_checkpoint
from .bootstrap import NUM_RESAMPLES, Resampling, mean_interval, share_interval, with_interval
from .copies import nearest
from .features import load_extractor
from .fidelity import diversity, embed, kid, kid_resampled
from .image_sets import ImageSet, read_good, read_samples, read_whole, read_windows
from .image_sets import add_arguments as add_shared_arguments
from .sample_scores import Limits
from .scores import agreement, train_agreement_segmenter
from .tables import number, table

HELP = "hand-offs, samplers, numbers of steps or checkpoints, from the same seeds"
STEPS = "0,50,200,400,600,1000"
SHEET_SEEDS = 10  # columns of the sheet
MEASURES = {  # key: title, scale
    "kid": ("KID x 1000", 1000),
    "difference": ("difference to the reference", 1000),
    "diversity": ("diversity", 1),
    "copies": ("near-copies, %", 100),
    "agreement": ("agreement, IoU", 1),
    "empty": ("empty masks, %", 100),
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--large", help="checkpoint of the large network, or its work_dir")
    add("--small", help="checkpoint of the small network, or its work_dir")
    add("--checkpoints", metavar="WORK_DIR", help="compare the checkpoints of this training, in place of that network")
    optional = {"train": "--real; near-copies need it", "groups": "none", "out": "work/compare"}
    add_shared_arguments(parser, required=("real",), seed="of all cells", **optional)
    add("--steps", help=f"hand-offs, comma-separated ({STEPS}; 400 where something else differs)")
    add("--samplers", default=Settings.sampler, help=f"comma-separated ({Settings.sampler})")
    add("--spacing", default=Settings.spacing, help=f"of the steps, comma-separated ({Settings.spacing})")
    add("--num_steps", default=str(DEFAULT_STEPS), help=f"denoising steps, N or A+B, comma-separated ({DEFAULT_STEPS})")
    add("--handoff", choices=HANDOFFS, default="paper", help="released: the released script's restart (paper)")
    add("--reference", metavar="CELL", help="the cell that the others are compared with (the first one)")
    add("--num_samples", type=int, default=64, help="in every cell (64)")
    add("--batch_size", type=int, default=16, help="images at a time; a stop loses one batch (16)")
    add("--precision", choices=PRECISIONS, default="fp32", help="of generating (fp32)")
    add("--no_agreement", action="store_true", help="train no segmenter")


@dataclass(frozen=True)
class Cell:
    """One set of samples: its networks' checkpoints, seed and settings of DefectGen.generate."""

    name: str
    large: str | None
    small: str | None
    seed: int
    settings: dict[str, Any]


def main(args: argparse.Namespace) -> None:
    """Make and measure all cells; write the results and print the table. Raises InputError."""
    check_least(args, num_samples=4, batch_size=1, seed=0)
    args.out = args.out or "work/compare"
    device = dist_util.setup(args.device)
    cells = make_cells(args)
    reference = {cell.name: cell for cell in cells}.get(args.reference or cells[0].name)
    if not reference:
        raise InputError(unknown_name("cell in `reference`", args.reference, [cell.name for cell in cells]))
    again = replace(reference, name=f"{reference.name}_again", seed=args.seed + 1)
    load = partial(DefectGen.load, device=device, precision=args.precision)
    generator = load(reference.large, reference.small)
    for cell in cells:
        generator.settings(**cell.settings)  # refuses before anything is made
    bench = Bench(args, generator, device)
    ensure_writable(args.out, "--out")
    other = generate(args, again, generator)
    samples = {cell.name: generate(args, cell, load(cell.large, cell.small)) for cell in cells}
    result = bench.compare(samples, reference.name, other)
    for row, cell in zip(result["cells"], cells, strict=True):
        row["settings"] = cell.settings
    write(args.out, result, list(samples.values()))


def make_cells(args: argparse.Namespace) -> list[Cell]:
    """The cells in the order of the flags; at least two. Raises InputError."""
    samplers, spacings = args.samplers.split(","), args.spacing.split(",")
    for flag, names, known in (("samplers", samplers, SAMPLERS), ("spacing", spacings, SPACINGS)):
        if unknown := set(names) - set(known):
            raise InputError(unknown_name(f"`{flag}`", min(unknown), known))
    num_steps = [parse_num_steps(text) for text in args.num_steps.split(",")]
    pairs = checkpoint_pairs(args) if args.checkpoints else [("", args.large, args.small)]
    default = "400" if len(pairs) * len(samplers) * len(spacings) * len(num_steps) > 1 else STEPS
    try:
        hand_offs = [int(text) for text in (args.steps or default).split(",")]
    except ValueError:
        raise InputError(f"`steps` {args.steps}: must be whole numbers with commas between, such as {STEPS}") from None
    cells = []
    for (prefix, large, small), S, sampler, spacing, steps in product(pairs, hand_offs, samplers, spacings, num_steps):
        name = f"{prefix}s{S}_{sampler}_{spacing}_{format_num_steps(steps)}_seed{args.seed}"
        own = {"step_inference": S, "sampler": sampler, "spacing": spacing, "num_steps": steps, "handoff": args.handoff}
        cells.append(Cell(name, large, small, args.seed, own))
    if len(cells) < 2:
        raise InputError("`steps`, `samplers`, `spacing`, `num_steps`: name at least two cells to compare")
    return cells


def checkpoint_pairs(args: argparse.Namespace) -> list[tuple[str, str | None, str | None]]:
    """(prefix of the name, large, small) for each checkpoint of a training, beside the other network."""
    folder = bf.join(args.checkpoints, FOLDER)
    files = sorted((n for n in bf.listdir(folder) if n.endswith(".pt")), key=natural_key) if bf.isdir(folder) else []
    config = load_checkpoint(bf.join(folder, files[0]), "--checkpoints").config if len(files) > 1 else None
    if config is None:
        raise InputError(f"`checkpoints` {args.checkpoints}: needs 2 checkpoints that carry a configuration")
    own = "small" if config.model.patch else "large"
    if getattr(args, own):
        raise InputError(f"`{own}`: `checkpoints` takes its place; leave one out")
    pairs = [{"large": args.large, "small": args.small, own: bf.join(folder, name)} for name in files]
    return [(f"{name[:-3]}_", pair["large"], pair["small"]) for name, pair in zip(files, pairs, strict=True)]


def generate(args: argparse.Namespace, cell: Cell, generator: DefectGen) -> ImageSet:
    """The samples of a cell; what is not there is made. Raises InputError."""
    path = bf.join(args.out, "cells", cell.name)
    settings, conditions, class_names = generator.settings(**cell.settings), Conditions(), generator.layout.class_names
    folder = SampleFolder(path, class_names, provenance(generator, settings, cell.seed, "ema", conditions))
    if missing := folder.missing(args.num_samples):
        print(f"{cell.name}: {len(missing)} samples to generate", flush=True)
        generate_rounds(generator, settings, cell.seed, missing, conditions, folder, args.batch_size)
    return read_samples(path, class_names).take(range(args.num_samples))


class Bench:
    """What all cells are measured with. Making it reads and checks, `compare` does the work. Raises InputError."""

    def __init__(self, args: argparse.Namespace, generator: DefectGen, device: torch.device):
        data, self.args = generator.config.data, args
        self.class_names = names = generator.layout.class_names
        self.view = View(data.resolution, data.fit == "random_crop", data.crop_from, data.crop_defect)
        self.real = read_windows(args.real, names, self.view, groups=args.groups)
        if len(set(self.real.groups)) < 2:
            raise InputError(f"`real` {args.real}: an interval needs images of at least 2 groups; add some")
        root, flag = (args.train, "--train") if args.train else (args.real, "--real")
        self.whole = read_whole(root, names, self.view, groups=args.groups if root == args.real else None, flag=flag)
        self.extractor = load_extractor(args.extractor, device)
        self.of_real = Resampling.draw(self.real.groups, NUM_RESAMPLES, numpy_generator("compare", "real"))
        keys = (numpy_generator("compare", "seeds", i) for i in range(2))
        self.of_seeds, self.of_others = (Resampling.draw(range(args.num_samples), NUM_RESAMPLES, key) for key in keys)

    def compare(self, samples: dict[str, ImageSet], reference: str, other: ImageSet) -> dict[str, Any]:
        """What compare.json holds; samples: by the cell's name; other: of the reference's settings and other seeds."""
        args, real = self.args, self.real
        self.features = self.extractor(real.images)
        of_real = {"diversity": diversity(embed(self.extractor, real.images), real.groups)}
        if args.train:
            seen = read_windows(args.train, self.class_names, self.view, flag="--train")
            self.copy_below = Limits.measure(self.whole, seen, real).copy.value
        if not args.no_agreement:
            good, held_out = read_good(self.whole.folder, self.class_names, self.view), real if args.train else None
            how = {"held_out": held_out, "device": self.extractor.device}
            self.segmenter, judged = train_agreement_segmenter(self.whole, good, self.view, args.seed, **how)
            of_real["agreement"] = judged and judged["mean"]
        found = {name: self.measure(images) for name, images in tqdm(samples.items(), desc="measuring", unit="cell")}
        base, resampled = found[reference], {name: row.pop("resampled") for name, row in found.items()}
        by_chance = kid_resampled(self.extractor(other.images), self.features, self.of_others, self.of_real)
        margin = float(np.quantile(np.abs(resampled[reference] - by_chance), 0.95))
        for name, row in found.items():
            differences = resampled[name] - resampled[reference]
            upper = float(np.quantile(differences, 0.95))
            difference = with_interval(row["kid"]["value"] - base["kid"]["value"], differences)
            row |= {"name": name, "difference": difference, "upper_bound": upper, "as_good": upper < margin}
        height, width = self.view.size
        notes = [
            f"{args.num_samples} samples in each cell, {height} x {width} px, seed {args.seed}, {args.precision}",
            f"{len(real)} real images in {len(set(real.groups))} groups of {args.real}; features of {args.extractor} "
            f"({self.extractor.provenance['weights_sha256'][:8]}); intervals at 95%",
            f"near-copies of {args.train}" if args.train else "near-copies not measured: no --train",
            f"as good: the upper 95% bound of the difference is under the margin, {1000 * margin:.1f}; uncorrected",
        ]
        return {
            "command": "compare",
            "class_names": list(self.class_names),
            "reference": reference,
            "margin": margin,
            "cells": list(found.values()),
            "real": of_real,
            "notes": notes,
            "provenance": {**self.extractor.provenance, "real": args.real, "train": args.train},
        }

    def measure(self, samples: ImageSet) -> dict[str, Any]:
        """MEASURES but the difference, each as {"value", "interval"} or None; and KID "resampled" [R]."""
        features, seeds = self.extractor(samples.images), range(len(samples))
        resampled = kid_resampled(features, self.features, self.of_seeds, self.of_real)
        copies = agrees = None
        if self.args.train:
            matches = nearest(samples.images, self.whole.images)
            copies = share_interval([match.distance < self.copy_below for match in matches], seeds)
        if not self.args.no_agreement:
            values = agreement(self.segmenter, samples)[0]
            agrees = None if np.isnan(values).all() else mean_interval(values, seeds)
        return {
            "resampled": resampled,
            "kid": with_interval(kid(features, self.features), resampled),
            "diversity": diversity(embed(self.extractor, samples.images), seeds),
            "copies": copies,
            "agreement": agrees,
            "empty": share_interval([not mask.any() for mask in samples.masks], seeds),
        }


def measured(result: dict[str, Any]) -> list[str]:
    """The keys of MEASURES that some cell has."""
    return [key for key in MEASURES if any(cell[key] for cell in result["cells"])]


def show(cell: dict[str, Any], key: str, scale: int) -> str:
    return number(cell[key], scale, 1 if scale > 1 else 3, "+" if key == "difference" else "", none="-")


def markdown(result: dict[str, Any]) -> str:
    """compare.md: a row for each cell."""
    keys, rows = measured(result), []
    for cell in result["cells"]:
        verdict = "reference" if cell["name"] == result["reference"] else "yes" if cell["as_good"] else "not shown"
        rows.append([cell["name"], *(show(cell, key, MEASURES[key][1]) for key in keys), verdict])
    head = ["cell", *(MEASURES[key][0] for key in keys), "as good"]
    return f"# Comparison\n\n{table(head, rows)}\n" + "".join(f"- {note}\n" for note in result["notes"])


def write(out: str, result: dict[str, Any], samples: Sequence[ImageSet]) -> None:
    """Write table, plot and sheet, compare.json last; print the table. samples: of the cells, in their order."""
    shown = []
    for cell, images in zip(result["cells"], samples, strict=True):
        label = [cell["name"], *(f"{MEASURES[key][0]}: {show(cell, key, 1000)}" for key in ("kid", "difference"))]
        shown.append(Row(label, images.images[:SHEET_SEEDS], images.masks[:SHEET_SEEDS]))
    sheet = draw_rows("The same seeds in every cell", result["notes"], result["class_names"], shown)
    write_atomic(bf.join(out, "compare.md"), markdown(result).encode())
    write_atomic(bf.join(out, "compare.png"), draw_plot(result))
    write_atomic(bf.join(out, "compare_sheet.png"), encode_png(np.asarray(sheet)))
    write_json(bf.join(out, "compare.json"), result)
    print(f"{markdown(result)}\nlook at {bf.join(out, 'compare.png')} and {bf.join(out, 'compare_sheet.png')}")


def draw_plot(result: dict[str, Any]) -> bytes:
    """PNG: a panel for each measure, a line for each cell; dotted: real images, dashed: the margin."""
    from matplotlib.figure import Figure  # no pyplot: no global state, no display

    cells, keys = result["cells"], measured(result)
    figure = Figure(figsize=(3 + 2.6 * len(keys), 1.5 + 0.3 * len(cells)), dpi=100, layout="constrained")
    panels = figure.subplots(1, len(keys), sharey=True, squeeze=False)[0]
    for axes, key in zip(panels, keys, strict=True):
        (title, scale), real = MEASURES[key], result["real"].get(key)
        for place, cell in enumerate(cells):
            if cell[key]:
                colour = "#d1495b" if cell["name"] == result["reference"] else "#3b6ea5"
                axes.plot(scale * cell[key]["value"], place, "o", color=colour, ms=5)
                axes.plot([scale * bound for bound in cell[key]["interval"] or []], [place] * 2, color=colour, lw=1.5)
        for at, line in ((real and real["value"], ":"), (result["margin"] if key == "difference" else None, "--")):
            if at is not None:
                axes.axvline(scale * at, color="#222222", ls=line, lw=1)
        axes.set_title(title, fontsize=10, loc="left")
        axes.grid(axis="x", alpha=0.25)
    panels[0].set_yticks(range(len(cells)), [cell["name"] for cell in cells], fontsize=8)
    panels[0].set_ylim(len(cells) - 0.5, -0.5)
    figure.supxlabel("bars: 95% intervals; red: the reference; dotted: real images; dashed: the margin", fontsize=8)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    return buffer.getvalue()
