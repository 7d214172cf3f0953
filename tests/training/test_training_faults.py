"""Each write of a training fails once, each read is once short: one line or a warning, and nothing is lost."""

import errno
import os
import shutil
from pathlib import Path

import pytest
import yaml
from conftest import tiny_config
from runs import Faulty, tree

from guided_diffusion import file_io
from guided_diffusion.cli import train as cli
from guided_diffusion.errors import InputError
from guided_diffusion.training.checkpoint import latest_checkpoint, load_checkpoint
from guided_diffusion.training.logger import TrainLogger

EVERY_STEP = dict.fromkeys(("save_ckpt_interval", "eval_interval", "log_image_interval", "max_images", "keep_last"), 1)
CHANGES = {
    "data.resolution": 8,
    "data.bs_per_gpu": 1,
    "model.image_size": 8,
    "diffusion.num_timestep": 2,
    "train.iterations": 2,
    **{f"train.{key}": value for key, value in EVERY_STEP.items()},
}


@pytest.fixture(scope="module")
def words(run_script, tmp_path_factory):
    """The command line of a training of two steps on three images, but for its work_dir."""
    folder = tmp_path_factory.mktemp("faults")
    (folder / "config.yml").write_text(yaml.safe_dump(tiny_config("small", **CHANGES)))
    drawn = run_script("draw_demo_data.py", folder / "data", "--num_images", 3, "--size", 32)
    assert drawn.returncode == 0, drawn.stderr
    return ["--config", str(folder / "config.yml"), "--data_dir", str(folder / "data"), "--device", "cpu"]


@pytest.fixture
def train(words, monkeypatch):
    """train(work, faulty, *flags) -> the line that it ended with, or "". Plots and estimates cost nothing."""
    plot = "/loss.png"
    monkeypatch.setattr(TrainLogger, "save_loss_plot", lambda own: file_io.write_or_warn(own._work_dir + plot, b"plot"))
    monkeypatch.setattr(cli, "describe", lambda *about: "")

    def run(work, faulty, *flags):
        monkeypatch.setattr(file_io, "_warned", set())
        monkeypatch.setattr(file_io, "open", faulty, raising=False)
        try:
            assert cli.main([*words, "--work_dir", str(work), *flags]) == 0
        except InputError as error:
            return str(error)
        return ""

    return run


@pytest.fixture
def whole(train, tmp_path):
    """(work_dir of a training without faults, the paths below it that were written)."""
    calm = Faulty("write")
    assert train(tmp_path / "whole", calm) == ""
    return tmp_path / "whole", calm.paths


def assert_whole(train, work, whole, ended):
    """The last checkpoint loads, and the same command ends with the bytes of a training without faults."""
    if ended:
        assert not latest_checkpoint(str(work)) or load_checkpoint(str(work), "-")
        assert train(work, open) == ""
    assert tree(work / "checkpoint") == tree(whole / "checkpoint")


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EROFS, errno.EIO])
def test_each_write_fails_once(number, train, whole, tmp_path, capsys):
    for chosen, path in enumerate(whole[1]):
        work, faulty = tmp_path / str(chosen), Faulty("write", chosen, number)
        ended, warned = train(work, faulty), capsys.readouterr().err
        assert len(faulty.paths) > chosen
        assert (os.strerror(number) in warned) != (os.strerror(number) in ended), path
        assert_whole(train, work, whole[0], ended)


def test_each_read_is_short_once(train, whole, tmp_path):
    calm = Faulty("read")
    assert train(tmp_path / "half", open, "--set", "train.iterations=1") == ""
    begun = shutil.copytree(tmp_path / "half", tmp_path / "calm")
    assert train(begun, calm) == "" and len(calm.paths) > 8
    for chosen, path in enumerate(calm.paths):
        work = shutil.copytree(tmp_path / "half", tmp_path / str(chosen))
        ended = train(work, Faulty("read", chosen))
        assert Path(path).name in ended and "changed or cut while it was read" in ended, path
        assert_whole(train, work, whole[0], ended)
