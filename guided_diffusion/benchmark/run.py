"""One benchmark run: its settings, what it has found, and its parts, each with a budget of time."""

from __future__ import annotations

import json
import math
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch

from ..config import Config
from ..errors import InputError
from ..file_io import write_json
from ..tuning import settle
from .compare import Variant, compare
from .report import describe_machine, describe_table, machine
from .timing import Clock, OutOfTime, matrix_rates, time_limit
from .training import with_train

MATRIX_SIZES = {"cpu": (1024, 2048), "cuda": (4096, 8192, 16384)}
SOFT = 0.85  # of a part's budget: rounds end there, so that the hard stop is rarely met


@dataclass
class Part:
    """A piece of a run. budget: seconds it may take; None: as long as it wants."""

    name: str
    work: Callable[[], None]
    budget: float | None = None


class Benchmark:
    """What the parts of a run share. After every part its tables are printed and the JSON file is written anew."""

    def __init__(
        self,
        device: torch.device,
        settings: dict[str, Any],
        *,
        rounds: int,
        seconds: float | None,
        operators: bool,
        json_path: str | None,
        tiny: bool = False,
    ):
        """rounds: of every table; seconds: after which a table's rounds end early. tiny: only try the code."""
        self.rounds, self.seconds, self.operators, self.json_path = rounds, seconds, operators, json_path
        self.tiny = tiny
        self.clock = Clock(device, 0.0) if tiny else Clock(device)
        self.matrix_sizes = (512,) if tiny else MATRIX_SIZES[device.type]
        self.most_batch = 4 if tiny else 1024  # where a search for the best one ends
        self._settled: dict[str, Config] = {}
        self.best: dict[tuple[str, str], int] = {}  # batch found for a title and variant
        self.status = 0
        self.deadline: float | None = None  # of the current part's rounds, time.perf_counter
        self.found: dict[str, Any] = {
            "machine": machine(device),
            "settings": settings,
            "matrix_rates": {},
            "parts": [],
            "tables": [],
            "checks": [],
        }

    def run(self, parts: Sequence[Part], total: float | None = None) -> int:
        """Do the parts in turn; total: seconds for all. Returns the exit status: 2 after bad input, 1 if a part failed
        otherwise."""
        start, printed = time.perf_counter(), 0
        parts = [Part("matrix rates", self._measure_rates), *parts]
        for part in parts:
            left = None if total is None else total - (time.perf_counter() - start)
            budgets = [seconds for seconds in (part.budget, left) if seconds is not None]
            self._do(part, min(budgets) if budgets else None)
            for table in self.found["tables"][printed:]:
                print(f"\n{describe_table(table)}", flush=True)
            printed = len(self.found["tables"])
            self.save()
        return self.status

    def _do(self, part: Part, budget: float | None) -> None:
        start, status = time.perf_counter(), "done"
        self.deadline = None if budget is None else start + SOFT * budget
        try:
            if budget is not None and budget < 1:
                raise OutOfTime
            with time_limit(budget):
                part.work()
        except OutOfTime:
            status = f"ran out of its {max(budget, 0):.0f} s"
        except InputError as error:  # what cannot be compiled, or does not fit; other parts may do all the same
            status = f"failed: {error}"
            self.status = 2
        except Exception as error:
            status = f"failed: {type(error).__name__}: {' '.join(str(error).split())}"
            self.status = max(self.status, 1)
            traceback.print_exc()
        self.clock.free()
        took = time.perf_counter() - start
        self.found["parts"].append({"name": part.name, "budget_s": budget, "seconds": took, "status": status})
        if status != "done":
            print(f"{part.name}: {status}", file=sys.stderr, flush=True)

    def _measure_rates(self) -> None:
        self.found["matrix_rates"] |= matrix_rates(self.clock, self.matrix_sizes)
        print(describe_machine(self.found["machine"], self.found["matrix_rates"]), flush=True)

    def settled(self, config: Config) -> Config:
        """The configuration with its precision decided as by scripts/train.py, once; without compilation."""
        key = json.dumps(config.to_dict())
        if key not in self._settled:
            self._settled[key] = settle(with_train(config, compile="off"), self.clock.device, 0, None)[0]
        return self._settled[key]

    def compare(
        self,
        title: str,
        variants: Sequence[Variant],
        *,
        rounds: int | None = None,
        first_batch: int = 1,
        operators: bool = False,
        **about: Any,
    ) -> None:
        """Add a table of variants. first_batch: where the search for the best one starts. operators: name the
        costliest ones even if the run does not. about: what else the table's entry in the JSON file says.

        A best batch found under the same title is not searched again.
        """
        table = {"title": title, **about, "rows": []}
        self.found["tables"].append(table)
        deadline = self.deadline
        if self.seconds is not None:
            deadline = min(deadline or math.inf, time.perf_counter() + self.seconds)
        known = [replace(v, batch=v.batch or self.best.get((title, v.name), 0)) for v in variants]
        try:
            compare(
                table,
                known,
                self.clock,
                self.found["matrix_rates"],
                rounds=rounds or self.rounds,
                deadline=deadline,
                operators=operators or self.operators,
                batches=(min(first_batch, self.most_batch), self.most_batch),
            )
        finally:
            self.best |= {(title, row["variant"]): row["batch"] for row in table["rows"] if row["tried_batches"]}

    def check(self, name: str, outcome: str, **values: Any) -> None:
        """Add an outcome that is no table."""
        self.found["checks"].append({"name": name, "outcome": outcome, **values})
        print(f"\n{name}: {outcome}", flush=True)

    def save(self) -> None:
        if self.json_path:
            write_json(self.json_path, self.found)
