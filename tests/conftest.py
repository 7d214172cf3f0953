"""What tests share: the material beside the repository, a tiny pair of networks trained once, and tiny ones with random
weights that can be told types."""

import copy
from collections.abc import Callable, Collection, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
import yaml
from command_line import ROOT, CommandLine

from guided_diffusion import DefectGen, create_model, load_config
from guided_diffusion.config import Config
from guided_diffusion.networks.unet import UNet
from guided_diffusion.training.checkpoint import save_checkpoint

MODEL = {"image_size": 32, "model_channels": 32, "num_res_blocks": 1, "channel_mult": [1, 1], "num_head_channels": 16}
EVERY = {"log_image_interval": 0, "save_ckpt_interval": 2, "eval_interval": 2}
TINY = {
    "model": {**MODEL, "dropout": 0.1},
    "data": {"bs_per_gpu": 4, "resolution": 32, "flip": "both"},
    "optimizer": {"lr": 0.001, "warmup": 2},
    "train": {"iterations": 4, **EVERY, "ema_decay": 0.9, "loss_weight": "min_snr", "precision": "fp32"},
}
NAMES = ("crack", "hole", "dent")
TARGETS = {"large": "models.unet.openaiunet.UNetModel", "small": "models.unet.unet_receptive.UNetModel"}


class TrainedPair(NamedTuple):
    """The work_dirs of two networks trained for a few steps. Shared: copy one before changing it."""

    large: Path
    small: Path


@pytest.fixture(scope="session")
def shared_dir() -> Path:
    """Fixtures and real data, which lie beside the repository and are not part of it."""
    folder = ROOT.parent / "shared"
    if not folder.is_dir():
        pytest.skip("../shared (fixtures and real data) is not beside this checkout")
    return folder


@pytest.fixture(scope="session")
def run_script() -> Iterator[Callable]:
    """run_script("train.py", *arguments, prelude="", timeout=120) -> CompletedProcess with text output."""
    server = CommandLine()
    yield server.run
    server.close()


@pytest.fixture(scope="session")
def demo_data(run_script: Callable, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A labelled data set in the released layout: 12 images of 32 px, three types. Shared: do not change it."""
    folder = tmp_path_factory.mktemp("demo") / "data"
    result = run_script("draw_demo_data.py", folder, "--num_images", 12, "--size", 32)
    assert result.returncode == 0, result.stderr
    return folder


def tiny_config(size: str, **changes: Any) -> dict:
    """Configuration of a tiny "large" or "small" network; changes are {"section.key" or "section": value}."""
    config = copy.deepcopy(TINY)
    config["model"]["target"] = TARGETS[size]
    for path, value in changes.items():
        section, _, key = path.partition(".")
        if key:
            config.setdefault(section, {})[key] = value
        else:
            config[section] = value
    return config


def make_config(size: str = "large", **changes: Any) -> Config:
    # At 32 groups each is one channel, whose norm would remove an embedding that is added.
    label_map = {name: k for k, name in enumerate(NAMES, start=1)}
    tiny = {"data.label_map": label_map, "data.resolution": 16, "model.class_cond": True, "model.norm_groups": 8}
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


@pytest.fixture(scope="session")
def train(run_script: Callable, demo_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable:
    """train(config, work_dir, *flags, prelude="", status=0) -> what train.py printed; on the demo data."""

    def run(config: dict, work_dir: Path, *flags: object, prelude: str = "", status: int = 0) -> str:
        file = tmp_path_factory.mktemp("config") / "config.yml"
        file.write_text(yaml.safe_dump(config))
        paths = ("--config", file, "--data_dir", demo_data, "--work_dir", work_dir)
        result = run_script("train.py", *paths, *flags, prelude=prelude)
        assert result.returncode == status and "Traceback" not in result.stderr, result.stderr
        return result.stdout

    return run


@pytest.fixture(scope="session")
def trained_pair(train: Callable, tmp_path_factory: pytest.TempPathFactory) -> TrainedPair:
    folder = tmp_path_factory.mktemp("trained")
    for size in TARGETS:
        train(tiny_config(size), folder / size)
    return TrainedPair(folder / "large", folder / "small")


@pytest.fixture(scope="session")
def generator(trained_pair: TrainedPair) -> DefectGen:
    """The pair, loaded to sample on the CPU in fp32. Shared: do not change it."""
    return DefectGen.load(str(trained_pair.large), str(trained_pair.small), device="cpu", precision="fp32")
