"""A trained network, loaded from its checkpoint."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from ..config import Config
from ..config_file import load_config
from ..errors import InputError
from ..networks.unet import UNet
from ..training.checkpoint import Checkpoint, check_agreement, find_checkpoint, load_checkpoint, load_weights


@dataclass(frozen=True)
class Network:
    """One trained network, ready to sample."""

    config: Config
    model: UNet
    path: str
    sha256: str
    forward: Callable[..., Tensor]  # the model, compiled or not


def load_network(
    path: str,
    config_path: str | None,
    flag: str,
    patch: bool,
    num_defect: int | None,
    separate_channel_loss: bool | None,
    weights: str,
    device: torch.device,
) -> Network:
    """Load a checkpoint; arguments as for DefectGen.load, patch: which kind it must be. Raises InputError."""
    file = find_checkpoint(path, flag)
    checkpoint: Checkpoint = load_checkpoint(file, flag)
    config = checkpoint.config
    separate = separate_channel_loss  # released files have no key for it, so it is an argument for them
    if config is not None:
        trained = config.train.separate_channel_loss
        if separate not in (None, trained):
            raise InputError(
                f"--seperate_channel_loss {int(separate)}: {file} was trained with {int(trained)}; leave the flag out"
            )
        separate = trained
    if config_path is not None:
        overrides = {} if separate is None else {"train.separate_channel_loss": separate}
        if config is not None:
            overrides["data.label_map"] = dict(config.data.label_map)
        config = load_config(config_path, num_defect, overrides)
        if checkpoint.config is not None:
            check_agreement(checkpoint.config, file, config, config_path)
    elif config is None:
        raise InputError(
            f"{flag} {path}: this checkpoint carries no configuration; name its YAML file with {flag}_config"
        )
    elif num_defect not in (None, config.layout.num_defect):
        raise InputError(
            f"--num_defect {num_defect}: {file} was trained with {config.layout.num_defect} types "
            f"({', '.join(config.layout.class_names)}); leave the flag out"
        )
    if config.model.patch != patch:
        other = "--small_recep" if config.model.patch else "--large_recep"
        kind = "patch-level" if config.model.patch else "global"
        raise InputError(f"{flag} {path}: this is a {kind} network, which belongs to {other}")
    with torch.device("meta"):
        model = UNet(config.model)
    model.to_empty(device="cpu")
    load_weights(model, getattr(checkpoint, weights), file)
    model = model.to(device, memory_format=torch.channels_last).eval().requires_grad_(False)
    return Network(config, model, file, checkpoint.sha256, forward=model)
