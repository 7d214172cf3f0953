"""Time the released recipe against ours in one run, in turns: a training step, a forward pass, whole images.

    python scripts/benchmark.py --what train --json work/benchmark.json
    python scripts/benchmark.py --preset h100 --json work/h100.json

The released recipe: float32, contiguous, eager, plain attention, one parameter after the other in AdamW and EMA, the
loss read after every step, 1,000 steps of the cold sampler. Data and weights are random; only the JSON is kept.
"""

from __future__ import annotations

import argparse
from contextlib import nullcontext
from functools import partial
from pathlib import Path

import torch

from .. import dist_util
from ..benchmark import parts, presets
from ..benchmark.run import Benchmark, Part
from ..config import Config
from ..config_file import load_config, parse_override, read_sections
from ..diffusion.gaussian_diffusion import create_diffusion
from ..diffusion.respace import SPACINGS, parse_num_steps
from ..diffusion.samplers import SAMPLERS
from ..diffusion.two_stage import two_stage_plans
from ..errors import InputError
from ..file_io import ensure_writable
from ..generation.api import DEFAULT_SPACING
from ..training.checkpoint import check_agreement

WHAT = ("train", "forward", "generate")
# Flags that say what a preset says.
SETTLED = ("config", "num_defect", "image_size", "batch_size", "what", "compile", "ladder", "processes")
SETTLED += ("dataset_sizes", "step_inference", "full")
NUM_STEPS = "20"
STEPS_TIMED = 10  # of each network in the released walk


