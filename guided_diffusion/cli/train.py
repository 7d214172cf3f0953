"""Train one network of the pair, large or small: the configuration says which.

python scripts/train.py --config configs/large_recep.yml --data_dir data --work_dir work/large
"""

from __future__ import annotations

import argparse
from dataclasses import replace

import blobfile as bf
import torch

from .. import dist_util
from ..batches import is_out_of_memory
from ..config import Config
from ..config_file import load_config, parse_override, read_sections
from ..data.image_datasets import DefectDataset
from ..errors import InputError
from ..file_io import ensure_writable, remove_temporaries
from ..networks.estimate import describe, estimate
from ..prepare.check import training_warnings
from ..prepare.layouts import find_samples, read_label_map
from ..training.checkpoint import Checkpoint, find_checkpoint, latest_checkpoint, load_checkpoint, same_network
from ..training.extend import extend_types, with_class_cond
from ..training.train_util import TrainLoop
from ..tuning import CompileError, StepCost, expected, settle

leave = dist_util.leave  # ends one process of several


def parse_args(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--config", required=True, help="YAML file, see docs/configuration.md")
    add("--work_dir", help="folder for checkpoints, logs and previews")
    add("--data_dir", help="training set (overrides data.params.dir)")
    add(
        "--num_defect",
        type=int,
        help="number of defect types, if neither the YAML nor the data set names them",
    )
    add(
        "--seperate_channel_loss",
        "--separate_channel_loss",
        type=int,
        choices=(0, 1),
        help="1: RGB by MSE, masks by cross-entropy; 0: MSE on all channels (overrides the YAML)",
    )
    add("--resume", default="auto", help="auto (default): the latest checkpoint in work_dir; a file; or none")
    add(
        "--extend_types",
        metavar="CKPT",
        help="start from this checkpoint (or work_dir: its latest) of a network that knows fewer types",
    )
    add("--seed", type=int, help="overrides train.seed")
    add("--device", default="auto", help="auto (default), cpu, cuda or cuda:N")
    add("--dry_run", action="store_true", help="print what the training would be and cost; touch nothing")
    add(
        "--set",
        action="append",
        default=[],
        metavar="SECTION.KEY=VALUE",
        help="override one YAML key; repeatable",
    )
    add("--local_rank", "--local-rank", help=argparse.SUPPRESS)  # older launchers pass it; the environment knows
    return parser.parse_args(argv)


def resolve_config(args: argparse.Namespace) -> Config:
    """The YAML file under the flags; the data set's own label map where the YAML has none."""
    overrides = dict(parse_override(text) for text in args.set)
    for key, value in (("data.dir", args.data_dir), ("train.seed", args.seed)):
        if value is not None:
            overrides[key] = value
    if args.seperate_channel_loss is not None:
        overrides["train.separate_channel_loss"] = bool(args.seperate_channel_loss)
    data = read_sections(args.config, overrides)["data"]
    root = data.get("dir")
    if isinstance(root, str) and not args.dry_run:
        find_samples(root)  # where the folder is wrong, say that rather than what is lacking for want of it
    if isinstance(root, str) and not data.get("label_map"):
        label_map = read_label_map(root)
        if label_map:
            overrides["data.label_map"] = label_map
    return load_config(args.config, args.num_defect, overrides)


def find_resume(args: argparse.Namespace, config: Config) -> Checkpoint | None:
    """The checkpoint to go on from, if any; its network must be the configuration's."""
    latest = latest_checkpoint(args.work_dir)
    if args.extend_types and args.extend_types in (args.work_dir, latest):
        raise InputError(
            f"--extend_types {args.extend_types}: lies in --work_dir, whose training would go on; name a new folder as "
            "--work_dir"
        )
    if args.resume == "none":
        if latest:
            raise InputError(
                f"--resume none: {args.work_dir} already holds {latest}; choose another --work_dir or --resume auto"
            )
        return None
    path = latest if args.resume == "auto" else args.resume
    if path is None:
        return None
    checkpoint = load_checkpoint(path, "--resume")
    same_network(checkpoint, config, args.config)
    return checkpoint


def find_warm_start(args: argparse.Namespace, config: Config) -> Checkpoint | None:
    """The weights that a new training starts from, if any, made to fit the configuration's types if asked to."""
    if not args.extend_types:
        if not config.model.ckpt:
            return None
        return with_class_cond(load_checkpoint(config.model.ckpt, "model.ckpt"), config)
    if config.model.ckpt:
        raise InputError(
            f"--extend_types and model.ckpt ({config.model.ckpt}): a training starts from one; drop the other"
        )
    path = find_checkpoint(args.extend_types, "--extend_types")
    return extend_types(load_checkpoint(path, "--extend_types"), config, args.config)


def main(argv: list[str] | None = None) -> int:
    args = parse_args(argv)
    if args.dry_run:
        config = resolve_config(args)
        warm = find_warm_start(args, config) if args.extend_types else None
        config, cost, reasons = settle(config, dist_util.choose_device(args.device))
        print_prospect(config, cost, reasons, step=0)
        if warm:
            print(f"starting from {warm.path}", flush=True)
        return 0
    if not args.work_dir:
        raise InputError("--work_dir: missing; name the folder for checkpoints, logs and previews")
    device = dist_util.setup(args.device)
    try:
        status = train(args, device)
        dist_util.all_done()
        return status
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        raise InputError(
            f"out of memory on {device}: set train.micro_batch 1, train.activation_checkpointing true or "
            "train.precision bf16, which leave the training as it is, or lower data.bs_per_gpu or data.resolution"
        ) from error


def train(args: argparse.Namespace, device: torch.device) -> int:
    config = resolve_config(args)
    main_rank = dist_util.rank() == 0
    if not config.data.dir:
        raise InputError("--data_dir: missing; name the training set (or set data.params.dir in the YAML)")
    layout = config.layout
    resume = find_resume(args, config)
    warm = None if resume else find_warm_start(args, config)

    data = DefectDataset.as_trained(
        config.data.dir,
        config,
        num_image_train=config.data.num_image_train,
        include_good=config.data.include_good,
        progress=main_rank,
    )
    val_dir = config.data.val_dir
    val_data = DefectDataset.as_trained(val_dir, config, progress=main_rank) if val_dir else None
    step = resume.step if resume else 0
    if step >= config.train.iterations:
        if main_rank:
            print(f"complete: trained to step {step} (raise train.iterations to go on)")
        return 0
    asked = config.train.compile
    config, cost, reasons = settle(config, device, step, resume and resume.config)
    loop = TrainLoop(config, args.work_dir, data, val_data, device, resume, warm)
    if main_rank:
        ensure_writable(args.work_dir, "--work_dir")
        for folder in ("", "checkpoint", "images"):
            remove_temporaries(bf.join(args.work_dir, folder))
        good = f" and {data.num_good} without a defect" if data.num_good else ""
        print(
            f"{len(data) - data.num_good} images{good}, types: {', '.join(layout.class_names)}; "
            f"{dist_util.world_size()} process(es) on {device.type}, batch {config.data.bs_per_gpu} each"
        )
        print("".join(f"{line}\n" for line in training_warnings(data, layout.class_names)), end="")
        print_prospect(config, cost, reasons, step)
        print(f"configuration      {bf.join(args.work_dir, 'config.yml')}", flush=True)
        if resume:
            print(f"going on from {resume.path}, step {step}", flush=True)
        if warm:
            print(f"starting from {warm.path}", flush=True)
    try:
        _ = loop.network  # compiles it, if that is to be
    except CompileError as error:
        if asked != "auto":
            raise
        if main_rank:
            print(f"going on without torch.compile ({error})", flush=True)
        loop.config = replace(config, train=replace(config.train, compile="off"))
    return loop.run()


def print_prospect(config: Config, cost: StepCost, reasons: list[str], step: int) -> None:
    """What the training is, decides and will cost."""
    print("\n".join([describe(config, estimate(config)), *reasons, expected(config, cost, step)]), flush=True)
