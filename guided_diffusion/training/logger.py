"""What a training run reports while it runs: progress bar, progress.csv, TensorBoard, loss.png.

An object that the process of rank 0 owns; the other ranks hold a NullLogger. matplotlib and tensorboard
are slow to import and the run can do without them, so they are imported where they are used.
"""

from __future__ import annotations

import csv
import io
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import blobfile as bf
import numpy as np
from tqdm import tqdm

from ..errors import InputError
from ..file_io import is_cloud, read_bytes, write_atomic

if TYPE_CHECKING:
    from matplotlib.axes import Axes

QUARTILES = ("q1", "q2", "q3", "q4")
TRAIN_KEYS = ("loss", "rgb", "mask", *(f"loss_{q}" for q in QUARTILES))


class NullLogger:
    """Reports nothing: for the ranks other than 0."""

    def log(self, step: int, values: dict[str, float]) -> None: ...

    def advance(self, n: int = 1) -> None: ...

    def save_loss_plot(self) -> None: ...

    def message(self, text: str) -> None: ...

    def close(self) -> None: ...


class TrainLogger(NullLogger):
    """Reports on a run of `total_steps` steps that starts, or goes on, after `start_step` of them.

    A resumed run (start_step > 0) drops what was logged after start_step, so that its records read as if
    it had never been interrupted; a fresh one begins them anew. `quiet` keeps the terminal silent.
    Raises InputError where an old progress.csv is not one.
    """

    def __init__(self, work_dir: str, total_steps: int, start_step: int, quiet: bool = False) -> None:
        self._work_dir = work_dir
        self._csv_path = bf.join(work_dir, "progress.csv")
        self._quiet = quiet
        # In a log file every refresh of the bar is one more line, so it refreshes seldom there.
        self._bar = tqdm(
            total=total_steps,
            initial=start_step,
            disable=quiet,
            dynamic_ncols=True,
            mininterval=0.2 if sys.stderr.isatty() else 10,
        )
        self._rows: list[dict[str, str]] = []  # each {"step": ..., column: text}, by step
        self._columns: list[str] = ["step"]
        self._lines: list[str] = []  # the rows as CSV text under these columns
        if start_step > 0 and bf.exists(self._csv_path):
            self._read_rows_until(start_step)
        self._tensorboard = self._open_tensorboard(purge_step=start_step + 1)

    def log(self, step: int, values: dict[str, float]) -> None:
        """Record the numbers of `step` (steps done so far) in the CSV and TensorBoard, and show the loss."""
        self._add_row({"step": str(step)} | {key: f"{value:.6g}" for key, value in values.items()})
        self._write_csv()
        if self._tensorboard:
            for key, value in values.items():
                self._tensorboard.add_scalar(_tensorboard_tag(key), value, step)
            self._tensorboard.flush()
        shown = [f"{key} {values[key]:.4g}" for key in ("loss", "val") if key in values]
        self._bar.set_postfix_str(", ".join(shown), refresh=False)

    def advance(self, n: int = 1) -> None:
        """Move the progress bar by `n` steps."""
        self._bar.update(n)

    def message(self, text: str) -> None:
        """Print a line above the progress bar."""
        if not self._quiet:
            tqdm.write(text)
            sys.stdout.flush()  # a killed run should not lose its last words in a pipe

    def save_loss_plot(self) -> None:
        """Draw what was logged so far to <work_dir>/loss.png; nothing where there is nothing to draw."""
        series = {key: self._series(key) for key in self._columns[1:]}
        series = {key: points for key, points in series.items() if len(points[0])}
        if "loss" not in series:
            return
        try:
            png = _draw_losses(series, title=bf.basename(self._work_dir.rstrip("/")) or "training")
        except ImportError:
            self.message("loss.png is left out: matplotlib is not installed (pip install matplotlib)")
            return
        write_atomic(bf.join(self._work_dir, "loss.png"), png)

    def close(self) -> None:
        """End the progress bar and TensorBoard's file."""
        self._bar.close()
        if self._tensorboard:
            self._tensorboard.close()

    def _add_row(self, row: dict[str, str]) -> None:
        new = [key for key in row if key not in self._columns]
        self._rows.append(row)
        if new:
            self._columns += new
            self._lines = [_csv_line([row.get(key, "") for key in self._columns]) for row in self._rows]
        else:
            self._lines.append(_csv_line([row.get(key, "") for key in self._columns]))

    def _write_csv(self) -> None:
        write_atomic(self._csv_path, (_csv_line(self._columns) + "".join(self._lines)).encode())

    def _read_rows_until(self, last_step: int) -> None:
        try:
            table = list(csv.DictReader(io.StringIO(read_bytes(self._csv_path).decode())))
            kept = [row for row in table if int(row["step"]) <= last_step]
        except (ValueError, TypeError, KeyError) as error:
            raise InputError(
                f"{self._csv_path}: is not a table of logged steps; rename or remove it to resume"
            ) from error
        for row in kept:
            self._add_row({key: text for key, text in row.items() if key and text})
        if len(kept) < len(table):
            self._write_csv()

    def _open_tensorboard(self, purge_step: int) -> Any | None:
        """A SummaryWriter whose viewer forgets older events from purge_step on, or None without one."""
        if is_cloud(self._work_dir):
            self.message("TensorBoard is left out: it needs a local work_dir; progress.csv has its numbers")
            return None
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError:
            self.message("TensorBoard is left out: it is not installed (pip install tensorboard)")
            return None
        return SummaryWriter(bf.join(self._work_dir, "tensorboard"), purge_step=purge_step)

    def _series(self, key: str) -> tuple[np.ndarray, np.ndarray]:
        """Steps and values, float64 [n] each, where `key` was logged and a log axis can show it."""
        points = [(float(row["step"]), float(row[key])) for row in self._rows if key in row]
        points = [(step, value) for step, value in points if np.isfinite(value) and value > 0]
        steps, values = np.array(points, dtype=np.float64).reshape(-1, 2).T
        return steps, values


