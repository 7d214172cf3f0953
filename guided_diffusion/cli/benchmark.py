"""Time the released recipe against ours in one run, in turns: a training step, and whole images.

    python scripts/benchmark.py --json work/benchmark.json
    python scripts/benchmark.py --preset h100 --json work/h100.json      # under nine minutes on one GPU

The released recipe: float32, contiguous, eager, plain attention, AdamW and EMA one parameter after the other, the loss
read after every step, 1,000 steps of the cold sampler. Data and weights are random.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path
from typing import Any

import torch

from .. import dist_util
from ..benchmark.timing import OutOfTime, Variant, compare, costliest, matrix_rates, time_limit
from ..benchmark.variants import generation_variants, training_variants
from ..config_file import load_config, parse_override
from ..diffusion.respace import parse_num_steps
from ..errors import InputError
from ..file_io import ensure_writable, write_json
from ..training.checkpoint import check_agreement

CONFIGS = Path(__file__).resolve().parents[2] / "configs"
MATRIX_SIZES = {"cpu": (1024, 2048), "cuda": (4096, 8192, 16384)}
PART_SECONDS = 160  # of each of the preset's three parts
TINY = "model.model_channels=32 model.norm_groups=8 model.channel_mult=[1,1] model.num_res_blocks=1 data.resolution=16"
TINY += " model.attention_downsample=[]"


def parse_args(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--preset", choices=("h100",), help="the released configurations at 256 px, compiled too, at their best batch")
    add("--large", default=str(CONFIGS / "demo_large.yml"), help="YAML file of the large network (demo_large.yml)")
    add("--small", default=str(CONFIGS / "demo_small.yml"), help="YAML file of the small network (demo_small.yml)")
    add("--num_defect", type=int, default=3, help="number of defect types (3)")
    add("--set", action="append", default=[], metavar="SECTION.KEY=VALUE", help="override one YAML key; repeatable")
    add("--what", choices=("train", "generate", "both"), default="both", help="what is timed (both)")
    add("--batch_size", type=int, default=8, help="images at a time; 0: each variant at its best (8)")
    add("--compile", action="store_true", help="time ours under torch.compile too")
    add("--operators", action="store_true", help="name the ten costliest operators of ours")
    add("--step_inference", type=int, default=400, help="hand-off (400)")
    add("--num_steps", default="20", metavar="N|A+B", help="denoising steps of ours (20)")
    add("--rounds", type=int, default=5, help="how often each variant is timed, in turns (5)")
    add("--json", help="file for everything found, the single timings included")
    add("--device", default="auto", help="auto, cpu, cuda or cuda:N (auto)")
    add("--tiny", action="store_true", help="try the code on networks too small to mean anything")
    args = parser.parse_args(argv)
    if args.rounds < 1 or args.batch_size < 0:
        raise InputError("--rounds and --batch_size: must be at least 1 and 0")
    if args.preset:
        args.large, args.small = (str(CONFIGS / f"{size}_recep.yml") for size in ("large", "small"))
        args.num_defect, args.compile, args.operators, args.batch_size = 5, True, True, 0
    if args.tiny:
        args.rounds, args.batch_size, args.num_steps = 1, 2, "1+2"
    return args


def main(argv: list[str] | None = None) -> int:
    args = parse_args(argv)
    device = dist_util.setup(args.device)
    if args.preset and device.type != "cuda" and not args.tiny:
        raise InputError(f"--preset {args.preset}: needs a CUDA GPU; --tiny only tries its code")
    if args.json:
        ensure_writable(str(Path(args.json).parent), "--json")
    overrides = dict(map(parse_override, (TINY.split() if args.tiny else []) + args.set))
    pair = [load_config(file, args.num_defect, overrides) for file in (args.large, args.small)]
    check_agreement(pair[0], args.large, pair[1], args.small, ("data.resolution",))
    ways, parts, S = ["off", "on"] if args.compile else ["off"], {}, args.step_inference
    with tempfile.TemporaryDirectory() as folder:
        if args.what != "generate":
            for size, config in zip(("large", "small"), pair, strict=True):
                parts[f"training step, {size}"] = training_variants(config, device, ways)
        if args.what != "train":
            steps = parse_num_steps(args.num_steps)
            parts[f"generation, hand-off at {S}"] = generation_variants(pair, device, ways, folder, S, steps)
        return run(parts, args, device)


def run(parts: dict[str, list[Variant]], args: argparse.Namespace, device: torch.device) -> int:
    """Time the parts in turn; print each table as it comes, and write all to --json. Returns the exit status."""
    rates = matrix_rates(device, (512,) if args.tiny else MATRIX_SIZES[device.type])
    name = torch.cuda.get_device_name() if device.type == "cuda" else torch.backends.cpu.get_cpu_capability()
    machine = f"{name}, {torch.get_num_threads()} threads, torch {torch.__version__}"
    print(machine, *(f"{kind} {rate / 1e12:.3g} TFLOP/s" for kind, rate in rates.items()), sep=", ", flush=True)
    found: dict[str, Any] = {"machine": machine, "settings": vars(args), "matrix_rates": rates, "tables": {}}
    status, budget = 0, PART_SECONDS if args.preset and not args.tiny else None
    for title, variants in parts.items():
        rows, outcome = found["tables"].setdefault(title, []), "done"
        try:
            with time_limit(budget):
                for row in compare(variants, device, rates, args.batch_size, args.rounds):
                    rows.append(row)
                    call = row.pop("call")
                    if args.operators and len(rows) > 1:
                        row["operators"] = costliest(call, device)
        except OutOfTime:
            outcome = f"ran out of its {budget} s"
        except InputError as error:  # what cannot be compiled or does not fit; other parts may do
            outcome, status = f"failed: {error}", 2
        print(f"\n{title}: {outcome}\n{as_text(rows)}", flush=True)
        if args.json:
            write_json(args.json, found)
    return status


def as_text(rows: list[dict[str, Any]]) -> str:
    """A line per variant, operators below."""
    lines = ["variant              batch   seconds  images/s  ratio (quartiles)      TFLOP/s  of matrix rate  peak GiB"]
    for row in rows:
        ratio, low, high = row["ratio"]
        peak = "-" if row["peak_gib"] is None else f"{row['peak_gib']:.2f}"
        lines.append(
            f"{row['variant']:20} {row['batch']:5} {row['seconds']:9.4g} {row['images_per_s']:9.4g}  {ratio:5.4g} "
            f"{f'({low:.4g}-{high:.4g})':16} {row['flop_per_s'] / 1e12:8.3g}  {row['share']:14.0%}  {peak:>8}"
        )
    return "\n".join(lines + [row["operators"] for row in rows if "operators" in row])
