import csv
import os
import subprocess
import sys

import blobfile as bf
import numpy as np
import pytest
import torch
from PIL import Image

from guided_diffusion.errors import InputError
from guided_diffusion.training.logger import LossWindow, TrainLogger, smooth


@pytest.fixture(autouse=True)
def no_tensorboard(request, monkeypatch):
    """Its import takes seconds; tests that look at it ask for it by their name."""
    if "tensorboard" not in request.node.name:
        monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)


def values_at(step):
    """Numbers that depend on the step alone; held-out loss at every third step."""
    values = {"loss": 1 / step, "rgb": 0.7 / step, "mask": 0.3 / step, "lr": 1e-4}
    values |= {f"loss_q{q}": q / step for q in (1, 2, 3, 4)}
    if step % 3 == 0:
        values |= {"val": 1.1 / step} | {f"val_q{q}": 1.1 * q / step for q in (1, 2, 3, 4)}
    return values


def run(work_dir, first, last):
    """Log the steps first..last of a run and return the logger."""
    with TrainLogger(str(work_dir), 10, first - 1) as logger:
        for step in range(first, last + 1):
            logger.advance()
            logger.log(step, values_at(step))
    return logger


def read_table(work_dir):
    with open(work_dir / "progress.csv", newline="") as file:
        return list(csv.DictReader(file))


def test_csv_has_six_digits_and_grows_columns(tmp_path):
    run(tmp_path, 1, 4)
    table = read_table(tmp_path)
    assert list(table[0])[:4] == ["step", "loss", "rgb", "mask"]
    assert [row["step"] for row in table] == ["1", "2", "3", "4"]
    assert table[2]["loss"] == "0.333333"
    assert table[2]["lr"] == "0.0001"
    assert [row["val"] for row in table] == ["", "", "0.366667", ""]


@pytest.mark.parametrize("saved", [2, 5])
def test_a_resumed_csv_reads_as_if_never_interrupted(tmp_path, saved):
    run(tmp_path / "whole", 1, 10)
    run(tmp_path / "cut", 1, 7)  # killed at 7, with the last checkpoint at `saved`
    run(tmp_path / "cut", saved + 1, 10)
    assert (tmp_path / "cut/progress.csv").read_bytes() == (tmp_path / "whole/progress.csv").read_bytes()


def test_resuming_alone_drops_later_rows_and_a_fresh_run_all(tmp_path):
    run(tmp_path, 1, 7)
    run(tmp_path, 6, 5)
    assert [row["step"] for row in read_table(tmp_path)] == ["1", "2", "3", "4", "5"]
    run(tmp_path, 1, 2)
    assert [row["step"] for row in read_table(tmp_path)] == ["1", "2"]
    assert "val" not in read_table(tmp_path)[0]


@pytest.mark.parametrize("content", [b"colour,size\nred,3\n", b"step,loss\nfive,3\n", b"step\n\xff\xfe\n"])
def test_a_file_that_is_no_progress_csv_is_named(tmp_path, content):
    (tmp_path / "progress.csv").write_bytes(content)
    with pytest.raises(InputError, match=r"progress\.csv: is not a table of logged steps"):
        TrainLogger(str(tmp_path), 10, 5)
    assert (tmp_path / "progress.csv").read_bytes() == content


def test_tensorboard_forgets_what_came_after_the_resumed_step(tmp_path):
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    run(tmp_path, 1, 5)
    with TrainLogger(str(tmp_path), 6, 3) as logger:
        for step in (4, 5, 6):
            logger.log(step, {"loss": 100 + step})
    events = accumulator.EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    points = {event.step: event.value for event in events.Scalars("train/loss")}
    assert points == pytest.approx({1: 1, 2: 1 / 2, 3: 1 / 3, 4: 104, 5: 105, 6: 106}, rel=1e-6)
    assert [event.step for event in events.Scalars("val/val")] == [3]
    assert {"train/loss_q1", "train/rgb", "val/val_q4", "run/lr"} <= set(events.Tags()["scalars"])


