"""What the process of rank 0 reports while it trains: progress bar, progress.csv, TensorBoard, loss.png."""

from __future__ import annotations

import csv
import io
import os
import socket
import sys
import time
from collections.abc import Mapping
from contextlib import suppress

import blobfile as bf
import numpy as np
import torch
from scipy.ndimage import uniform_filter1d
from tensorboard.compat.proto.event_pb2 import Event, SessionLog
from tensorboard.compat.proto.summary_pb2 import Summary
from torch import Tensor
from tqdm import tqdm

from .. import dist_util
from ..errors import InputError
from ..file_io import append, is_cloud, read_bytes, write_or_warn

QUARTILES = ("q1", "q2", "q3", "q4")
PARTS = ("loss", "rgb", "mask", "grad_norm")
TRAIN_KEYS = ("loss", "rgb", "mask", *(f"loss_{q}" for q in QUARTILES))
PANELS: dict[str, dict[str, tuple[str, str]]] = {  # of loss.png: key in progress.csv: colour and label
    "loss": {
        "rgb": ("#56a0d3", "RGB part"),
        "mask": ("#2a9d6f", "mask part"),
        "loss": ("#222222", "training loss"),
        "val": ("#d1495b", "held-out loss (val)"),
    },
    "loss by quartile of the timestep t": {},
}
for _q, _colour in zip(QUARTILES, ("#f0a202", "#d95d39", "#8e3b7e", "#3b3a82"), strict=True):
    PANELS["loss by quartile of the timestep t"] |= {
        f"loss_{_q}": (_colour, _q + {"q1": ", least noise", "q4": ", most noise"}.get(_q, "")),
        f"val_{_q}": (_colour, f"{_q}, held-out (val)"),
    }


