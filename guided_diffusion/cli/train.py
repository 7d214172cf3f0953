"""Train one network of the pair, large or small: the configuration says which.

    python scripts/train.py --config configs/large_recep.yml --data_dir data --work_dir work/large

An unprepared data set is first prepared into WORK_DIR/data, if its layout names the types.
"""

import argparse
import shlex
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from typing import Any

import blobfile as bf
import torch

from .. import dist_util
from ..config import KEYS, Config, describe_keys
from ..config_file import Source, load_config, parse_override, read_sections
from ..data import prepared
from ..data.image_datasets import DefectDataset
from ..data.image_files import View
from ..errors import InputError, Parser, unknown_name
from ..file_io import as_path, ensure_writable, lies_in, lock_folder, remove_temporaries
from ..networks.estimate import Estimate, describe, estimate
from ..parallel import check_memory
from ..precision import is_out_of_memory, resolve_precision
from ..prepare.check import training_warnings
from ..prepare.layouts import LOOSE, Dataset, read_layout
from ..training.checkpoint import ARCHITECTURE, FOLDER, Checkpoint, check_agreement, latest_checkpoint, load_checkpoint
from ..training.train_util import TrainLoop
from ..training.warm_start import warm_start
from . import prepare

FLAGS = {"data": "--data_dir"}
leave = dist_util.leave  # ends one process of several
LESS_MEMORY = "set train.micro_batch 1, train.activation_checkpointing true or train.precision bf16, or lower"
LESS_MEMORY += " data.bs_per_gpu or data.resolution"


def parse_args(argv: list[str] | None) -> argparse.Namespace:
    parser = Parser(description=__doc__)
    parser.epilog = "\n  ".join(["YAML keys, also for --set:", *describe_keys()]).replace("%", "%%")
    add = parser.add_argument
    add("--config", required=True, help="YAML file; its keys are listed below")
    add("--work_dir", help="folder for checkpoints, logs and previews")
    add("--data_dir", help="training set (overrides data.params.dir)")
    add("--network", choices=("large", "small"), help="refuse a configuration of the other one")
    add("--num_defect", type=int, help="number of defect types, if neither the YAML nor the data set names them")
    about = "1: RGB by MSE, masks by cross-entropy; 0: MSE on all channels (overrides the YAML)"
    add("--seperate_channel_loss", "--separate_channel_loss", type=int, choices=(0, 1), help=about)
    add("--resume", default="auto", help="auto (default): the latest checkpoint in work_dir; a checkpoint; or none")
    add("--init", metavar="CKPT", help="start from the weights of a checkpoint or work_dir that fit, types by name")
    add("--seed", type=int, help="overrides train.seed")
    add("--device", default="auto", help="auto (default), cpu, cuda or cuda:N")
    add("--dry_run", action="store_true", help="print data, network, FLOPs and memory; write nothing")
    add("--set", action="append", default=[], metavar="SECTION.KEY=VALUE", help="override one YAML key; repeatable")
    add("--local_rank", "--local-rank", help=argparse.SUPPRESS)  # older launchers pass it; the environment knows
    args = parser.parse_args(argv)
    separate = None if args.seperate_channel_loss is None else bool(args.seperate_channel_loss)
    flags = {"train.separate_channel_loss": separate, "data.dir": args.data_dir, "train.seed": args.seed}
    args.set = dict(map(parse_override, args.set)) | {key: value for key, value in flags.items() if value is not None}
    args.name = args.config
    return args


def train(
    config: Source | Config,
    data: str | None,
    work_dir: str,
    *,
    num_defect: int | None = None,
    resume: str = "auto",
    init: str | None = None,
    device: str = "auto",
    **overrides: Any,
) -> str:
    """Train one network as the command line does, or go on where a call before stopped. Returns work_dir.

    config: a YAML file, what it would hold, or a Config. data: the training set, None: config's. overrides: YAML keys,
    iterations=1000 or, where sections share a key, **{"model.target": ...}. Raises InputError; KeyboardInterrupt after
    a signal, when the work is saved."""
    for key in [key for key in overrides if "." not in key]:
        found = [name for name in KEYS if name.partition(".")[2] == key]
        if len(found) != 1:
            raise InputError(unknown_name("key", key, found or [name.partition(".")[2] for name in KEYS]))
        overrides[found[0]] = overrides.pop(key)
    overrides |= {} if data is None else {"data.dir": str(data)}
    name = "config" if isinstance(config, Config | Mapping) else str(config)
    source = config.to_dict() if isinstance(config, Config) else config if isinstance(config, Mapping) else name
    work_dir, device = as_path(work_dir, "work_dir"), str(device or "auto")
    args = {"num_defect": num_defect, "resume": str(resume), "init": init and str(init), "device": device}
    args |= {"config": source, "name": name, "network": None, "work_dir": work_dir, "set": overrides}
    if run(argparse.Namespace(**args)):
        raise KeyboardInterrupt
    return work_dir


