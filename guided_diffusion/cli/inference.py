"""Generate labelled images: the large network lays out the object, the small one invents local detail.

    python scripts/inference.py --large_recep work/large --small_recep work/small \\
        --sample_dir work/samples --step_inference 400 --num_samples 64

Writes images/, masks/ (colour), masks_converted_dir/ (index), defects/<type>/ (binary), manifest.jsonl and
contact_sheet.png. A second run, after a stop or with more --num_samples, adds the missing samples.
"""

import argparse
from typing import Any

from .. import MAX_TYPES, dist_util
from ..data.records import recorded_settings
from ..diffusion.respace import SPACINGS
from ..diffusion.samplers import SAMPLERS
from ..diffusion.two_stage import HANDOFFS
from ..errors import InputError, Parser, check_range
from ..file_io import lies_in
from ..generation.api import DefectGen
from ..generation.conditions import read_conditions
from ..generation.insertion import read_insertions
from ..generation.network import WEIGHTS
from ..generation.settings import DEFAULT_STEPS, Settings
from ..generation.windows import WINDOWS
from ..precision import PRECISIONS

DEFAULT_NUM_SAMPLES = 40  # as the released script draws
# Of parameters that have another name here.
FLAGS = {"large": "--large_recep", "small": "--small_recep", "separate_channel_loss": "--seperate_channel_loss"}
FLAGS |= {"large_config": "--large_recep_config", "small_config": "--small_recep_config"}

leave = dist_util.leave  # ends one process of several


def parse_args(argv: list[str] | None) -> argparse.Namespace:
    parser = Parser(description=__doc__)
    add = parser.add_argument
    add_networks(parser)
    add("--sample_dir", required=True, help="folder for the samples")
    about = f"the small network takes over below this timestep ({Settings.step_inference})"
    add("--step_inference", type=int, default=Settings.step_inference, help=about)
    add("--num_samples", type=int, help=f"in all ({DEFAULT_NUM_SAMPLES}; with --masks DIR one for each mask)")
    add("--batch_size", default="auto", metavar="N|auto", help="per process; does not change samples (auto)")
    add("--image_size", type=int, nargs=2, metavar=("H", "W"), help="pixels; default: as in training")
    add("--windows", choices=WINDOWS, default="auto", help="windows of training size (auto: above 4 times the area)")
    add("--seed", type=int, default=0, help="of all noise (0)")
    add("--sampler", choices=tuple(SAMPLERS), default=Settings.sampler, help=f"({Settings.sampler})")
    add("--num_steps", metavar="N|A+B", help=f"denoising steps: in all, or large + small network ({DEFAULT_STEPS})")
    add("--spacing", choices=SPACINGS, default=Settings.spacing, help=f"uniform in t or log-SNR ({Settings.spacing})")
    add("--weights", choices=WEIGHTS, default="ema", help="ema, or model: the last step's weights (ema)")
    add("--handoff", choices=HANDOFFS, default="paper", help="released: each network restarts its schedule (paper)")
    about = "types in turn: crack crack,hole none; balanced: each type; training: as in its images (default)"
    add("--defects", nargs="+", metavar="TYPES", help=about)
    add("--guidance_scale", type=float, default=1.0, help="classifier-free guidance by type; 1: off (1)")
    add("--masks", metavar="DIR|bank", help="index masks that samples must have; bank: new ones like the training's")
    add("--types_per_image", type=int, default=1, help="types in a mask, with --masks bank and no --background (1)")
    add("--bank_data", metavar="DIR", help="data set for --masks bank (default: the large network's training set)")
    add("--background", metavar="DIR", help="photographs, of any size, to draw the defects of --masks into")
    add("--where", metavar="DIR|anywhere", help="images whose pixels above 0 allow defects (default: as in training)")
    add("--defects_per_image", metavar="N|N-M", help="defects in a photograph, with --masks bank (1)")
    about = "photograph pixels per training pixel, or down and across (default: as training recorded)"
    add("--scale", type=float, nargs="+", metavar="F", help=about)
    about = f"training pixels around a defect that may change ({Settings.margin})"
    add("--margin", type=int, default=Settings.margin, help=about)
    add("--device", default="auto", help="auto (default), cpu, cuda or cuda:N")
    add("--precision", choices=(*PRECISIONS, "auto"), default="auto", help="auto: bf16 where the hardware can (auto)")
    add("--compile", choices=("on", "off"), default="off", help="torch.compile (off)")
    add("--local_rank", "--local-rank", help=argparse.SUPPRESS)  # older launchers pass it; the environment knows
    args = parser.parse_args(argv)
    if args.defects_per_image:
        low, _, high = args.defects_per_image.partition("-")
        if not (low.isdecimal() and (high or low).isdecimal()):
            parser.error(f"--defects_per_image {args.defects_per_image}: should be a number, or two as in 1-3")
        args.defects_per_image = int(low), int(high or low)
    return args


