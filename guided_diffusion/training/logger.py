"""What the process of rank 0 reports while it trains: progress bar, progress.csv, TensorBoard, loss.png.

matplotlib and tensorboard are slow to import and the run can do without them, so they are imported where they are used.
"""

from __future__ import annotations

import csv
import io
import sys
from collections.abc import Mapping, Sequence
from typing import Any

import blobfile as bf
import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from .. import dist_util
from ..errors import InputError
from ..file_io import is_cloud, read_bytes, write_atomic

QUARTILES = ("q1", "q2", "q3", "q4")
PARTS = ("loss", "rgb", "mask", "grad_norm")
TRAIN_KEYS = ("loss", "rgb", "mask", *(f"loss_{q}" for q in QUARTILES))


class TrainLogger:
    """Reports on a run of `total_steps` steps that starts, or goes on, after `start_step` of them.

    A resumed run (start_step > 0) drops what was logged after start_step, so that its records read as if
    it had never been interrupted; a fresh one begins them anew. As a context it ends its files at the end.
    Raises InputError where an old progress.csv is not one.
    """

    def __init__(self, work_dir: str, total_steps: int, start_step: int) -> None:
        self._work_dir, self._csv_path = work_dir, bf.join(work_dir, "progress.csv")
        # In a log file every refresh of the bar is one more line, so it refreshes seldom there.
        refresh = 0.2 if sys.stderr.isatty() else 10
        self._bar = tqdm(total=total_steps, initial=start_step, dynamic_ncols=True, mininterval=refresh)
        self._rows: list[dict[str, str]] = []  # each {"step": ..., column: text}, by step
        if start_step > 0 and bf.exists(self._csv_path):
            self._read_rows_until(start_step)
        self._tensorboard = self._open_tensorboard(purge_step=start_step + 1)

    def __enter__(self) -> TrainLogger:
        return self

    def __exit__(self, *error: object) -> None:
        self._bar.close()
        if self._tensorboard:
            self._tensorboard.close()

    def advance(self) -> None:
        """Move the progress bar by a step."""
        self._bar.update()

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Record the numbers of `step` (steps done so far) in the CSV and TensorBoard, and show the loss."""
        self._rows.append({"step": str(step)} | {key: f"{value:.6g}" for key, value in values.items()})
        self._write_csv()
        if self._tensorboard:
            for key, value in values.items():
                group = "val" if key.startswith("val") else "train" if key in TRAIN_KEYS else "run"
                self._tensorboard.add_scalar(f"{group}/{key}", value, step)
            self._tensorboard.flush()
        shown = [f"{key} {values[key]:.4g}" for key in ("loss", "val") if key in values]
        self._bar.set_postfix_str(", ".join(shown), refresh=False)

    def save_loss_plot(self) -> None:
        """Draw what was logged so far to <work_dir>/loss.png; nothing where there is nothing to draw."""
        series = {key: points for key in self._columns()[1:] if len((points := self._series(key))[0])}
        if "loss" not in series:
            return
        try:
            png = _draw_losses(series, title=bf.basename(self._work_dir.rstrip("/")) or "training")
        except ImportError:
            tqdm.write("loss.png is left out: matplotlib is not installed (pip install matplotlib)")
            return
        write_atomic(bf.join(self._work_dir, "loss.png"), png)

    def _columns(self) -> list[str]:
        return list(dict.fromkeys(key for row in self._rows for key in row))

    def _write_csv(self) -> None:
        buffer = io.StringIO()
        writer = csv.DictWriter(buffer, self._columns() or ["step"], restval="", lineterminator="\n")
        writer.writeheader()
        writer.writerows(self._rows)
        write_atomic(self._csv_path, buffer.getvalue().encode())

    def _read_rows_until(self, last_step: int) -> None:
        try:
            table = list(csv.DictReader(io.StringIO(read_bytes(self._csv_path).decode())))
            kept = [row for row in table if int(row["step"]) <= last_step]
        except (ValueError, TypeError, KeyError) as error:
            raise InputError(
                f"{self._csv_path}: is not a table of logged steps; rename or remove it to resume"
            ) from error
        self._rows = [{key: text for key, text in row.items() if key and text} for row in kept]
        if len(kept) < len(table):
            self._write_csv()

    def _open_tensorboard(self, purge_step: int) -> Any | None:
        """A SummaryWriter whose viewer forgets older events from purge_step on, or None without one."""
        if is_cloud(self._work_dir):
            tqdm.write("TensorBoard is left out: it needs a local work_dir; progress.csv has its numbers")
            return None
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError:
            tqdm.write("TensorBoard is left out: it is not installed (pip install tensorboard)")
            return None
        return SummaryWriter(bf.join(self._work_dir, "tensorboard"), purge_step=purge_step)

    def _series(self, key: str) -> tuple[np.ndarray, np.ndarray]:
        """Steps and values, float64 [n] each, where `key` was logged and a log axis can show it."""
        points = np.array([(row["step"], row[key]) for row in self._rows if key in row], np.float64).reshape(-1, 2)
        steps, values = points[np.isfinite(points[:, 1]) & (points[:, 1] > 0)].T
        return steps, values


class LossWindow:
    """Running sums since the last report; `sums` is all its state, and goes into the checkpoint."""

    def __init__(self, num_timestep: int, device: torch.device):
        self.num_timestep = num_timestep
        # steps, the parts, then loss and count of every quartile
        self.sums = torch.zeros(1 + len(PARTS) + 2 * len(QUARTILES), device=device)

    def add(self, losses: Mapping[str, Tensor], t: Tensor) -> None:
        """Add one step: its scalar PARTS, and "per_sample" [N] at timesteps t [N]."""
        n = 1 + len(PARTS)
        self.sums[0] += 1
        self.sums[1:n] += torch.stack([losses[part].detach() for part in PARTS])
        quartile = t * len(QUARTILES) // self.num_timestep
        self.sums[n : n + len(QUARTILES)].index_add_(0, quartile, losses["per_sample"])
        self.sums[n + len(QUARTILES) :].index_add_(0, quartile, torch.ones_like(losses["per_sample"]))

    def report(self) -> dict[str, float]:
        """Means over the steps added and over ranks, "loss_q1".."loss_q4" by timestep quartile; then start anew."""
        dist_util.average_(self.sums)
        steps, *rest = self.sums.tolist()
        self.sums.zero_()
        values = {part: total / steps for part, total in zip(PARTS, rest, strict=False)}
        totals, counts = rest[len(PARTS) : -len(QUARTILES)], rest[-len(QUARTILES) :]
        for quartile, total, count in zip(QUARTILES, totals, counts, strict=True):
            if count:
                values[f"loss_{quartile}"] = total / count
        return values


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


# Key in progress.csv, colour, label, dashed: of the panel of the loss and its parts, and of that by timestep.
_LINES = [("rgb", "#56a0d3", "RGB part", False), ("mask", "#2a9d6f", "mask part", False)]
_LINES += [("loss", "#222222", "training loss", False), ("val", "#d1495b", "held-out loss (val)", False)]
_COLOURS = ("#f0a202", "#d95d39", "#8e3b7e", "#3b3a82")
_NOTES = (", least noise", "", "", ", most noise")
_QUARTILE_LINES = [
    (f"{kind}_{q}", colour, q + note if kind == "loss" else f"{q}, held-out (val)", kind == "val")
    for q, colour, note in zip(QUARTILES, _COLOURS, _NOTES, strict=True)
    for kind in ("loss", "val")
]


def _draw_losses(series: Mapping[str, tuple[np.ndarray, np.ndarray]], title: str) -> bytes:
    """PNG of the loss curves and, where logged, of the timestep quartiles beside them."""
    from matplotlib.figure import Figure  # no pyplot: no global state, no display

    panels = {f"{title}: loss": _LINES}
    if any(f"loss_{q}" in series for q in QUARTILES):
        panels["loss by quartile of the timestep t"] = _QUARTILE_LINES
    figure = Figure(figsize=(6.5 * len(panels), 5), dpi=110, layout="constrained")
    for axes, (name, lines) in zip(figure.subplots(1, len(panels), squeeze=False)[0], panels.items(), strict=True):
        _draw_panel(axes, name, [(*series[key], *style) for key, *style in lines if key in series])
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    return buffer.getvalue()


def _draw_panel(axes: Any, title: str, lines: Sequence[tuple]) -> None:
    """The raw values faintly, their smoothed lines strongly, the lowest held-out loss marked."""
    for steps, values, colour, label, dashed in lines:
        smoothed = smooth(values, half=len(values) // 30)
        axes.plot(steps, values, color=colour, lw=0.8, alpha=0.25)
        axes.plot(steps, smoothed, color=colour, label=label, lw=1.8, ls="--" if dashed else "-")
        if label == "held-out loss (val)":
            best = int(np.argmin(smoothed))
            label = f"lowest val: {smoothed[best]:.3g} at step {steps[best]:,.0f}"
            axes.plot(steps[best], smoothed[best], "o", color=colour, mec="white", ms=8, label=label)
    axes.set(yscale="log", xlabel="training step")
    axes.yaxis.set_major_formatter("{x:g}")
    axes.yaxis.set_minor_formatter("{x:g}")
    axes.xaxis.set_major_formatter("{x:,.0f}")
    axes.set_title(title, loc="left", fontsize=12)
    axes.grid(color="#e2e2e2", lw=0.7)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, fontsize=9)