def resolve_config(args: argparse.Namespace) -> tuple[Config, Dataset | None]:
    """The configuration under its overrides, with the data set's own label map where it has none; and what the data
    folder holds where it is to be prepared first."""
    overrides = args.set
    data, raw = read_sections(args.config, overrides)["data"], None
    if isinstance(root := data.get("dir"), str) and root:
        if prepared.prepared_folders(root):
            prepared.find_samples(root)  # where the folder is wrong, say that, not what is lacking for want of it
        else:
            raw = read_raw(root)
        own = raw.label_map if raw else prepared.read_label_map(root)
        overrides |= {} if data.get("label_map") else {"data.label_map": own}
    config = load_config(args.config, args.num_defect, overrides)
    kind = "small" if config.model.patch else "large"
    if args.network not in (None, kind):
        raise InputError(f"`config` {args.name}: is of the {kind} network; use train_{kind}.sh, or another file")
    if (start := config.model.ckpt) and args.init:
        raise InputError(f"`init` and model.ckpt ({start}): a training starts from one; drop the other")
    config = replace(config, model=replace(config.model, ckpt=start or args.init))
    if raw:  # before it is prepared
        prepared.match_types(raw.label_map, config.layout.class_names, root)
        if held_out := config.data.val_dir:
            prepared.find_samples(held_out)
            prepared.match_types(prepared.read_label_map(held_out), config.layout.class_names, held_out)
    return config, raw


def read_raw(root: str) -> Dataset:
    """What a data set that is not prepared yet holds. Raises InputError where a person has to say more about it."""
    data = read_layout(root)
    if data.format in LOOSE or not data.label_map:
        remedy = f"prepare it first: python scripts/prepare_data.py {shlex.quote(root)} OUT"
        raise InputError(f"{root}: its layout ({data.format}) does not tell for sure what it shows; {remedy}")
    prepared.check_problems([*data.problems, *data.doubts])
    return data


def prepare_raw(config: Config, raw: Dataset, work_dir: str) -> Config:
    """Let rank 0 prepare a data set while the others wait; the configuration that trains on the result."""
    out = bf.join(work_dir, "data")
    flags = ["--keep_good"] if config.data.include_good else []
    if dist_util.rank() == 0:
        print(f"{config.data.dir}: a data set of layout {raw.format}, prepared into {out} first", flush=True)
    dist_util.on_zero(lambda: prepare.main([*flags, "--", config.data.dir, out]))
    part = bf.join(out, prepared.TRAIN)
    return replace(config, data=replace(config.data, dir=part if bf.isdir(part) else out))


def find_resume(args: argparse.Namespace, config: Config) -> Checkpoint | None:
    """The checkpoint to go on from, if any; its network must be the configuration's."""
    work, latest = args.work_dir, latest_checkpoint(args.work_dir)
    if args.init and lies_in(args.init, work):
        raise InputError(f"`init` {args.init}: lies in `work_dir`, whose training would go on; name a new folder")
    if args.name == bf.join(work, "config.yml") and not latest:
        raise InputError(f"`config` {args.name}: the resolved configuration is written there; name it otherwise")
    if args.resume == "none" and latest:
        raise InputError(f"`resume` none: {work} already holds {latest}; choose another `work_dir` or `resume` auto")
    if args.init and args.resume not in ("auto", "none"):
        raise InputError(f"`init` and `resume` {args.resume}: a training starts from one; drop the other")
    path = {"auto": latest, "none": None}.get(args.resume, args.resume)
    checkpoint = None if path is None else load_checkpoint(path, "`resume`")
    if checkpoint and checkpoint.config:
        check_agreement(checkpoint.config, checkpoint.path, config, args.name, ARCHITECTURE)
    return checkpoint


def find_start(args: argparse.Namespace, config: Config) -> tuple[Checkpoint | None, str]:
    """What a new training starts from, if anything, and a line about it."""
    flag, path = "`init`" if args.init else "model.ckpt", config.model.ckpt
    return warm_start(load_checkpoint(path, flag), config, args.name, flag) if path else (None, "")


def main(argv: list[str] | None = None) -> int:
    args = parse_args(argv)
    return dry_run(args, dist_util.choose_device(args.device)) if args.dry_run else run(args)