def test_bar_shows_progress_and_loss_and_what_is_lacking_is_said_once(tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with TrainLogger(str(tmp_path), 10, 4) as logger:
        for step in (5, 6):
            logger.advance()
            logger.log(step, {"loss": 0.25, "val": 0.5, "lr": 1e-4})
        logger.save_loss_plot()
    shown = capsys.readouterr()
    assert "6/10" in shown.err and "loss 0.25, val 0.5" in shown.err and "it/s" in shown.err
    assert shown.out.count("TensorBoard is left out: it is not installed") == 1
    assert "loss.png is left out: matplotlib is not installed" in shown.out
    assert os.listdir(tmp_path) == ["progress.csv"] and len(read_table(tmp_path)) == 2


def test_loss_plot_is_a_picture_of_one_or_two_panels(tmp_path):
    logger = run(tmp_path, 1, 10)
    logger.save_loss_plot()
    two = Image.open(tmp_path / "loss.png").size
    for row in logger._rows:
        for quartile in "1234":
            del row[f"loss_q{quartile}"]
    logger.save_loss_plot()
    one = Image.open(tmp_path / "loss.png").size
    assert one[1] == two[1] and one[0] < two[0]


@pytest.mark.parametrize("losses", [[1.0], [1.0, float("nan"), 0.5], [0.0, 0.5], [0.02, 0.0201], [-1.0, 2.0], [0.0]])
def test_loss_plot_copes_with_few_and_odd_values(tmp_path, losses):
    logger = TrainLogger(str(tmp_path), 10, 0)
    for step, loss in enumerate(losses, start=1):
        logger.log(step, {"loss": loss, "val": loss, "loss_q1": loss})
    logger.save_loss_plot()
    drawn = (tmp_path / "loss.png").exists()
    assert drawn == (max(losses) > 0)
    assert not drawn or np.asarray(Image.open(tmp_path / "loss.png").convert("RGB")).std() > 0


def test_cloud_work_dir_gets_csv_and_plot_but_no_events(tmp_path, monkeypatch, capsys):
    store: dict[str, bytes] = {}
    monkeypatch.setattr(bf, "write_bytes", store.__setitem__)
    monkeypatch.setattr(bf, "read_bytes", store.__getitem__)
    monkeypatch.setattr(bf, "exists", store.__contains__)
    monkeypatch.chdir(tmp_path)
    logger = TrainLogger("gs://bucket/run", 10, 0)
    for step in range(1, 6):
        logger.log(step, values_at(step))
    logger.save_loss_plot()
    TrainLogger("gs://bucket/run", 10, 3)
    assert sorted(store) == ["gs://bucket/run/loss.png", "gs://bucket/run/progress.csv"]
    assert len(store["gs://bucket/run/progress.csv"].splitlines()) == 4
    assert os.listdir(tmp_path) == []
    assert "needs a local work_dir" in capsys.readouterr().out


def test_smooth_keeps_lines_and_averages_noise():
    line = np.linspace(3, 5, 50)
    assert smooth(line, 0) == pytest.approx(line)
    assert smooth(line, 6)[:44] == pytest.approx(line[:44])  # even windows, shrinking at the start
    assert smooth(line, 6)[-1] == pytest.approx(line[-7:].mean())
    noise = np.random.default_rng(0).normal(1, 0.1, 400)
    assert smooth(noise, 10)[10:].std() < 0.4 * noise.std()
    assert smooth(np.array([2.0]), 5) == pytest.approx([2.0])


def test_a_window_averages_parts_and_quartiles_and_starts_anew():
    window, names = LossWindow(8, torch.device("cpu")), ("loss", "rgb", "mask", "grad_norm")
    for loss in (1.0, 3.0):
        parts = dict.fromkeys(names, torch.tensor(loss))
        window.add(parts | {"per_sample": torch.tensor([loss, 5.0])}, torch.tensor([0, 7]))
    assert window.report() == dict.fromkeys(names, 2.0) | {"loss_q1": 2.0, "loss_q4": 5.0}
    assert window.sums.abs().sum() == 0


def test_importing_the_module_loads_neither_matplotlib_nor_tensorboard():
    names = "('matplotlib', 'tensorboard')"
    code = f"import sys, guided_diffusion.training.logger; print(*(name in sys.modules for name in {names}))"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.split() == ["False", "False"]
