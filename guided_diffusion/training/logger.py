"""What the process of rank 0 reports while it trains: progress bar, progress.csv, loss.png, TensorBoard, trackers."""

import csv
import io
import os
import sys
import time
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

import blobfile as bf
import numpy as np
import torch
from scipy.ndimage import uniform_filter1d
from tensorboard.compat.proto.event_pb2 import Event, SessionLog
from tensorboard.compat.proto.summary_pb2 import Summary
from torch import Tensor
from tqdm import tqdm

from .. import dist_util
from ..config import Config
from ..errors import InputError, reason
from ..file_io import append, is_cloud, read_bytes, warn_once, write_or_warn

QUARTILES = ("q1", "q2", "q3", "q4")
PARTS = ("loss", "rgb", "mask", "grad_norm")
REDRAW = 60  # seconds after which a log line draws loss.png anew
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
    """Reports, in train.loggers, on a run that starts, or goes on, after `start_step`. Made after its first step.

    A resumed run (start_step > 0) drops what was logged after start_step, as if it had never been interrupted; a fresh
    one begins anew. Raises InputError where an old progress.csv is not one, or a tracker does not start."""

    def __init__(self, work_dir: str, config: Config, start_step: int) -> None:
        loggers, self._work_dir = config.train.loggers, work_dir
        self._csv_path = bf.join(work_dir, "progress.csv") if "csv" in loggers else ""
        self._rows: list[dict[str, str]] = []  # each {"step": ..., column: text}, by step
        self._columns, self._lines = ["step"], []  # of the CSV text of the rows
        if self._csv_path and start_step > 0 and bf.exists(self._csv_path):
            content = read_bytes(self._csv_path)
            try:
                table = csv.DictReader(io.StringIO(content.decode()))
                kept = [row for row in table if int(row["step"]) <= start_step]
                self._rows = [{k: v for k, v in row.items() if k and v} for row in kept]
                [float(value) for row in self._rows for value in row.values()]
            except (ValueError, TypeError, KeyError, csv.Error):
                raise InputError(f"{self._csv_path}: is not a table of logged steps; rename or remove it") from None
            self._write_csv()
        self._trackers = [_start(name, work_dir, config) for name in ("wandb", "mlflow") if name in loggers]
        self._events = ""  # TensorBoard's file
        if "tensorboard" in loggers and is_cloud(work_dir):
            tqdm.write("TensorBoard is left out: it needs a local work_dir")
        elif "tensorboard" in loggers:
            self._events = bf.join(work_dir, "tensorboard", f"events.out.tfevents.{time.time_ns()}")
            begin = Event(step=start_step + 1, session_log=SessionLog(status=SessionLog.START))  # older events are void
            _append_events(self._events, Event(file_version="brain.Event:2"), begin)
        # Last: the time left is by the mean of all steps but the first, which sets things up. In a log file every
        # refresh of the bar is one more line, so it refreshes seldom there.
        timing = {"initial": start_step + 1, "smoothing": 0, "mininterval": 0.2 if sys.stderr.isatty() else 30}
        self._drawn = time.monotonic()  # when loss.png was, in seconds
        self._bar = tqdm(total=config.train.iterations, miniters=1, dynamic_ncols=True, **timing)

    def close(self) -> None:
        """End the bar and the trackers' runs."""
        with suppress(OSError):
            self._bar.close()
        self._tell("finish")

    def log(self, step: int, values: Mapping[str, float] | None) -> None:
        """Move the bar to `step` (steps done so far); with its numbers, show the loss and record them all."""
        with suppress(OSError):  # of a log file on a full disk
            self._bar.update(step - self._bar.n)
            if values:
                shown = (f"{key} {values[key]:.4g}" for key in ("loss", "val") if key in values)
                self._bar.set_postfix_str(", ".join(shown), refresh=False)
        if not values:
            return
        if self._csv_path:
            self._rows.append({"step": str(step)} | {key: f"{value:.6g}" for key, value in values.items()})
            self._write_csv()
            if time.monotonic() > self._drawn + REDRAW:
                self.save_loss_plot()
        groups = {key: "val" if key.startswith("val") else "train" if key in TRAIN_KEYS else "run" for key in values}
        named = {f"{groups[key]}/{key}": value for key, value in values.items()}
        if self._events:
            summary = Summary(value=[Summary.Value(tag=key, simple_value=value) for key, value in named.items()])
            _append_events(self._events, Event(step=step, summary=summary))
        self._tell("log", named, step)

    def _tell(self, method: str, *what: Any) -> None:
        """Call a method of all trackers. A running training outlives what goes wrong with them."""
        for tracker in self._trackers:
            try:
                getattr(tracker, method)(*what)
            except Exception as error:
                warn_once(tracker.name, f"{tracker.name} misses numbers ({reason(error)}); see to its settings")

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
        self._drawn = time.monotonic()
        from matplotlib.figure import Figure  # slow to import; no pyplot: no global state, no display

        lines: dict[str, np.ndarray] = {}  # float64 [n, 2]: steps, and values where a log axis can show them
        for key in (key for panel in PANELS.values() for key in panel):
            points = np.array([(row["step"], row[key]) for row in self._rows if key in row], np.float64).reshape(-1, 2)
            if len(points := points[(0 < points[:, 1]) & (points[:, 1] < np.inf)]):
                lines[key] = points
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