def run(args: argparse.Namespace) -> int:
    """Train, in a folder that no other training writes to. Returns the exit status."""
    if not args.work_dir:
        raise InputError("`work_dir`: missing; name the folder for checkpoints, logs and previews")
    device = dist_util.setup(args.device)
    try:
        with ExitStack() as held:
            dist_util.on_zero(lambda: take_work_dir(args.work_dir, held))
            status = train_here(args, device)
        dist_util.barrier()
        return status
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        raise InputError(f"out of memory on {device}: {LESS_MEMORY}") from error


def find_cost(config: Config, device: torch.device) -> tuple[Config, Estimate]:
    """The configuration, its precision resolved, and the training's cost. Raises InputError where memory is short."""
    precision = resolve_precision(config.train.precision, device)
    config = replace(config, train=replace(config.train, precision=precision))
    cost = estimate(config, device.type)
    check_memory(cost.training_bytes, "a training step", LESS_MEMORY, device)
    return config, cost


def load_data(config: Config, device: torch.device) -> tuple[DefectDataset, DefectDataset | None, list[str]]:
    """The training set, the held-out one, and what to say of them. Raises InputError."""
    cfg, names = config.data, config.layout.class_names
    load = partial(DefectDataset.load, types=names, view=View.of(cfg))
    data = load(cfg.dir, num_image_train=cfg.num_image_train, include_good=cfg.include_good)
    val_data = load(cfg.val_dir) if cfg.val_dir else None
    count, good = len(data) - data.num_good, f" and {data.num_good} without a defect" if data.num_good else ""
    told = [
        f"{count} images{good}, types: {', '.join(names)}; "
        f"{dist_util.world_size()} process(es) on {device.type}, batch {cfg.bs_per_gpu} each"
    ]
    if data.left_out:
        limit = f"data.num_image_train {cfg.num_image_train} takes the first of each type; null takes all"
        told.append(f"left out: {data.left_out} of {count + data.left_out} images with a defect ({limit})")
    told += [one.note for one in (data, val_data) if one and one.note]
    known = {hash(image.numpy().tobytes()) for image in data.images} if val_data else ()
    if val_data and (both := sum(hash(image.numpy().tobytes()) in known for image in val_data.images)):
        text = "are training images too, so its loss says little about new ones"
        told.append(f"warning: {both} of {len(val_data)} images of data.val_dir {cfg.val_dir} {text}")
    return data, val_data, told + training_warnings(data, names)


def dry_run(args: argparse.Namespace, device: torch.device) -> int:
    config, raw = resolve_config(args)
    config, cost = find_cost(config, device)
    if started := find_start(args, config)[1]:
        print(started)
    if raw:
        shown = f"{len(raw.samples)} images with a defect, types: {', '.join(raw.label_map)}"
        print(f"{raw.root}: a data set of layout {raw.format} ({shown}); training prepares it into WORK_DIR/data first")
    elif config.data.dir:
        print(*load_data(config, device)[2], sep="\n")
    print(describe(config, cost))
    return 0


def train_here(args: argparse.Namespace, device: torch.device) -> int:
    (config, raw), main_rank = resolve_config(args), dist_util.rank() == 0
    if not config.data.dir:
        raise InputError("`data`: missing; name the training set (or set data.params.dir in the YAML)")
    _, cost = find_cost(config, device)
    resume = find_resume(args, config)
    if resume and resume.step >= config.train.iterations:
        if main_rank:
            print(f"complete: trained to step {resume.step} (raise train.iterations to go on)")
        return 0
    warm, started = (None, f"going on from {resume.path}, step {resume.step}") if resume else find_start(args, config)
    if raw:
        config = prepare_raw(config, raw, args.work_dir)
    data, val_data, told = load_data(config, device)
    seen = data.types_seen(config.layout.class_names) if config.model.class_cond else ()
    config = replace(config, data=replace(config.data, scale=config.data.scale or data.scale, types_seen=seen))
    loop = TrainLoop(config, args.work_dir, data, val_data, device, resume, warm)
    if main_rank:
        print(*told, describe(loop.config, cost), *filter(None, [started]), sep="\n", flush=True)
    status = loop.run()
    if main_rank and not status:
        both = "with both networks trained, inference.sh generates"
        print(f"trained to step {loop.step}: look at loss.png and images/ in {args.work_dir}; {both}")
    return status


def take_work_dir(folder: str, held: ExitStack) -> None:
    """Keep other trainings out of a folder, and remove what killed writes left."""
    prepared.check_apart(folder, "work_dir")
    held.enter_context(lock_folder(folder, "`work_dir`"))
    if bf.exists(bf.join(folder, FOLDER)):  # a fault there would cost the work until the first save
        ensure_writable(bf.join(folder, FOLDER), "`work_dir`")
    for name in ("", FOLDER, "images"):
        remove_temporaries(bf.join(folder, name))