def smooth(values: np.ndarray, half: int) -> np.ndarray:
    """Mean over up to `half` neighbours on each side, [n] -> [n].

    At the start the window shrinks evenly, or the steep first fall would smear; at the end it is only
    cut off, because there the reader wants a steady line.
    """
    total = np.concatenate([[0.0], np.cumsum(values)])
    index = np.arange(len(values))
    reach = np.minimum(half, index)
    low, high = index - reach, np.minimum(index + reach, len(values) - 1) + 1
    return (total[high] - total[low]) / (high - low)


def _csv_line(fields: Sequence[str]) -> str:
    buffer = io.StringIO()
    csv.writer(buffer, lineterminator="\n").writerow(fields)
    return buffer.getvalue()


def _tensorboard_tag(key: str) -> str:
    if key.startswith("val"):
        return f"val/{key}"
    return f"train/{key}" if key in TRAIN_KEYS else f"run/{key}"


Series = dict[str, tuple[np.ndarray, np.ndarray]]


def _draw_losses(series: Series, title: str) -> bytes:
    """PNG of the loss curves and, where logged, of the timestep quartiles beside them."""
    from matplotlib.figure import Figure  # no pyplot: no global state, no display

    quartiles = any(f"loss_{q}" in series for q in QUARTILES)
    figure = Figure(figsize=(13 if quartiles else 7.5, 5), dpi=110, layout="constrained")
    axes = figure.subplots(1, 2 if quartiles else 1, squeeze=False)[0]
    _draw_parts(axes[0], series, title)
    if quartiles:
        _draw_quartiles(axes[1], series)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    return buffer.getvalue()


def _draw_parts(axes: Axes, series: Series, title: str) -> None:
    """Training loss, its RGB and mask parts and the held-out loss with its lowest point marked."""
    for key, colour, label in (
        ("rgb", "#56a0d3", "RGB part"),
        ("mask", "#2a9d6f", "mask part"),
        ("loss", "#222222", "training loss"),
        ("val", "#d1495b", "held-out loss (val)"),
    ):
        if key in series:
            _draw_noisy(axes, *series[key], color=colour, label=label, lw=1.4 if "part" in label else 2.2)
    if "val" in series:
        steps, values = series["val"][0], _smooth_by_length(series["val"][1])
        best = int(np.argmin(values))
        label = f"lowest val: {values[best]:.3g} at step {steps[best]:,.0f}"
        axes.plot(steps[best], values[best], "o", color="#d1495b", mec="white", ms=8, label=label)
    _finish(axes, f"{title}: loss")


def _draw_quartiles(axes: Axes, series: Series) -> None:
    """One colour per quartile of the timesteps: training solid, held-out dashed."""
    colours = ("#f0a202", "#d95d39", "#8e3b7e", "#3b3a82")
    notes = (", least noise", "", "", ", most noise")
    dashed = (0, (4, 2))
    for quartile, colour, note in zip(QUARTILES, colours, notes, strict=True):
        if f"loss_{quartile}" in series:
            _draw_noisy(axes, *series[f"loss_{quartile}"], color=colour, label=quartile + note, lw=1.8)
        if f"val_{quartile}" in series:
            _draw_noisy(axes, *series[f"val_{quartile}"], color=colour, lw=1.8, ls=dashed)
    if any(f"val_{q}" in series for q in QUARTILES):
        axes.plot([], [], color="#555555", lw=1.8, ls=dashed, label="held-out (val)")
    _finish(axes, "loss by quartile of the timestep t")


def _draw_noisy(axes: Axes, steps: np.ndarray, values: np.ndarray, color: str, **line: Any) -> None:
    """The raw values faintly, their smoothed line strongly."""
    axes.plot(steps, values, color=color, lw=0.8, alpha=0.25)
    axes.plot(steps, _smooth_by_length(values), color=color, **line)


def _smooth_by_length(values: np.ndarray) -> np.ndarray:
    return smooth(values, half=len(values) // 30)


def _finish(axes: Axes, title: str) -> None:
    from matplotlib.ticker import LogLocator, MaxNLocator, NullLocator

    axes.set_yscale("log")
    low, high = axes.get_ylim()
    subs = (1, 2, 5) if high > 10 * low else (1, 1.5, 2, 2.5, 3, 4, 5, 6, 7, 8)
    axes.yaxis.set_major_locator(LogLocator(subs=subs))
    axes.yaxis.set_minor_locator(NullLocator())
    axes.yaxis.set_major_formatter("{x:g}")
    axes.xaxis.set_major_locator(MaxNLocator(nbins=8, integer=True))
    axes.xaxis.set_major_formatter("{x:,.0f}")
    axes.set_title(title, loc="left", fontsize=12)
    axes.set_xlabel("training step")
    axes.grid(color="#e2e2e2", lw=0.7)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, fontsize=9)