class TrainLogger:
    """Reports on a run of `total_steps` steps that starts, or goes on, after `start_step` of them.

    A resumed run (start_step > 0) drops what was logged after start_step, so that its records read as if
    it had never been interrupted; a fresh one begins them anew. As a context it ends its files at the end.
    Raises InputError where an old progress.csv is not one.
    """

    def __init__(self, work_dir: str, total_steps: int, start_step: int) -> None:
        self._work_dir, self._csv_path = work_dir, bf.join(work_dir, "progress.csv")
        self._rows: list[dict[str, str]] = []  # each {"step": ..., column: text}, by step
        self._columns, self._lines = ["step"], []  # of the CSV text of the rows
        if start_step > 0 and bf.exists(self._csv_path):
            content = read_bytes(self._csv_path)
            try:
                table = list(csv.DictReader(io.StringIO(content.decode())))
                self._rows = [
                    {k: v for k, v in row.items() if k and v} for row in table if int(row["step"]) <= start_step
                ]
            except (ValueError, TypeError, KeyError):
                raise InputError(f"{self._csv_path}: is not a table of logged steps; rename or remove it") from None
            self._write_csv()
        # In a log file every refresh of the bar is one more line, so it refreshes seldom there.
        refresh = 0.2 if sys.stderr.isatty() else 10
        self._bar = tqdm(total=total_steps, initial=start_step, dynamic_ncols=True, mininterval=refresh)
        self._events = None
        if is_cloud(work_dir):
            tqdm.write("TensorBoard is left out: it needs a local work_dir; progress.csv has its numbers")
        else:
            self._events = _Events(work_dir, start_step)

    def __enter__(self) -> TrainLogger:
        return self

    def __exit__(self, *error: object) -> None:
        with suppress(OSError):
            self._bar.close()

    def log(self, step: int, values: Mapping[str, float] | None) -> None:
        """Move the bar to `step` (steps done so far); with its numbers, show the loss and record them all."""
        shown = [f"{key} {values[key]:.4g}" for key in ("loss", "val") if key in values] if values else ()
        with suppress(OSError):  # of a log file on a full disk
            self._bar.update()
            if shown:
                self._bar.set_postfix_str(", ".join(shown), refresh=False)
        if not values:
            return
        self._rows.append({"step": str(step)} | {key: f"{value:.6g}" for key, value in values.items()})
        self._write_csv()
        if self._events:
            self._events.add(step, values)

    def _write_csv(self) -> None:
        """Each log line writes the whole table, so only new rows become text; all do where there is a new column."""
        new = self._rows[len(self._lines) :]
        columns = list(dict.fromkeys([*self._columns, *(key for row in new for key in row)]))
        if columns != self._columns:
            self._columns, self._lines, new = columns, [], self._rows
        self._lines += [",".join(row.get(key, "") for key in columns) + "\n" for row in new]
        write_or_warn(self._csv_path, "".join([",".join(columns) + "\n", *self._lines]).encode())

    def save_loss_plot(self) -> None:
        """Draw what was logged so far to <work_dir>/loss.png; nothing where a log axis can show nothing of it."""
        from matplotlib.figure import Figure  # slow to import; no pyplot: no global state, no display

        lines = {key: points for panel in PANELS.values() for key in panel if len(points := self._positive(key))}
        panels = {title: keys for title, panel in PANELS.items() if (keys := [key for key in panel if key in lines])}
        if not panels:
            return
        figure = Figure(figsize=(6.5 * len(panels), 5), dpi=110, layout="constrained")
        for axes, (title, keys) in zip(figure.subplots(1, len(panels), squeeze=False)[0], panels.items(), strict=True):
            for key in keys:
                (colour, label), (steps, values) = PANELS[title][key], lines[key].T
                smooth = uniform_filter1d(values, 2 * (len(values) // 30) + 1, mode="nearest")
                axes.plot(steps, values, color=colour, lw=0.8, alpha=0.25)
                axes.plot(steps, smooth, color=colour, label=label, lw=1.8, ls="--" if key.startswith("val") else "-")
            axes.set(yscale="log", xlabel="training step")
            axes.yaxis.set_major_formatter("{x:g}")
            axes.set_title(title, loc="left")
            axes.grid(color="#e2e2e2", lw=0.7)
            axes.legend(frameon=False, fontsize=9)
        buffer = io.BytesIO()
        figure.savefig(buffer, format="png")
        write_or_warn(bf.join(self._work_dir, "loss.png"), buffer.getvalue())

    def _positive(self, key: str) -> np.ndarray:
        """float64 [n, 2]: steps and values where `key` was logged and a log axis can show it."""
        points = np.array([(row["step"], row[key]) for row in self._rows if key in row], np.float64).reshape(-1, 2)
        return points[np.isfinite(points[:, 1]) & (points[:, 1] > 0)]


class _Events:
    """TensorBoard's file of the numbers. Its own writer has a thread, which prints a traceback where a write fails."""

    def __init__(self, work_dir: str, start_step: int) -> None:
        name = f"events.out.tfevents.{int(time.time()):010d}.{socket.gethostname()}.{os.getpid()}"
        self._path = bf.join(work_dir, "tensorboard", name)
        # viewers forget older events from there on
        begin = SessionLog(status=SessionLog.START)
        self._append(Event(file_version="brain.Event:2"), Event(step=start_step + 1, session_log=begin))

    def add(self, step: int, values: Mapping[str, float]) -> None:
        summary = Summary()
        for key, value in values.items():
            group = "val" if key.startswith("val") else "train" if key in TRAIN_KEYS else "run"
            summary.value.add(tag=f"{group}/{key}", simple_value=value)
        self._append(Event(step=step, summary=summary))

    def _append(self, *events: Event) -> None:
        from tensorboard.summary.writer.record_writer import RecordWriter  # slow to import

        writer = RecordWriter(records := io.BytesIO())
        for event in events:
            event.wall_time = time.time()
            writer.write(event.SerializeToString())
        write_or_warn(self._path, records.getvalue(), append)


class LossWindow:
    """Running sums since the last report; `sums` is all its state, and goes into the checkpoint."""

    def __init__(self, num_timestep: int, device: torch.device):
        self.num_timestep = num_timestep
        # steps, the parts, then loss and count of every quartile
        self.sums = torch.zeros(1 + len(PARTS) + 2 * len(QUARTILES), device=device)

    def add(self, losses: Mapping[str, Tensor], t: Tensor) -> None:
        """Add one step: its scalar PARTS, and "per_sample" [N] at timesteps t [N]."""
        steps, parts, totals, counts = self.sums.split([1, len(PARTS), len(QUARTILES), len(QUARTILES)])
        steps += 1
        parts += torch.stack([losses[part].detach() for part in PARTS])
        quartile = t * len(QUARTILES) // self.num_timestep
        totals.index_add_(0, quartile, losses["per_sample"])
        counts.index_add_(0, quartile, torch.ones_like(losses["per_sample"]))

    def report(self) -> dict[str, float]:
        """Means over the steps added and over ranks, "loss_q1".."loss_q4" by timestep quartile; then start anew."""
        dist_util.average_(self.sums)
        steps, *rest = self.sums.tolist()
        self.sums.zero_()
        n, q = len(PARTS), len(QUARTILES)
        values = {part: total / steps for part, total in zip(PARTS, rest[:n], strict=True)}
        quartiles = zip(QUARTILES, rest[n : n + q], rest[n + q :], strict=True)
        return values | {f"loss_{name}": total / count for name, total, count in quartiles if count}
