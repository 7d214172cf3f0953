"""What a training reports: a table, events, trackers, a plot, means of the losses. test_resume.py interrupts it."""

import csv
import math
import os
import sys
from contextlib import closing
from types import SimpleNamespace

import blobfile as bf
import pytest
import torch
from conftest import tiny_config
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from guided_diffusion import load_config
from guided_diffusion.errors import InputError
from guided_diffusion.training import logger as module
from guided_diffusion.training.logger import LossWindow, TrainLogger


def values_at(step):
    """Numbers that depend on the step alone; held-out loss at every third step."""
    values = {"loss": 1 / step, "rgb": 0.7 / step, "mask": 0.3 / step, "lr": 1e-4}
    values |= {f"loss_q{q}": q / step for q in (1, 2, 3, 4)}
    if step % 3 == 0:
        values |= {"val": 1.1 / step} | {f"val_q{q}": 1.1 * q / step for q in (1, 2, 3, 4)}
    return values


def make(work_dir, start_step, loggers=("tensorboard", "csv"), steps=10):
    changes = {"train.loggers": list(loggers), "train.iterations": steps}
    return TrainLogger(str(work_dir), load_config(tiny_config("small", **changes), 1), start_step)


def run(work_dir, first, last, *loggers):
    """Log the steps first..last of a run and return the logger."""
    with closing(make(work_dir, first - 1, *loggers)) as logger:
        for step in range(first, last + 1):
            logger.log(step, values_at(step))
    return logger


def test_csv_has_six_digits_and_grows_columns(tmp_path, capsys):
    run(tmp_path, 1, 4)
    table = list(csv.DictReader((tmp_path / "progress.csv").read_text().splitlines()))
    assert list(table[0])[:4] == ["step", "loss", "rgb", "mask"]
    assert [row["step"] for row in table] == ["1", "2", "3", "4"]
    assert table[2]["loss"] == "0.333333" and table[2]["lr"] == "0.0001"
    assert [row["val"] for row in table] == ["", "", "0.366667", ""]
    assert "4/10" in (shown := capsys.readouterr().err) and "loss 0.25" in shown


@pytest.mark.parametrize(
    "content",
    [b"colour,size\nred,3\n", b"step,loss\nfive,3\n", b"step\n\xff\xfe\n", b"step,loss\n1,abc\n", b"step\r1,\r\n"],
)
def test_a_file_that_is_no_progress_csv_is_named(tmp_path, content):
    (tmp_path / "progress.csv").write_bytes(content)
    with pytest.raises(InputError, match=r"progress\.csv: is not a table of logged steps"):
        make(tmp_path, 5)
    assert (tmp_path / "progress.csv").read_bytes() == content


def test_tensorboard_forgets_what_came_after_the_resumed_step(tmp_path):
    run(tmp_path, 1, 5)
    logger = make(tmp_path, 3)
    for step in (4, 5, 6):
        logger.log(step, {"loss": 100 + step})
    events = EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    points = {event.step: event.value for event in events.Scalars("train/loss")}
    assert points == pytest.approx({1: 1, 2: 1 / 2, 3: 1 / 3, 4: 104, 5: 105, 6: 106}, rel=1e-6)
    assert [event.step for event in events.Scalars("val/val")] == [3]
    assert {"train/loss_q1", "train/rgb", "val/val_q4", "run/lr"} <= set(events.Tags()["scalars"])


@pytest.mark.parametrize(
    ("losses", "quartile", "panels"),
    [([1.0], 0.5, 2), ([1.0, 0.5], 0.0, 1), ([0.5, math.nan, -2.0], 1.0, 2), ([0.0], 0.0, 0)],
)
def test_loss_plot_has_a_panel_for_what_can_be_drawn(tmp_path, losses, quartile, panels):
    logger = make(tmp_path, 0)
    for step, loss in enumerate(losses, start=1):
        logger.log(step, {"loss": loss, "val": loss, "loss_q1": quartile})
    logger.save_loss_plot()
    picture = tmp_path / "loss.png"
    assert picture.exists() == (panels > 0)
    assert not panels or Image.open(picture).size == (715 * panels, 550)


def test_the_loss_plot_is_drawn_anew_after_a_minute(tmp_path, monkeypatch):
    clock = iter([0, *(20, 40, 61, 61, 100, 120, 122, 122)])  # begin; log lines, two of them draw
    monkeypatch.setattr(module, "time", SimpleNamespace(monotonic=lambda: next(clock), time=lambda: 0))
    with closing(make(tmp_path, 0, ["csv"])) as logger:
        for step, drawn in enumerate([False, False, True, False, False, True], start=1):
            (tmp_path / "loss.png").unlink(missing_ok=True)
            logger.log(step, {"loss": 1.0})
            assert (tmp_path / "loss.png").exists() == drawn
    assert next(clock, None) is None