def _start(name: str, work_dir: str, config: Config) -> Any:
    """accelerate's tracker of a new run at wandb or mlflow, whose environment variables say where and for whom."""
    hidden = {key: os.environ.pop(key) for key in [*os.environ] if key.endswith(("LOCAL_RANK", "_SIZE"))}
    settings = {f"{part}.{key}": value for part, keys in config.to_dict().items() for key, value in keys.items()}
    try:
        from accelerate import PartialState, tracking

        PartialState(cpu=True)  # which trackers want; of several processes it would make a group and set threads
        tracker = tracking.LOGGER_TYPE_TO_CLASS[name](os.environ.get("WANDB_PROJECT", "defect-gen"))
        tracker.start()
        tracker.store_init_configuration({"work_dir": work_dir} | settings)
    except Exception as error:  # of many kinds: a package, a key or the network is lacking
        remedy = f"pip install accelerate {name}, see to its settings, or leave it out"
        raise InputError(f"train.loggers: {name} does not start ({reason(error)}); {remedy}") from error
    finally:
        os.environ.update(hidden)
    return tracker


def _append_events(path: str, *events: Event) -> None:
    """Add to TensorBoard's file. Its own writer, and so accelerate's tracker, ends a run whose disk is full."""
    from tensorboard.summary.writer.record_writer import RecordWriter  # slow to import

    writer = RecordWriter(records := io.BytesIO())
    for event in events:
        event.wall_time = time.time()
        writer.write(event.SerializeToString())
    write_or_warn(path, records.getvalue(), append)


class LossWindow:
    """Running sums since the last report; `sums` is all its state, and goes into the checkpoint."""

    SIZES = (1, len(PARTS), len(QUARTILES), len(QUARTILES))  # steps, the parts, loss and count of every quartile

    def __init__(self, num_timestep: int, device: torch.device):
        self.num_timestep, self.sums = num_timestep, torch.zeros(sum(self.SIZES), device=device)

    def add(self, losses: Mapping[str, Tensor], t: Tensor) -> None:
        """Add one step: its scalar PARTS, and "per_sample" [N] at timesteps t [N]."""
        steps, parts, totals, counts = self.sums.split(self.SIZES)
        steps += 1
        parts += torch.stack([losses[part].detach() for part in PARTS])
        quartile = t * len(QUARTILES) // self.num_timestep
        totals.index_add_(0, quartile, losses["per_sample"])
        counts.index_add_(0, quartile, torch.ones_like(losses["per_sample"]))

    def report(self) -> dict[str, float]:
        """Means over the steps added and over ranks, "loss_q1".."loss_q4" by timestep quartile; then start anew."""
        dist_util.average_(self.sums)
        steps, parts, totals, counts = (part.tolist() for part in self.sums.cpu().split(self.SIZES))
        self.sums.zero_()
        values = {part: total / steps[0] for part, total in zip(PARTS, parts, strict=True)}
        quartiles = zip(QUARTILES, totals, counts, strict=True)
        return values | {f"loss_{name}": total / count for name, total, count in quartiles if count}
