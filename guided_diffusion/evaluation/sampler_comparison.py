"""Samplers with few steps against all steps of their family: cells, margin, intervals, table.

A cell is a set of samples made by one sampler, spacing and number of steps; all cells hold the same seeds. What a
family converges to is its reference, walked in all T steps: dpmpp_2m solves the same equation as ddim and shares its
reference; cold and ddpm have their own.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..diffusion.respace import NumSteps, format_num_steps, total_steps
from ..keyed_random import numpy_generator
from .bootstrap import LEVEL, Resampling, interval
from .kid import kid, kid_resampled

FAMILIES = {"cold": "cold", "ddim": "ddim", "dpmpp_2m": "ddim", "ddpm": "ddpm"}  # sampler -> its reference's
MARGIN_SAMPLER = "ddim"
NUM_RESAMPLES = 5_000


@dataclass(frozen=True)
class Cell:
    """What tells one set of samples from another."""

    sampler: str
    spacing: str
    num_steps: NumSteps
    seed: int

    @property
    def name(self) -> str:
        """Of its folder; the seed stands there too, as one other than the first is for the margin alone."""
        return f"{self.sampler}_{self.spacing}_{format_num_steps(self.num_steps)}_seed{self.seed}"

    @property
    def total_steps(self) -> int:
        return total_steps(self.num_steps)


def reference_of(sampler: str, num_timestep: int, seed: int) -> Cell:
    """The cell that a sampler is compared with: all T steps of its family."""
    return Cell(FAMILIES[sampler], "uniform", num_timestep, seed)


def margin_cells(num_timestep: int, seed: int) -> tuple[Cell, Cell]:
    """The two cells that differ by the seed alone."""
    return reference_of(MARGIN_SAMPLER, num_timestep, seed), reference_of(MARGIN_SAMPLER, num_timestep, seed + 1)


def table_cells(
    samplers: Sequence[str], spacings: Sequence[str], num_steps: Sequence[NumSteps], num_timestep: int, seed: int
) -> list[Cell]:
    """Every combination once, and the references, by sampler, spacing, steps. All T steps have nothing to space."""
    cells = []
    for sampler in samplers:
        grid = [Cell(sampler, spacing, steps, seed) for spacing in spacings for steps in num_steps]
        cells += [cell for cell in grid if cell.total_steps < num_timestep]
        if any(cell.total_steps == num_timestep for cell in grid):
            cells.append(Cell(sampler, "uniform", num_timestep, seed))
        cells.append(reference_of(sampler, num_timestep, seed))
    return list(dict.fromkeys(cells))


class Judge:
    """KID of cells against one set of real images, all on the same resamples, so that differences are paired."""

    def __init__(self, real: np.ndarray, groups: Sequence[str], num_samples: int):
        """real: features float32 [M, D]; groups: what is resampled together, one for each of them."""
        self._real = real
        self._of_real = Resampling.draw(groups, NUM_RESAMPLES, numpy_generator("kid bootstrap", "real"))
        self._of_seeds, self._of_other_seeds = (
            Resampling.draw(range(num_samples), NUM_RESAMPLES, numpy_generator("kid bootstrap", "seeds", i))
            for i in range(2)
        )

    def margin(self, one: np.ndarray, other: np.ndarray) -> dict[str, Any]:
        """What the seed alone can do, from the features of two cells of different seeds.

        {"margin": the LEVEL quantile of |KID(one) - KID(other)| over resamples in which the seeds of the two are
        drawn independently, "kid": the two KIDs}.
        """
        resampled = kid_resampled(one, self._real, self._of_seeds, self._of_real)
        resampled -= kid_resampled(other, self._real, self._of_other_seeds, self._of_real)
        return {
            "margin": float(np.quantile(np.abs(resampled), LEVEL)),
            "kid": [kid(one, self._real), kid(other, self._real)],
        }

    def compare(self, cell: np.ndarray, reference: np.ndarray, margin: float) -> dict[str, Any]:
        """KID of a cell and its paired difference to its reference, from the features of both [N, D].

        Intervals are two-sided at LEVEL; the upper bound is one-sided. Equivalent: the bound is under the margin.
        """
        resampled = kid_resampled(cell, self._real, self._of_seeds, self._of_real)
        differences = resampled - kid_resampled(reference, self._real, self._of_seeds, self._of_real)
        upper = float(np.quantile(differences, LEVEL))
        own = kid(cell, self._real)
        return {
            "kid": own,
            "kid_interval": interval(resampled, LEVEL),
            "difference": own - kid(reference, self._real),
            "difference_interval": interval(differences, LEVEL),
            "upper_bound": upper,
            "equivalent": upper < margin,
        }


def markdown_table(rows: Sequence[dict[str, Any]]) -> str:
    """The rows of table.json as Markdown; KID in thousandths."""
    head = ["sampler", "spacing", "steps", "KID x 1000", "difference to all steps", "upper bound", "as good", "s/image"]
    lines = [head, ["---"] * 3 + ["---:"] * 3 + ["---", "---:"]]
    for row in rows:
        compared = ["", "", "reference"]
        if row["name"] != row["reference"]:
            difference = _with_interval(row["difference"], row["difference_interval"], "+")
            compared = [difference, f"{1000 * row['upper_bound']:+.1f}", "yes" if row["equivalent"] else "no"]
        lines.append(
            [row["sampler"], row["spacing"], row["num_steps"], _with_interval(row["kid"], row["kid_interval"])]
            + compared
            + [format_seconds(row["seconds_per_image"])]
        )
    return "\n".join("| " + " | ".join(line) + " |" for line in lines) + "\n"


def row_label(row: dict[str, Any]) -> list[str]:
    """What the contact sheet says of a row of table.json."""
    lines = [row["sampler"], f"{row['num_steps']} steps, {row['spacing']}", f"KID x 1000: {1000 * row['kid']:.1f}"]
    if row["name"] == row["reference"]:
        lines.append("reference")
    else:
        lines.append(f"difference {1000 * row['difference']:+.1f}, at most {1000 * row['upper_bound']:+.1f}")
        lines.append("as good" if row["equivalent"] else "not shown to be as good")
    return lines + [f"{format_seconds(row['seconds_per_image'])} s/image"]


def format_seconds(seconds: float | None) -> str:
    return "?" if seconds is None else f"{seconds:.3g}"


def _with_interval(value: float, bounds: Sequence[float], sign: str = "") -> str:
    """Thousandths: value [low, high]."""
    low, high = bounds
    return f"{1000 * value:{sign}.1f} [{1000 * low:{sign}.1f}, {1000 * high:{sign}.1f}]"
