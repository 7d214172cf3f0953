"""Tiny networks that can be told types, with random weights, for the tests of what they are told."""

from collections.abc import Collection
from pathlib import Path
from typing import Any

import torch
from conftest import tiny_config

from guided_diffusion import create_model, load_config
from guided_diffusion.config import Config
from guided_diffusion.networks.unet import UNet
from guided_diffusion.training.checkpoint import save_checkpoint

NAMES = ("crack", "hole", "dent")
MAP = {name: k for k, name in enumerate(NAMES, start=1)}


def make_config(size: str = "large", **changes: Any) -> Config:
    # At 32 groups each is one channel, whose norm would remove an embedding that is added.
    tiny = {"data.label_map": MAP, "data.resolution": 16, "model.class_cond": True, "model.norm_groups": 8}
    return load_config(tiny_config(size, **{**tiny, **changes}))


def random_weights(model: UNet, seed: int = 0) -> UNet:
    generator = torch.Generator().manual_seed(seed)
    for p in model.parameters():
        torch.nn.init.normal_(p, std=0.1, generator=generator)
    return model.eval()


def save_untrained(folder: Path, size: str, **changes: Any) -> Path:
    """A work_dir with one checkpoint of random weights."""
    config = make_config(size, **changes)
    state = random_weights(create_model(config), len(folder.name)).state_dict()
    save_checkpoint(str(folder), 1, {"model": state, "ema": state, "config": config.to_dict()})
    return folder


def told(*rows: Collection[int]) -> torch.Tensor:
    """What networks are told of samples that show these types, float32 [N, 1 + types]; {0}: nothing."""
    types = torch.zeros(len(rows), 1 + len(NAMES))
    for row, own in zip(types, rows, strict=True):
        row[list(own)] = 1
    return types
