"""What tests share: the repository, the material beside it, and a tiny pair of networks trained once."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import yaml
from command_line import ROOT, CommandLine

TINY = {
    "diffusion": {
        "target": "diffusion.base_diffusion.ColdDiffusion",
        "params": {"parameterization": "x0", "schedule": "cosine", "num_timestep": 1000},
    },
    "model": {
        "params": {
            "image_size": 32,
            "model_channels": 32,
            "num_res_blocks": 1,
            "channel_mult": [1, 1],
            "attention_downsample": [],
            "num_head_channels": 16,
            "dropout": 0.1,
        }
    },
    "data": {"bs_per_gpu": 4, "params": {"resolution": 32}, "flip": "both"},
    "optimizer": {"params": {"lr": 0.001, "weight_decay": 0.002}, "warmup": 2},
    "train": {
        "iterations": 4,
        "log_image_interval": 0,
        "save_ckpt_interval": 2,
        "eval_interval": 2,
        "ema_decay": 0.9,
        "loss_weight": "min_snr",
        "precision": "fp32",
        "compile": "off",
    },
}
TARGETS = {"large": "models.unet.openaiunet.UNetModel", "small": "models.unet.unet_receptive.UNetModel"}


class TrainedPair(NamedTuple):
    """The work_dirs of two networks trained for a few steps. Shared: copy one before changing it."""

    large: Path
    small: Path


@pytest.fixture(scope="session")
def repo() -> Path:
    """Root of the repository."""
    return ROOT


@pytest.fixture(scope="session")
def shared_dir(repo: Path) -> Path:
    """Fixtures and real data, which lie beside the repository and are not part of it."""
    folder = repo.parent / "shared"
    if not folder.is_dir():
        pytest.skip("../shared (fixtures and real data) is not beside this checkout")
    return folder


@pytest.fixture(scope="session")
def command_line() -> Iterator[CommandLine]:
    server = CommandLine()
    yield server
    server.close()


@pytest.fixture(scope="session")
def run_script(command_line: CommandLine) -> Callable:
    """run_script("train.py", *arguments, prelude="", timeout=120) -> CompletedProcess with text output."""
    return command_line.run


@pytest.fixture(scope="session")
def demo_data(run_script: Callable, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A labelled data set in the released layout: 12 images of 32 px, three types. Shared: do not change it."""
    folder = tmp_path_factory.mktemp("demo") / "data"
    result = run_script("draw_demo_data.py", folder, "--num_images", 12, "--size", 32)
    assert result.returncode == 0, result.stderr
    return folder


def tiny_config(size: str, **changes: Any) -> dict:
    """Configuration of a tiny "large" or "small" network; changes are {"section.key": value}, None: no key."""
    config = copy.deepcopy(TINY)
    config["model"]["target"] = TARGETS[size]
    for path, value in changes.items():
        section, _, key = path.partition(".")
        if not key:
            config[section] = value
            continue
        place = config.setdefault(section, {})
        place = place["params"] if key in place.get("params", {}) else place
        place[key] = value
        if value is None:
            del place[key]
    return config


@pytest.fixture(scope="session")
def trained_pair(run_script: Callable, demo_data: Path, tmp_path_factory: pytest.TempPathFactory) -> TrainedPair:
    folder = tmp_path_factory.mktemp("trained")
    for size in ("large", "small"):
        (folder / f"{size}.yml").write_text(yaml.safe_dump(tiny_config(size)))
        flags = ("--config", folder / f"{size}.yml", "--data_dir", demo_data, "--work_dir", folder / size)
        result = run_script("train.py", *flags)
        assert result.returncode == 0, result.stderr
    return TrainedPair(folder / "large", folder / "small")