def add_networks(parser: argparse.ArgumentParser) -> None:
    """The flags that name trained networks."""
    add = parser.add_argument
    add("--large_recep", dest="large", help="large network: its work_dir, a checkpoint, or a packed pair, both in one")
    add("--small_recep", dest="small", help="the same for the small network")
    add("--large_recep_config", dest="large_config", help="its YAML file, for a checkpoint without configuration")
    add("--small_recep_config", dest="small_config", help="the same for the small network")
    add("--num_defect", type=int, help="number of defect types, for a checkpoint without configuration")
    add("--seperate_channel_loss", "--separate_channel_loss", type=int, choices=(0, 1), help="for released checkpoints")


def given_networks(args: argparse.Namespace) -> dict[str, Any]:
    """What add_networks added, as arguments of DefectGen.load."""
    check_range(args, num_defect=(1, MAX_TYPES))
    names = ("large", "small", "large_config", "small_config", "num_defect")
    separate = None if args.seperate_channel_loss is None else bool(args.seperate_channel_loss)
    return {name: getattr(args, name) for name in names} | {"separate_channel_loss": separate}


def main(argv: list[str] | None = None) -> None:
    args = parse_args(argv)
    check_range(args, num_samples=(1, 10**6), seed=(0, 10**18), image_size=(1, 2**16))
    device = dist_util.setup(args.device)

    def given(*names: str) -> dict[str, Any]:
        return {name: getattr(args, name) for name in names}

    precision = args.precision
    if precision == "auto":  # a folder that is continued keeps its own
        precision = recorded_settings(args.sample_dir).get("precision", "auto")
    generator = DefectGen.load(**given_networks(args), weights=args.weights, device=device, precision=precision)
    settings = generator.settings(
        **given("step_inference", "sampler", "num_steps", "spacing", "handoff", "image_size", "windows"),
        **given("guidance_scale", "margin"),
        defects=None if args.masks == "bank" else args.defects,  # these masks show the types
    )
    if args.num_samples is None and args.masks in (None, "bank"):
        args.num_samples = DEFAULT_NUM_SAMPLES
    photographs = given("where", "scale", "defects_per_image")
    told = given("masks", "bank_data", "defects", "seed")
    for name in ("masks", "background", "where"):  # where samples would count as more of them
        if (folder := getattr(args, name)) and lies_in(args.sample_dir, folder):
            raise InputError(f"--sample_dir {args.sample_dir}: lies in --{name} {folder}; name another folder")
    if args.background:
        if args.types_per_image != 1:
            raise InputError("--types_per_image: goes without --background; give --defects_per_image or --defects")
        told |= {"background": args.background, "num_samples": args.num_samples}
        conditions = read_insertions(generator.config, settings, **photographs, **told)
    else:
        if wrong := [name for name, value in photographs.items() if value]:
            raise InputError(f"--{wrong[0]}: needs --background")
        conditions = read_conditions(generator.config, settings, **told, **given("types_per_image", "num_samples"))
    count = args.num_samples or len(conditions.names)  # one for each mask
    how = given("seed", "batch_size") | {"compile": args.compile == "on"}
    folder = generator.generate_into(args.sample_dir, count, settings, conditions, **how)
    if folder:
        count -= len(folder.missing(count))  # of photographs without room
        made = f"{count} sample{'s' * (count != 1)} in {args.sample_dir}"
        if folder.num_empty == count and not args.defects:
            made += ", all without a defect: train longer"
        print(f"{made}; look at {folder.write_contact_sheet()}", flush=True)
    dist_util.barrier()
