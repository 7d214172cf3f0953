"""Time the released recipe against ours in one run, in turns: a training step, and whole images.

    python scripts/benchmark.py --json work/benchmark.json
    python scripts/benchmark.py --preset h100 --json work/h100.json      # about nine minutes on one GPU

The released recipe: float32, contiguous, eager, plain attention, AdamW and EMA one parameter after the other, the loss
read after every step, 1,000 steps of the cold sampler. Data and weights are random.
"""

import tempfile
from pathlib import Path
from typing import Any

import torch

from .. import dist_util
from ..benchmark import compare, generation_variants, matrix_rates, training_variants
from ..config_file import load_config, parse_override
from ..errors import InputError, Parser
from ..evaluation.tables import table
from ..file_io import ensure_writable, write_json

CONFIGS = Path(__file__).resolve().parents[2] / "configs"
MATRIX_SIZES = {"cpu": (1024, 2048), "cuda": (4096, 8192, 16384)}
BATCH = 8  # images at a time, without the preset
ROUNDS = 5  # each variant is timed so often, in turns, if time allows
NUM_STEPS = 20  # of our denoising
TINY = "model.model_channels=32 model.norm_groups=8 model.channel_mult=[1,1] model.num_res_blocks=1 data.resolution=16"
TINY += " model.attention_downsample=[]"
COLUMNS = {  # of the tables printed: how a row of `compare` shows it
    "variant": "{variant}",
    "batch": "{batch}",
    "seconds": "{seconds:.4g}",
    "images/s": "{images_per_s:.4g}",
    "ratio (quartiles)": "{ratio[0]:.4g} ({ratio[1]:.4g}-{ratio[2]:.4g})",
    "FLOP/s": "{flop_per_s:.3g}",
    "of matrix rate": "{share:.0%}",
    "peak GiB": "{peak_gib!s:.4}",
}


def main(argv: list[str] | None = None) -> int:
    parser = Parser(description=__doc__)
    add = parser.add_argument
    add("--preset", choices=("h100",), help="the released configurations at 256 px, compiled too, at their best batch")
    add("--set", action="append", default=[], metavar="SECTION.KEY=VALUE", help="override one YAML key; repeatable")
    add("--json", help="file for everything found, the single timings included")
    add("--device", default="auto", help="auto, cpu, cuda or cuda:N (auto)")
    add("--tiny", action="store_true", help="try the code on networks too small to mean anything")
    args = parser.parse_args(argv)
    batch = 2 if args.tiny else 0 if args.preset else BATCH
    device = dist_util.setup(args.device)
    if args.preset and device.type != "cuda" and not args.tiny:
        raise InputError(f"--preset {args.preset}: needs a CUDA GPU; --tiny only tries its code")
    if args.json:
        ensure_writable(str(Path(args.json).parent), "--json")

    overrides = dict(map(parse_override, (TINY.split() if args.tiny else []) + args.set))
    names, num_defect = ("{}_recep.yml", 5) if args.preset else ("demo_{}.yml", 3)
    pair = {size: load_config(CONFIGS / names.format(size), num_defect, overrides) for size in ("large", "small")}
    ways = ["off", "on"] if args.preset else ["off"]
    with tempfile.TemporaryDirectory() as folder:
        parts = {f"training step, {size}": training_variants(own, device, ways) for size, own in pair.items()}
        parts["generation"] = generation_variants(pair, device, ways, folder, (1, 2) if args.tiny else NUM_STEPS)

        rates = matrix_rates(device, (512,) if args.tiny else MATRIX_SIZES[device.type])
        name = torch.cuda.get_device_name() if device.type == "cuda" else torch.backends.cpu.get_cpu_capability()
        machine = f"{name}, {torch.get_num_threads()} threads, torch {torch.__version__}"
        print(machine, *(f"{kind} {rate / 1e12:.3g} TFLOP/s" for kind, rate in rates.items()), sep=", ", flush=True)
        found: dict[str, Any] = {"machine": machine, "settings": vars(args), "matrix_rates": rates, "tables": {}}
        status = 0
        for title, variants in parts.items():
            rows, outcome = [], "done"
            try:
                rows = compare(variants, device, rates, batch, 1 if args.tiny else ROUNDS)
            except InputError as error:  # what cannot be compiled or does not fit; other parts may do
                outcome, status = f"failed: {error}", 2
            cells = [[form.format(**row) for form in COLUMNS.values()] for row in rows]
            print(f"\n{title}: {outcome}\n{table(list(COLUMNS), cells)}", flush=True)
            found["tables"][title] = rows
            if args.json:
                write_json(args.json, found)
    return status