def test_cloud_work_dir_gets_csv_and_plot_but_no_events(tmp_path, monkeypatch, capsys):
    store: dict[str, bytes] = {}
    monkeypatch.setattr(bf, "write_bytes", store.__setitem__)
    monkeypatch.setattr(bf, "read_bytes", store.__getitem__)
    monkeypatch.setattr(bf, "exists", store.__contains__)
    monkeypatch.chdir(tmp_path)
    run("gs://bucket/run", 1, 5).save_loss_plot()
    make("gs://bucket/run", 3)
    assert sorted(store) == ["gs://bucket/run/loss.png", "gs://bucket/run/progress.csv"]
    assert len(store["gs://bucket/run/progress.csv"].splitlines()) == 4
    assert os.listdir(tmp_path) == [] and "needs a local work_dir" in capsys.readouterr().out


def test_time_left_is_by_all_steps_but_the_first(tmp_path, monkeypatch, capsys):
    clock = [1000.0]
    monkeypatch.setattr("tqdm.std.time", lambda: clock[0])
    monkeypatch.setattr(module, "_append_events", lambda *_: clock.append(clock.pop() + 300))  # its import lasts
    with closing(make(tmp_path, 0, ["tensorboard"], 101)) as logger:
        for step in range(1, 12):
            clock[0] += 2 * (step > 1)
            logger.log(step, None)
    assert "11/101 [00:20<03:00,  2.00s/it]" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["wandb", "mlflow"])
def test_a_tracker_offline_gets_the_numbers_and_the_configuration(tmp_path, monkeypatch, name):
    pytest.importorskip("accelerate", reason="accelerate is not installed")
    package = pytest.importorskip(name, reason=f"{name} is not installed")
    own = {"WANDB_MODE": "offline", "WANDB_DIR": tmp_path, "MLFLOW_TRACKING_URI": tmp_path / "mlruns"}
    own |= {"MLFLOW_ALLOW_FILE_STORE": "true", "MLFLOW_DISABLE_TELEMETRY": "true"}
    for key, value in (own | {"LOCAL_RANK": 0, "WORLD_SIZE": 1}).items():  # as torchrun sets them
        monkeypatch.setenv(key, str(value))
    with closing(make(tmp_path, 0, [name])) as logger:
        for step in (3, 4):  # wandb shows what comes before the last line
            logger.log(step, values_at(3))
        run = logger._trackers[0].tracker
        data = package.get_run(run.info.run_id).data if name == "mlflow" else None
        numbers, told = (data.metrics, data.params) if data else (dict(run.summary), dict(run.config))
    assert (numbers["train/loss"], numbers["val/val_q4"], numbers["run/lr"]) == (1 / 3, 4.4 / 3, 1e-4)
    assert told["work_dir"] == str(tmp_path) and float(told["optimizer.lr"]) == 0.001
    assert os.environ["WORLD_SIZE"] == "1" and not torch.distributed.is_initialized()


def test_only_chosen_loggers_write_and_a_tracker_may_fail_but_at_its_start(tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "accelerate", None)  # as if it were not installed
    with pytest.raises(InputError, match="train.loggers: wandb does not start .*pip install accelerate wandb"):
        make(tmp_path, 0, ["wandb"])
    run(tmp_path, 1, 3, []).save_loss_plot()
    assert os.listdir(tmp_path) == []
    monkeypatch.setattr(module, "_start", lambda *_: SimpleNamespace(name="wandb"))  # which lacks all methods
    run(tmp_path, 1, 4, ["wandb", "csv"])
    assert capsys.readouterr().err.count("wandb misses numbers (") == 1
    assert os.listdir(tmp_path) == ["progress.csv"]


def test_a_window_averages_parts_and_quartiles_and_starts_anew():
    window, names = LossWindow(8, torch.device("cpu")), ("loss", "rgb", "mask", "grad_norm")
    for loss in (1.0, 3.0):
        parts = dict.fromkeys(names, torch.tensor(loss))
        window.add(parts | {"per_sample": torch.tensor([loss, 5.0])}, torch.tensor([0, 7]))
    assert window.report() == dict.fromkeys(names, 2.0) | {"loss_q1": 2.0, "loss_q4": 5.0}
    assert window.sums.abs().sum() == 0
