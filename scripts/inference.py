"""Generate labelled images: the large network lays out the object, the small one invents local detail.

    python scripts/inference.py --large_recep work/large --small_recep work/small \\
        --sample_dir work/samples --step_inference 400 --num_samples 64

Writes images/, masks/ (colour), masks_converted_dir/ (index), defects/<type>/ (binary), manifest.jsonl and
contact_sheet.png. Run again after a stop, or with more --num_samples, it adds what is missing.
"""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import torch  # noqa: E402
from tqdm import tqdm  # noqa: E402

from guided_diffusion import dist_util  # noqa: E402
from guided_diffusion.api import BATCH_SIZE, DEFAULT_SAMPLER, DEFAULT_STEPS, DefectGen  # noqa: E402
from guided_diffusion.errors import InputError, run_cli  # noqa: E402
from guided_diffusion.file_io import ensure_writable  # noqa: E402
from guided_diffusion.respace import Pair  # noqa: E402
from guided_diffusion.sample_io import SampleFolder  # noqa: E402
from guided_diffusion.samplers import SAMPLERS  # noqa: E402
from guided_diffusion.two_stage import HANDOFFS  # noqa: E402

DEFAULT_NUM_SAMPLES = 40  # as the released script draws


def parse_args(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--large_recep", help="checkpoint of the large network, or its work_dir")
    add("--small_recep", help="checkpoint of the small network, or its work_dir")
    add("--sample_dir", required=True, help="folder for the samples")
    add(
        "--step_inference",
        type=int,
        default=400,
        help="the small network takes over below this timestep (400)",
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
    add("--num_samples", type=int, default=DEFAULT_NUM_SAMPLES, help=f"in all ({DEFAULT_NUM_SAMPLES})")
    add(
        "--batch_size",
        type=int,
        default=BATCH_SIZE,
        help=f"per process ({BATCH_SIZE}); does not change samples",
    )
    add("--image_size", type=int, nargs=2, metavar=("H", "W"), help="pixels; default: as in training")
    add("--seed", type=int, default=0)
    add("--sampler", choices=tuple(SAMPLERS), default=DEFAULT_SAMPLER, help=f"({DEFAULT_SAMPLER})")
    add("--num_steps", type=int, help=f"denoising steps over both networks ({DEFAULT_STEPS})")
    add("--weights", choices=("ema", "model"), default="ema", help="(ema)")
    add("--handoff", choices=HANDOFFS, default="paper", help="released: the released script's restart (paper)")
    add("--device", default="auto", help="auto (default), cpu, cuda or cuda:N")
    add("--precision", choices=("fp32", "bf16"), default="fp32", help="(fp32)")
    add("--local_rank", "--local-rank", help=argparse.SUPPRESS)  # older launchers pass it; the environment knows
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> int:
    args = parse_args(argv)
    for flag in ("num_samples", "batch_size"):
        if getattr(args, flag) < 1:
            raise InputError(f"--{flag} {getattr(args, flag)}: must be at least 1")
    if args.seed < 0:
        raise InputError(f"--seed {args.seed}: must be 0 or more")
    device = dist_util.setup(args.device)
    try:
        return generate(args, device)
    finally:
        dist_util.cleanup()


def generate(args: argparse.Namespace, device: torch.device) -> int:
    generator = DefectGen.load(
        args.large_recep,
        args.small_recep,
        large_config=args.large_recep_config,
        small_config=args.small_recep_config,
        num_defect=args.num_defect,
        separate_channel_loss=None if args.seperate_channel_loss is None else bool(args.seperate_channel_loss),
        weights=args.weights,
        device=device,
        precision=args.precision,
    )
    settings = generator.check_settings(
        args.step_inference, args.num_steps, args.sampler, args.handoff, args.image_size
    )
    folder = missing = None
    if dist_util.rank() == 0:
        folder = SampleFolder(args.sample_dir, generator.layout.class_names, provenance(args, generator, settings))
        ensure_writable(args.sample_dir, "--sample_dir")
        missing = folder.missing(args.num_samples)
        if len(missing) < args.num_samples:
            print(f"{args.num_samples - len(missing)} of {args.num_samples} samples are there already")
    missing = dist_util.broadcast_from_zero(missing)

    own = missing[dist_util.rank() :: dist_util.world_size()]
    rounds = math.ceil(math.ceil(len(missing) / dist_util.world_size()) / args.batch_size)
    with tqdm(total=rounds * settings["num_steps"], unit="step", disable=dist_util.rank() > 0) as bar:
        for i in range(rounds):
            part = own[i * args.batch_size : (i + 1) * args.batch_size]
            batch = generator.generate(
                part,
                seed=args.seed,
                batch_size=args.batch_size,
                progress=lambda pairs: counted(pairs, bar),
                **settings,
            )
            for indices, images, masks in dist_util.gather_to_zero((part, batch.images, batch.masks)) or ():
                folder.add(indices, images, masks)
    if folder:
        print(f"{args.num_samples} samples in {args.sample_dir}; look at {folder.write_contact_sheet()}")
    return 0


def counted(pairs: Iterable[Pair], bar: tqdm) -> Iterator[Pair]:
    """Pass the pairs on, moving the bar as each is done."""
    for pair in pairs:
        yield pair
        bar.update()


def provenance(args: argparse.Namespace, generator: DefectGen, settings: dict) -> dict:
    """Everything that decides the samples, for the manifest."""
    networks = {"large": generator.large, "small": generator.small}
    return {
        "seed": args.seed,
        **settings,
        "weights": args.weights,
        "precision": args.precision,
        "checkpoints": {name: network and network.sha256 for name, network in networks.items()},
        "class_names": list(generator.layout.class_names),
    }


if __name__ == "__main__":
    run_cli(main)