def parse_args(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--preset", choices=tuple(presets.PRESETS), help="all lines for a CPU, or for an H100-class GPU in 9 minutes")
    add("--config", action="append", default=[], help="YAML file; repeatable (configs/demo_large.yml, demo_small.yml)")
    add("--num_defect", type=int, default=3, help="defect types, where the YAML names none (3)")
    add("--set", action="append", default=[], metavar="SECTION.KEY=VALUE", help="override one YAML key; repeatable")
    add("--image_size", type=int, nargs=2, metavar=("H", "W"), help="pixels; default: the configuration's")
    add("--batch_size", help="a number, or auto: each variant at its best; default: the configuration's")
    add("--what", default=",".join(WHAT), help=f"of {','.join(WHAT)}, separated by commas; empty: none (all)")
    add("--compile", action="store_true", help="time ours under torch.compile too")
    add("--ladder", action="store_true", help="also what each change brings, one after the other")
    add("--profile", action="store_true", help="name the ten costliest operators of each variant")
    add("--processes", type=int, metavar="N", help="training images/s of N processes over one, a thread each (CPU)")
    add("--dataset_sizes", metavar="N,N", help="training step by size of the data set, such as 25,2500")
    add("--step_inference", type=int, default=presets.STEP_INFERENCE, help=f"hand-off ({presets.STEP_INFERENCE})")
    add("--num_steps", metavar="N|A+B", help=f"denoising steps of ours ({NUM_STEPS})")
    add("--sampler", choices=tuple(SAMPLERS), default="dpmpp_2m", help="of ours (dpmpp_2m)")
    add("--spacing", choices=SPACINGS, default=DEFAULT_SPACING, help=f"of the steps of ours ({DEFAULT_SPACING})")
    add("--full", action="store_true", help=f"walk all 1,000 released steps, not {STEPS_TIMED} of each network")
    add("--rounds", type=int, default=5, help="how often each variant is timed, in turns (5)")
    add("--minutes", type=float, help="after which a table's rounds end early")
    add("--json", help="file for everything found, the single timings included")
    add("--device", default="auto", help="auto (default), cpu, cuda or cuda:N")
    add("--tiny", action="store_true", help="try the code on networks too small to mean anything")
    args = parser.parse_args(argv)
    for name in SETTLED if args.preset else ():
        if getattr(args, name) != parser.get_default(name):
            raise InputError(f"--{name}: --preset {args.preset} settles that by itself; leave one of the two out")
    return args


def main(argv: list[str] | None = None) -> int:
    args = parse_args(argv)
    for flag, least in (("rounds", 1), ("processes", 2), ("num_defect", 1)):
        value = getattr(args, flag)
        if value is not None and value < least:
            raise InputError(f"--{flag} {value}: must be at least {least}")
    if args.minutes is not None and args.minutes <= 0:
        raise InputError(f"--minutes {args.minutes}: must be above 0")
    device = dist_util.setup(args.device)
    if args.processes and device.type != "cpu":
        raise InputError(f"--processes {args.processes}: is about processes on the CPU; add --device cpu")
    if args.preset == "h100" and device.type != "cuda" and not args.tiny:
        raise InputError("--preset h100: needs a CUDA GPU; --tiny only tries its code, --preset cpu is for the CPU")
    if args.json:
        ensure_writable(str(Path(args.json).parent), "--json")
    run = Benchmark(
        device,
        {key: value for key, value in vars(args).items() if key != "json"},
        rounds=1 if args.tiny else args.rounds,
        seconds=args.minutes and 60 * args.minutes,
        operators=args.profile,
        json_path=args.json,
        tiny=args.tiny,
    )
    overrides = (presets.TINY if args.tiny else {}) | dict(parse_override(text) for text in args.set)
    settings = {
        "num_steps": parse_num_steps(args.num_steps or ("1+2" if args.tiny else NUM_STEPS)),
        "sampler": args.sampler,
        "spacing": args.spacing,
    }
    if args.preset:
        plan = presets.PRESETS[args.preset](run, overrides, settings)
    else:
        plan = plain(args, run, overrides, settings)
    # Networks too small to mean anything are not worth compiling either.
    with torch.compiler.set_stance("force_eager") if args.tiny else nullcontext():
        return run.run(plan, presets.SECONDS.get(args.preset))


def plain(args: argparse.Namespace, run: Benchmark, overrides: dict, settings: dict) -> list[Part]:
    """The parts that the flags ask for."""
    what = [word for word in args.what.split(",") if word]
    for word in what:
        if word not in WHAT:
            raise InputError(f"--what {args.what}: must be of {', '.join(WHAT)}, separated by commas")
    batch = whole_number("--batch_size", args.batch_size) if args.batch_size not in (None, "auto") else None
    if args.image_size:
        overrides = overrides | {"data.resolution": args.image_size}
    if batch:
        overrides = overrides | {"data.bs_per_gpu": batch}
    files = args.config or [str(presets.CONFIGS / f"demo_{size}.yml") for size in ("large", "small")]
    configs = [load(file, args.num_defect, overrides) for file in files]

    def size(config: Config) -> int | None:
        return None if args.batch_size == "auto" else config.data.bs_per_gpu

    found = []
    for file, config in zip(files, configs, strict=True):
        shared = {"rungs": args.ladder, "batch": size(config)}
        if "train" in what:
            found.append(
                Part(f"training, {file}", partial(parts.training, run, config, compiled=args.compile, **shared))
            )
        if "forward" in what:
            found.append(Part(f"forward, {file}", partial(parts.forward, run, config, **shared)))
    if "generate" in what:
        pair = checked_pair(args, files, configs, settings)
        options = {"batch": size(pair[0]), "steps_timed": None if args.full else STEPS_TIMED, "compiled": args.compile}
        work = partial(parts.generation, run, pair, args.step_inference, settings=settings, **options)
        found.append(Part("generation", work))
    if args.dataset_sizes is not None:
        sizes = [whole_number("--dataset_sizes", text) for text in args.dataset_sizes.split(",")]
        found += [
            Part(f"data set sizes, {file}", partial(parts.dataset_sizes, run, config, sizes))
            for file, config in zip(files, configs, strict=True)
        ]
    if args.processes:
        found += [
            Part(f"processes, {file}", partial(parts.processes, run, config, args.processes))
            for file, config in zip(files, configs, strict=True)
        ]
    if not found:
        raise InputError("nothing to time; name something with --what, --dataset_sizes or --processes")
    return found


def load(file: str, num_defect: int, overrides: dict) -> Config:
    """A configuration, with `num_defect` types where it names none itself."""
    named = read_sections(file, overrides)["data"].get("label_map")
    return load_config(file, None if named else num_defect, overrides)


def checked_pair(args: argparse.Namespace, files: list[str], configs: list[Config], settings: dict) -> list[Config]:
    """The configurations to generate with: one, or a large and a small one that go together."""
    kinds = [config.model.patch for config in configs]
    if len(set(kinds)) < len(kinds):
        raise InputError("--what generate: takes one --config, or a large and a small one")
    if len(configs) == 2:
        check_agreement(configs[0], files[0], configs[1], files[1], ("data.resolution",))
    S = parts.shared_out(configs, args.step_inference)
    two_stage_plans(create_diffusion(configs[0]), S, settings["num_steps"], settings["spacing"], "paper")
    return configs


def whole_number(flag: str, text: str) -> int:
    try:
        value = int(text)
    except ValueError:
        value = 0
    if value < 1:
        raise InputError(f"{flag} {text}: expected whole numbers above 0")
    return value
