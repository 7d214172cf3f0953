"""Time the released recipe against ours in one run, in turns: a training step, and whole images.

    python scripts/benchmark.py --json work/benchmark.json
    python scripts/benchmark.py --preset h100 --json work/h100.json      # six minutes on one GPU

The released recipe: float32, contiguous, eager, plain attention, AdamW and EMA one parameter after the other, the loss
read after every step, 1,000 steps of the cold sampler. Data and weights are random. The preset first holds small
networks against the CPU's. A table is printed and written as soon as it is there: a run that is cut off keeps it.
"""

import argparse
import multiprocessing
import sys
import tempfile
import time
from pathlib import Path

import torch
from benchmarks.released import Rows, compare, generation_variants, matrix_rates, training_variants, why
from benchmarks.smoke import smoke

from guided_diffusion import dist_util
from guided_diffusion.config import Config
from guided_diffusion.config_file import load_config, parse_override
from guided_diffusion.errors import InputError, Parser
from guided_diffusion.evaluation.tables import table
from guided_diffusion.file_io import read_json, write_json

ROOT = Path(__file__).resolve().parents[2]
MATRIX_SIZES = {"cpu": (1024, 2048), "cuda": (4096, 8192, 16384)}
BATCH, PRESET_BATCH = 8, 16  # images at a time
ROUNDS, PRESET_ROUNDS = 5, 3  # each variant is timed so often, in turns, if time allows
NUM_STEPS = 20  # of our denoising
TINY = "model.channel_mult=[1,2] model.num_res_blocks=1 model.attention_downsample=[2] data.resolution=16"
CHECKED = TINY + " model.class_cond=true model.augment=0.15 train.known_share=0.5 data.flip=both data.bs_per_gpu=4"
CHECKED += " model.model_channels=96 model.norm_groups=16"  # six channels a group, as in the released small network
NARROW = " model.model_channels=16 model.norm_groups=4 model.num_head_channels=8"
# With the preset, seconds until each part is cut off; what one leaves, those that follow may take. The last ones of a
# part are for profiles. Without it, seconds after which no other round begins.
PARTS = {"machine": 40, "smoke": 100, "training step, small": 80, "training step, large": 85, "generation": 45}
PROFILES, LONGEST = 15, 160


def main(argv: list[str] | None = None) -> int:
    parser = Parser(description=__doc__)
    add = parser.add_argument
    add("--preset", choices=("h100",), help="the released configurations at 256 px, compiled too")
    add("--set", action="append", default=[], metavar="SECTION.KEY=VALUE", help="override one YAML key; repeatable")
    add("--json", help="file for everything found, the single timings included")
    add("--device", default="auto", help="auto, cpu, cuda or cuda:N (auto)")
    add("--tiny", action="store_true", help="try the code on networks too small to mean anything")
    args = parser.parse_args(argv)
    read_pair(args)  # what is wrong with --set is said now
    end, status = time.perf_counter(), 0
    with tempfile.TemporaryDirectory() as folder:
        args.json = args.json or f"{folder}/found.json"
        write_json(args.json, {"settings": vars(args)})
        for part, seconds in PARTS.items():
            if part == "smoke" and not args.preset:
                continue
            end += seconds
            left = max(1.0, end - time.perf_counter()) if args.preset else None
            # In a process, so that neither a crash nor an endless compilation costs the next part. A fork, as libraries
            # are loaded already: this process must leave the GPU alone.
            process = multiprocessing.get_context("fork").Process(target=work, args=(part, args, left, folder))
            process.start()
            process.join(left)
            if process.exitcode is None or process.exitcode < 0:
                how = f"ended by signal {-process.exitcode}" if process.exitcode else f"cut off after {left:.0f} s"
                print(f"\n{part}: {how}", flush=True)
            process.kill()
            process.join()
            status = 2 if process.exitcode else status
            if part == "machine" and status:
                break
    return status


def work(part: str, args: argparse.Namespace, seconds: float | None, folder: str) -> None:
    """Do one of PARTS, print its tables and add them to the file, and end this process. folder: for other files."""
    began, preset, tiny, found = time.perf_counter(), bool(args.preset), args.tiny, read_json(args.json)
    own = found[part] = {}

    def tell(title: str, rows: Rows) -> None:
        own[title] = rows
        write_json(args.json, found)
        shown = [
            {k: f"{v:.4g}" if isinstance(v, float) else v for k, v in row.items() if k != "readings"} for row in rows
        ]
        print(
            f"\n{part}, {title}", shown and table(list(shown[0]), [row.values() for row in shown]), sep="\n", flush=True
        )

    try:
        device = dist_util.setup(args.device)
        if preset and device.type != "cuda" and not tiny:
            raise InputError(f"--preset {args.preset}: needs a CUDA GPU; --tiny only tries its code")
        rates = {row["product"]: row["FLOP/s"] for rows in found["machine"].values() for row in rows}
        ways, until = (["off", "on"], began + seconds - PROFILES) if preset else (["off"], began + LONGEST)
        rounds, batch = (1, 2) if tiny else (PRESET_ROUNDS, PRESET_BATCH) if preset else (ROUNDS, BATCH)
        how = {"batch": batch, "rounds": rounds, "until": until, "profiled": preset}
        if part == "machine":
            told = matrix_rates(device, (512,) if tiny else MATRIX_SIZES[device.type])
            capable = torch.backends.cpu.get_cpu_capability()
            name = torch.cuda.get_device_name() if device.type == "cuda" else capable
            title = f"{name}, {torch.get_num_threads()} threads, torch {torch.__version__}"
            tell(title, [{"product": kind, "FLOP/s": rate} for kind, rate in told.items()])
        elif part == "smoke":
            smoke(read_pair(args, CHECKED), device, folder, tell)
        elif part == "generation":
            ways = ways[:1]  # it runs as CUDA graphs, and compiling would last too long
            variants = generation_variants(read_pair(args), device, ways, folder, (1, 2) if tiny else NUM_STEPS)
            compare(variants, device, rates, tell, **how)
        else:
            compare(training_variants(read_pair(args)[part.split()[-1]], device, ways), device, rates, tell, **how)
    except (Exception, KeyboardInterrupt) as error:  # the next part may do
        sys.exit(f"error: {part}: {why(error)}")
    sys.exit(not all(own.values()))


def read_pair(args: argparse.Namespace, overrides: str = "") -> dict[str, Config]:
    """The networks that are timed; or those of the overrides."""
    name, num_defect = ("{}_recep.yml", 5) if args.preset else ("demo_{}.yml", 3)
    given = [*(overrides or TINY * args.tiny).split(), *(NARROW * args.tiny).split(), *([] if overrides else args.set)]
    files = {size: ROOT / "configs" / name.format(size) for size in ("large", "small")}
    return {size: load_config(file, num_defect, dict(map(parse_override, given))) for size, file in files.items()}
