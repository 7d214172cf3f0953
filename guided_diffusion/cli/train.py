"""Train one network of the pair, large or small: the configuration says which.

python scripts/train.py --config configs/large_recep.yml --data_dir data --work_dir work/large
"""

import argparse
from contextlib import ExitStack
from dataclasses import replace
from functools import partial

import blobfile as bf
import torch

from .. import dist_util
from ..config import Config, describe_keys
from ..config_file import load_config, parse_override, read_sections
from ..data.image_datasets import DefectDataset
from ..data.image_files import View
from ..data.prepared import find_samples, read_label_map
from ..errors import InputError, Parser
from ..file_io import ensure_writable, lock_folder, remove_temporaries
from ..networks.estimate import describe
from ..precision import is_out_of_memory, resolve_precision
from ..prepare.check import training_warnings
from ..training.checkpoint import Checkpoint, latest_checkpoint, load_checkpoint, same_network
from ..training.extend import extend_types, with_class_cond
from ..training.train_util import TrainLoop

leave = dist_util.leave  # ends one process of several


def parse_args(argv: list[str] | None) -> argparse.Namespace:
    parser = Parser(description=__doc__)
    parser.epilog = "\n  ".join(["YAML keys, also for --set:", *describe_keys()]).replace("%", "%%")
    add = parser.add_argument
    add("--config", required=True, help="YAML file; its keys are listed below")
    add("--work_dir", help="folder for checkpoints, logs and previews")
    add("--data_dir", help="training set (overrides data.params.dir)")
    add("--num_defect", type=int, help="number of defect types, if neither the YAML nor the data set names them")
    about = "1: RGB by MSE, masks by cross-entropy; 0: MSE on all channels (overrides the YAML)"
    add("--seperate_channel_loss", "--separate_channel_loss", type=int, choices=(0, 1), help=about)
    add("--resume", default="auto", help="auto (default): the latest checkpoint in work_dir; a checkpoint; or none")
    add("--extend_types", metavar="CKPT", help="start from a checkpoint or work_dir whose network knows fewer types")
    add("--seed", type=int, help="overrides train.seed")
    add("--device", default="auto", help="auto (default), cpu, cuda or cuda:N")
    add("--dry_run", action="store_true", help="print what the training would be and cost; touch nothing")
    add("--set", action="append", default=[], metavar="SECTION.KEY=VALUE", help="override one YAML key; repeatable")
    add("--local_rank", "--local-rank", help=argparse.SUPPRESS)  # older launchers pass it; the environment knows
    return parser.parse_args(argv)


def resolve_config(args: argparse.Namespace) -> Config:
    """The YAML file under the flags; the data set's own label map where the YAML has none."""
    separate = None if args.seperate_channel_loss is None else bool(args.seperate_channel_loss)
    flags = {"train.separate_channel_loss": separate, "data.dir": args.data_dir, "train.seed": args.seed}
    overrides = dict(map(parse_override, args.set)) | {key: value for key, value in flags.items() if value is not None}
    data = read_sections(args.config, overrides)["data"]
    if isinstance(root := data.get("dir"), str):
        if not args.dry_run:
            find_samples(root)  # where the folder is wrong, say that rather than what is lacking for want of it
        if not data.get("label_map"):
            overrides["data.label_map"] = read_label_map(root)
    return load_config(args.config, args.num_defect, overrides)


def find_resume(args: argparse.Namespace, config: Config) -> Checkpoint | None:
    """The checkpoint to go on from, if any; its network must be the configuration's."""
    work, latest = args.work_dir, latest_checkpoint(args.work_dir)
    if (fewer := args.extend_types) and fewer in (work, latest):
        raise InputError(f"--extend_types {fewer}: lies in --work_dir, whose training would go on; name a new folder")
    if args.resume == "none" and latest:
        raise InputError(f"--resume none: {work} already holds {latest}; choose another --work_dir or --resume auto")
    path = {"auto": latest, "none": None}.get(args.resume, args.resume)
    checkpoint = path and load_checkpoint(path, "--resume")
    if checkpoint:
        same_network(checkpoint, config, args.config)
    return checkpoint


def find_warm_start(args: argparse.Namespace, config: Config) -> Checkpoint | None:
    """The weights that a new training starts from, if any, made to fit the configuration's types if asked to."""
    start, fewer = config.model.ckpt, args.extend_types
    if start and fewer:
        raise InputError(f"--extend_types and model.ckpt ({start}): a training starts from one; drop the other")
    if fewer:
        return extend_types(load_checkpoint(fewer, "--extend_types"), config, args.config)
    return with_class_cond(load_checkpoint(start, "model.ckpt"), config) if start else None


def main(argv: list[str] | None = None) -> int:
    args = parse_args(argv)
    if args.dry_run:
        config = resolve_config(args)
        if args.extend_types:
            print(f"starting from {find_warm_start(args, config).path}")
        precision = resolve_precision(config.train.precision, dist_util.choose_device(args.device))
        print(describe(replace(config, train=replace(config.train, precision=precision))))
        return 0
    if not args.work_dir:
        raise InputError("--work_dir: missing; name the folder for checkpoints, logs and previews")
    device = dist_util.setup(args.device)
    try:
        status = train(args, device)
        dist_util.barrier()
        return status
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        raise InputError(
            f"out of memory on {device}: set train.micro_batch 1, train.activation_checkpointing true or "
            "train.precision bf16, which leave the training as it is, or lower data.bs_per_gpu or data.resolution"
        ) from error


def train(args: argparse.Namespace, device: torch.device) -> int:
    config, main_rank = resolve_config(args), dist_util.rank() == 0
    cfg, names = config.data, config.layout.class_names
    if not cfg.dir:
        raise InputError("--data_dir: missing; name the training set (or set data.params.dir in the YAML)")
    latest = latest_checkpoint(args.work_dir)
    resume = find_resume(args, config)
    if resume and resume.step >= config.train.iterations:
        if main_rank:
            print(f"complete: trained to step {resume.step} (raise train.iterations to go on)")
        return 0
    warm = None if resume else find_warm_start(args, config)
    load = partial(DefectDataset.load, num_defect=len(names), view=View.of(cfg))
    data = load(cfg.dir, num_image_train=cfg.num_image_train, include_good=cfg.include_good)
    val_data = load(cfg.val_dir) if cfg.val_dir else None
    loop = TrainLoop(config, args.work_dir, data, val_data, device, resume, warm)
    with ExitStack() as held:
        dist_util.on_zero(lambda: take_work_dir(args.work_dir, latest, held))
        if main_rank:
            good = f" and {data.num_good} without a defect" if data.num_good else ""
            print(
                f"{len(data) - data.num_good} images{good}, types: {', '.join(names)}; "
                f"{dist_util.world_size()} process(es) on {device.type}, batch {cfg.bs_per_gpu} each"
            )
            print(*training_warnings(data, names), describe(loop.config), sep="\n", flush=True)
            if start := resume or warm:
                print(f"{'going on' if resume else 'starting'} from {start.path}, step {start.step}", flush=True)
        return loop.run()


def take_work_dir(folder: str, latest: str | None, held: ExitStack) -> None:
    """Keep other trainings out of a folder whose newest checkpoint was `latest`, and remove what killed writes left."""
    held.enter_context(lock_folder(folder, "--work_dir"))
    ensure_writable(folder, "--work_dir")
    if latest_checkpoint(folder) != latest:
        raise InputError(f"--work_dir {folder}: another training has just saved there; start again")
    for name in ("", "checkpoint", "images"):
        remove_temporaries(bf.join(folder, name))
