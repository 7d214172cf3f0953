"""Generate labelled images: the large network lays out the object, the small one invents local detail.

    python scripts/inference.py --large_recep work/large --small_recep work/small \\
        --sample_dir work/samples --step_inference 400 --num_samples 64

Writes images/, masks/ (colour), masks_converted_dir/ (index), defects/<type>/ (binary), manifest.jsonl and
contact_sheet.png. Run again after a stop, or with more --num_samples, it adds what is missing.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np
import torch
from tqdm import tqdm

from .. import dist_util
from ..batches import parse_batch_size
from ..config import DataConfig
from ..diffusion.conditioning import DEFAULT_MARGIN, check_guided
from ..diffusion.respace import SPACINGS, Pair, parse_num_steps, total_steps
from ..diffusion.samplers import SAMPLERS
from ..diffusion.two_stage import HANDOFFS
from ..errors import InputError
from ..file_io import ensure_writable
from ..generation.annotation import annotate_folder, check_annotation
from ..generation.api import DEFAULT_SAMPLER, DEFAULT_SPACING, DEFAULT_STEPS, DefectGen
from ..generation.conditions import Conditions, find_conditions
from ..generation.sample_io import SampleFolder, recorded_settings
from ..generation.windows import WINDOWS
from ..tuning import PRECISIONS, CompileError, decide_compile

DEFAULT_DRAWS = 8
DEFAULT_NUM_SAMPLES = 40  # as the released script draws

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
    add("--num_samples", type=int, help=f"in all ({DEFAULT_NUM_SAMPLES}; with --masks one for each)")
    add(
        "--batch_size",
        default="auto",
        metavar="N|auto",
        help="per process (auto: as many as fit and pay); does not change samples",
    )
    add("--image_size", type=int, nargs=2, metavar=("H", "W"), help="pixels; default: as in training")
    add("--windows", choices=WINDOWS, default="auto", help="see the image in windows as in training (auto: if large)")
    add("--upscale", type=int, default=1, metavar="N", help="the large network works at 1/N of the image size (1)")
    add("--seed", type=int, default=0)
    add("--sampler", choices=tuple(SAMPLERS), default=DEFAULT_SAMPLER, help=f"({DEFAULT_SAMPLER})")
    add("--num_steps", metavar="N|A+B", help=f"denoising steps: in all, or large + small network ({DEFAULT_STEPS})")
    add("--spacing", choices=SPACINGS, default=DEFAULT_SPACING, help=f"of the steps ({DEFAULT_SPACING})")
    add("--weights", choices=("ema", "model"), default="ema", help="(ema)")
    add("--handoff", choices=HANDOFFS, default="paper", help="released: the released script's restart (paper)")
    add(
        "--defects", nargs="+", metavar="TYPES", help="what samples show, in turn: crack, or crack,hole; balanced; none"
    )
    add("--guidance_scale", type=float, default=1.0, help="above 1: networks keep closer to the types (1)")
    add("--masks", metavar="DIR|bank", help="index masks that samples must have; bank: new ones like the training's")
    add("--types_per_image", type=int, default=1, help="with --masks bank (1)")
    add("--bank_data", metavar="DIR", help="data set for --masks bank (default: the large network's training set)")
    add("--background", metavar="DIR", help="photographs to draw the defects of --masks into")
    add("--margin", type=int, default=DEFAULT_MARGIN, help=f"pixels around a defect drawn anew ({DEFAULT_MARGIN})")
    add("--annotate", metavar="DIR", help="photographs to propose masks for, instead of generating images")
    add("--draws", type=int, default=DEFAULT_DRAWS, help=f"masks drawn for each photograph ({DEFAULT_DRAWS})")
    add("--device", default="auto", help="auto (default), cpu, cuda or cuda:N")
    add("--precision", choices=(*PRECISIONS, "auto"), default="auto", help="auto (default): the faster one, measured")
    add("--compile", choices=("on", "off", "auto"), default="auto", help="torch.compile; auto: where it pays")
    add("--local_rank", "--local-rank", help=argparse.SUPPRESS)  # older launchers pass it; the environment knows
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> int:
    args = parse_args(argv)
    if args.num_samples is not None and args.num_samples < 1:
        raise InputError(f"--num_samples {args.num_samples}: must be at least 1")
    args.batch_size = parse_batch_size(args.batch_size)
    if args.seed < 0:
        raise InputError(f"--seed {args.seed}: must be 0 or more")
    if args.num_steps is not None:
        args.num_steps = parse_num_steps(args.num_steps)
    device = dist_util.setup(args.device)
    generate(args, device)
    dist_util.all_done()
    return 0


def generate(args: argparse.Namespace, device: torch.device) -> None:
    precision = args.precision
    if precision == "auto":  # a folder that is continued keeps its own
        precision = recorded_settings(args.sample_dir).get("precision", "auto")
    generator = DefectGen.load(
        args.large_recep,
        args.small_recep,
        large_config=args.large_recep_config,
        small_config=args.small_recep_config,
        num_defect=args.num_defect,
        separate_channel_loss=None if args.seperate_channel_loss is None else bool(args.seperate_channel_loss),
        weights=args.weights,
        device=device,
        precision=precision,
    )
    crop_from = generator.config.data.crop_from
    if args.annotate and crop_from and args.image_size is None:  # trained on windows of photographs of that size
        args.image_size, args.windows = list(crop_from), "on" if args.windows == "auto" else args.windows
    settings = generator.check_settings(
        args.step_inference,
        args.num_steps,
        sampler=args.sampler,
        spacing=args.spacing,
        handoff=args.handoff,
        image_size=args.image_size,
        windows=args.windows,
        upscale=args.upscale,
        defects=None if args.masks else args.defects,  # with masks, these tell the types
        guidance_scale=args.guidance_scale,
    )
    if args.annotate:
        annotate(args, generator, settings)
        return
    if args.num_samples is None and args.masks in (None, "bank"):
        args.num_samples = DEFAULT_NUM_SAMPLES
    conditions = find_conditions(args, generator, settings)
    if args.num_samples is None:  # one for each mask
        args.num_samples = len(conditions)
    folder = missing = None
    if dist_util.rank() == 0:
        folder = SampleFolder(
            args.sample_dir, generator.layout.class_names, provenance(args, generator, settings, conditions)
        )
        ensure_writable(args.sample_dir, "--sample_dir")
        missing = folder.missing(args.num_samples)
        if len(missing) < args.num_samples:
            print(f"{args.num_samples - len(missing)} of {args.num_samples} samples are there already")
    missing = dist_util.broadcast_from_zero(missing)

    share = math.ceil(len(missing) / dist_util.world_size())
    batch_size = args.batch_size
    if batch_size is None:
        sizes = dist_util.gather_to_zero(generator.choose_batch_size(share, settings))
        batch_size = dist_util.broadcast_from_zero(sizes and min(sizes))
    if missing:
        compile_networks(args.compile, generator, share, batch_size, settings)
    own = missing[dist_util.rank() :: dist_util.world_size()]
    rounds = [own[i : i + batch_size] for i in range(0, share, batch_size)]
    Rounds(generator, settings, args.seed, rounds, batch_size, folder, conditions).run()
    if folder:
        print(f"{args.num_samples} samples in {args.sample_dir}; look at {folder.write_contact_sheet()}", flush=True)


def annotate(args: argparse.Namespace, generator: DefectGen, settings: dict) -> None:
    """Propose masks for the photographs of --annotate; one process does it."""
    for flag in ("masks", "background", "num_samples"):
        if getattr(args, flag) is not None:
            raise InputError(f"--annotate and --{flag}: exclude each other; give one")
    check_annotation(generator, args.draws, args.defects)
    check_guided(settings, bool(args.defects))
    if dist_util.rank() > 0:
        return
    new = annotate_folder(
        generator,
        args.annotate,
        args.sample_dir,
        draws=args.draws,
        seed=args.seed,
        settings=settings,
        provenance=provenance(args, generator, settings, None),
    )
    print(f"{new} photographs annotated in {args.sample_dir}; look at {args.sample_dir}/contact_sheet.png", flush=True)


def compile_networks(asked: str, generator: DefectGen, num_samples: int, batch_size: int, settings: dict) -> None:
    """Compile the networks if that is asked for, or pays for so many samples per process."""
    wish, main_rank = asked, dist_util.rank() == 0
    if asked == "auto":
        decision = decide_compile(
            generator.device, lambda: generator.expected_seconds(num_samples, batch_size, settings)
        )
        wish, reason = dist_util.broadcast_from_zero(decision)
        if main_rank:
            print(f"torch.compile {wish} ({reason})", flush=True)
    if wish == "off":
        return
    try:
        generator.compile(batch_size, settings)
    except CompileError as error:
        if asked == "on":
            raise
        if main_rank:
            print(f"going on without torch.compile ({error})", flush=True)


class Rounds:
    """Generates samples in rounds; rank 0 writes each to its folder while the next one is computed.

    All processes have the same number of rounds, at whose ends they meet. One whose memory turns out too small for a
    round makes it in several batches.
    """

    def __init__(
        self,
        generator: DefectGen,
        settings: dict,
        seed: int,
        rounds: list[list[int]],
        batch_size: int,
        folder: SampleFolder | None,
        conditions: Conditions | None,
    ):
        self.generator, self.settings, self.seed, self.folder = generator, settings, seed, folder
        self.rounds, self.batch_size, self.conditions = rounds, batch_size, conditions
        self.steps = total_steps(settings["num_steps"])
        self.written: Future[None] = Future()  # the last round's
        self.written.set_result(None)

    def run(self) -> None:
        total = len(self.rounds) * self.steps
        with (
            ThreadPoolExecutor(max_workers=1) as writer,
            tqdm(total=total, unit="step", disable=dist_util.rank() > 0) as self.bar,
        ):
            for number, indices in enumerate(self.rounds, start=1):
                self.later = self.rounds[number:]
                batch = self.generator.generate(
                    indices,
                    seed=self.seed,
                    batch_size=self.batch_size,
                    progress=self.counted,
                    on_out_of_memory=self.halved,
                    **self.settings,
                    **(self.conditions.arguments() if self.conditions else {}),
                )
                parts = dist_util.gather_to_zero((indices, batch.images, batch.masks))
                if parts:
                    self.written.result()  # at most one round waits to be written
                    self.written = writer.submit(self.write, parts)
            self.written.result()

    def write(self, parts: list[tuple[list[int], np.ndarray, np.ndarray]]) -> None:
        for indices, images, masks in parts:
            names = self.conditions and [self.conditions.names[i % len(self.conditions)] for i in indices]
            self.folder.add(indices, images, masks, names)

    def counted(self, pairs: Iterable[Pair]) -> Iterator[Pair]:
        """Pass the pairs on, moving the bar as each is done."""
        for pair in pairs:
            yield pair
            self.bar.update()
            if self.written.done():
                self.written.result()  # an error in writing ends the run now, not after the round

    def halved(self, batch_size: int, left: int) -> None:
        """Say so, and count the steps anew: `left` samples of this round are still to be made."""
        tqdm.write(f"out of memory with {self.batch_size} images at a time; going on with {batch_size}")
        self.batch_size = batch_size
        counts = [left, *map(len, self.later)]
        self.bar.total = self.bar.n + self.steps * sum(math.ceil(count / batch_size) for count in counts)


def provenance(args: argparse.Namespace, generator: DefectGen, settings: dict, conditions: Conditions | None) -> dict:
    """Everything that decides the samples, for the manifest."""
    networks = {"large": generator.large, "small": generator.small}
    return {
        "seed": args.seed,
        **settings,
        "weights": args.weights,
        "precision": generator.precision,
        "checkpoints": {name: network and network.sha256 for name, network in networks.items()},
        "class_names": list(generator.layout.class_names),
        **crops(generator.config.data),
        **(conditions.settings() if conditions else {}),
    }


def crops(data: DataConfig) -> dict:
    """What the samples show, where the networks were trained on windows of images: evaluate.py cuts the same."""
    if data.fit != "random_crop":
        return {}
    return {"crops": {"crop_from": list(data.crop_from), "crop_defect": data.crop_defect}}
