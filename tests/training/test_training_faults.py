"""Each write of a training fails once, each read is once short: one line or a warning, and nothing is lost."""

import time

import pytest
import yaml
from conftest import tiny_config
from runs import run_here, spoil_each

from guided_diffusion import file_io
from guided_diffusion.cli import train as cli
from guided_diffusion.training.logger import TrainLogger

EVERY_STEP = dict.fromkeys(("save_ckpt_interval", "eval_interval", "log_image_interval", "max_images", "keep_last"), 1)
CHANGES = {
    "data.resolution": 8,
    "data.bs_per_gpu": 1,
    "model.image_size": 8,
    "model.channel_mult": [1],
    "diffusion.num_timestep": 2,
    "train.iterations": 2,
    **{f"train.{key}": value for key, value in EVERY_STEP.items()},
}


@pytest.fixture
def train(run_script, tmp_path, monkeypatch, capsys):
    """train(work_dir, **flags) -> (exit status, lines of stderr): two steps on three images; plots cost nothing."""
    plot = "/loss.png"
    monkeypatch.setattr(TrainLogger, "save_loss_plot", lambda own: file_io.write_or_warn(own._work_dir + plot, b"plot"))
    monkeypatch.setattr(cli, "describe", lambda *about: "")
    monkeypatch.setattr(time, "process_time", lambda: 0.0)  # it goes into checkpoints, which are compared
    (tmp_path / "config.yml").write_text(yaml.safe_dump(tiny_config("small", **CHANGES)))
    assert run_script("draw_demo_data.py", tmp_path / "data", "--num_images", 3, "--size", 32).returncode == 0
    flags = {"config": tmp_path / "config.yml", "data_dir": tmp_path / "data", "device": "cpu"}
    return lambda work, **more: run_here(cli.main, flags | {"work_dir": work} | more, capsys)


@pytest.mark.parametrize("kind", ["write", "read"])
def test_each_fault_of_the_second_step(train, tmp_path, kind):
    half, whole = tmp_path / "half", tmp_path / "whole"
    assert train(half, set="train.iterations=1") == train(whole) == (0, [])
    told = spoil_each(kind, train, tmp_path, whole, "checkpoint", half)
    saved = {"diffusion_000002.pt", "diffusion_000002.pt.sha256", "latest"}
    logged = {"config.yml", "progress.csv", "loss.png", "000002.png"}
    assert told >= (saved | logged if kind == "write" else {"diffusion_000001.pt", "latest", "progress.csv"}), told
