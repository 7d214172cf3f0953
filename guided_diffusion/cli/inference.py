"""Generate labelled images: the large network lays out the object, the small one invents local detail.

    python scripts/inference.py --large_recep work/large --small_recep work/small \\
        --sample_dir work/samples --step_inference 400 --num_samples 64

Writes images/, masks/ (colour), masks_converted_dir/ (index), defects/<type>/ (binary), manifest.jsonl and
contact_sheet.png. Run again after a stop, or with more --num_samples, it adds what is missing.
"""

from __future__ import annotations

import argparse
from typing import Any

import torch

from .. import dist_util
from ..diffusion.respace import SPACINGS, parse_num_steps
from ..diffusion.samplers import SAMPLERS
from ..diffusion.two_stage import HANDOFFS
from ..errors import InputError
from ..file_io import ensure_writable
from ..generation.api import WEIGHTS, DefectGen, parse_batch_size
from ..generation.conditions import Held, find_conditions
from ..generation.rounds import generate_rounds, provenance
from ..generation.sample_io import SampleFolder, recorded_settings
from ..generation.settings import DEFAULT_STEPS, Settings
from ..generation.windows import WINDOWS
from ..precision import PRECISIONS

DEFAULT_NUM_SAMPLES = 40  # as the released script draws
FLAGS = {  # of parameters that have another name here
    "large": "--large_recep",
    "small": "--small_recep",
    "large_config": "--large_recep_config",
    "small_config": "--small_recep_config",
    "separate_channel_loss": "--seperate_channel_loss",
    "backgrounds": "--background",
}

leave = dist_util.leave  # ends one process of several


def parse_args(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--large_recep", help="checkpoint of the large network, or its work_dir")
    add("--small_recep", help="checkpoint of the small network, or its work_dir")
    add("--sample_dir", required=True, help="folder for the samples")
    add(
        "--step_inference",
        type=int,
        default=Settings.step_inference,
        help=f"the small network takes over below this timestep ({Settings.step_inference})",
    )
    add("--large_recep_config", help="its YAML file; needed for checkpoints that carry none")
    add("--small_recep_config", help="its YAML file; needed for checkpoints that carry none")
    add("--num_defect", type=int, help="number of defect types; needed for checkpoints that carry none")
    add(
        "--seperate_channel_loss",
        "--separate_channel_loss",
        type=int,
        choices=(0, 1),
        help="whether a released checkpoint was trained with it; ours say so themselves",
    )
    add("--num_samples", type=int, help=f"in all ({DEFAULT_NUM_SAMPLES}; with --masks one for each)")
    add("--batch_size", default="auto", metavar="N|auto", help="per process; does not change samples (auto)")
    add("--image_size", type=int, nargs=2, metavar=("H", "W"), help="pixels; default: as in training")
    add("--windows", choices=WINDOWS, default="auto", help="see the image in windows as in training (auto: if large)")
    add("--seed", type=int, default=0)
    add("--sampler", choices=tuple(SAMPLERS), default=Settings.sampler, help=f"({Settings.sampler})")
    add("--num_steps", metavar="N|A+B", help=f"denoising steps: in all, or large + small network ({DEFAULT_STEPS})")
    add("--spacing", choices=SPACINGS, default=Settings.spacing, help=f"of the steps ({Settings.spacing})")
    add("--weights", choices=WEIGHTS, default="ema", help="(ema)")
    add("--handoff", choices=HANDOFFS, default="paper", help="released: the released script's restart (paper)")
    add(
        "--defects", nargs="+", metavar="TYPES", help="what samples show, in turn: crack, or crack,hole; balanced; none"
    )
    add("--guidance_scale", type=float, default=1.0, help="above 1: networks keep closer to the types (1)")
    add("--masks", metavar="DIR|bank", help="index masks that samples must have; bank: new ones like the training's")
    add("--types_per_image", type=int, default=1, help="with --masks bank (1)")
    add("--bank_data", metavar="DIR", help="data set for --masks bank (default: the large network's training set)")
    add("--background", metavar="DIR", help="photographs to draw the defects of --masks into")
    add("--margin", type=int, default=Settings.margin, help=f"pixels around a defect drawn anew ({Settings.margin})")
    add("--device", default="auto", help="auto (default), cpu, cuda or cuda:N")
    add(
        "--precision", choices=(*PRECISIONS, "auto"), default="auto", help="auto (default): bf16 where the hardware can"
    )
    add("--compile", choices=("on", "off"), default="off", help="torch.compile (off)")
    add("--local_rank", "--local-rank", help=argparse.SUPPRESS)  # older launchers pass it; the environment knows
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> int:
    args = parse_args(argv)
    if args.num_samples is not None and args.num_samples < 1:
        raise InputError(f"--num_samples {args.num_samples}: must be at least 1")
    if args.seed < 0:
        raise InputError(f"--seed {args.seed}: must be 0 or more")
    args.batch_size = parse_batch_size(args.batch_size)
    if args.num_steps is not None:
        args.num_steps = parse_num_steps(args.num_steps)
    generate(args, dist_util.setup(args.device))
    dist_util.barrier()
    return 0


def generate(args: argparse.Namespace, device: torch.device) -> None:
    def given(*names: str) -> dict[str, Any]:
        return {name: getattr(args, name) for name in names}

    precision = args.precision
    if precision == "auto":  # a folder that is continued keeps its own
        precision = recorded_settings(args.sample_dir).get("precision", "auto")
    generator = DefectGen.load(
        args.large_recep,
        args.small_recep,
        large_config=args.large_recep_config,
        small_config=args.small_recep_config,
        separate_channel_loss=None if args.seperate_channel_loss is None else bool(args.seperate_channel_loss),
        device=device,
        precision=precision,
        **given("num_defect", "weights"),
    )
    settings = generator.settings(
        **given("step_inference", "num_steps", "sampler", "spacing", "handoff", "image_size", "windows"),
        **given("guidance_scale", "margin"),
        defects=None if args.masks == "bank" else args.defects,  # these masks show the types
    )
    if args.num_samples is None and args.masks in (None, "bank"):
        args.num_samples = DEFAULT_NUM_SAMPLES
    conditions = find_conditions(
        generator.config,
        settings,
        **given("masks", "background", "bank_data", "types_per_image", "defects", "seed", "num_samples"),
    )
    # Before anything is written:
    Held(generator.layout, device, settings, conditions.masks, conditions.backgrounds)
    if args.num_samples is None:  # one for each mask
        args.num_samples = len(conditions.masks)

    folder = missing = None
    if dist_util.rank() == 0:
        about = provenance(generator, settings, args.seed, args.weights, conditions)
        folder = SampleFolder(args.sample_dir, generator.layout.class_names, about)
        ensure_writable(args.sample_dir, "--sample_dir")
        missing = folder.missing(args.num_samples)
        if len(missing) < args.num_samples:
            print(f"{args.num_samples - len(missing)} of {args.num_samples} samples are there already")
    missing = dist_util.broadcast_from_zero(missing)

    compile = args.compile == "on"
    generate_rounds(generator, settings, args.seed, missing, conditions, folder, args.batch_size, compile)
    if folder:
        print(f"{args.num_samples} samples in {args.sample_dir}; look at {folder.write_contact_sheet()}", flush=True)
