"""What a sweep measures at its points, and the rule by which it recommends one of them.

All points hold the same seeds and are resampled together, so that the difference of two is a paired one. A point is
*shown to be worse* than another in a measure if the 95% bootstrap interval of that difference leaves out 0.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from .bootstrap import interval, with_interval


@dataclass(frozen=True)
class Measure:
    """How a measure is called, shown (value * scale in `unit`, with so many digits) and judged."""

    key: str
    name: str
    better: str  # "lower" or "higher"
    scale: float = 1.0
    unit: str = ""
    digits: int = 2

    def to_json(self) -> dict[str, Any]:
        """As results hold it."""
        return {**asdict(self), "title": f"{self.name} {self.unit}".strip()}


MEASURES = (
    Measure("kid", "KID", "lower", 1000, "x 1000", 1),
    Measure("fid", "FID", "lower", digits=1),
    Measure("precision", "precision", "higher"),
    Measure("density", "density", "higher"),
    Measure("coverage", "coverage", "higher"),
    Measure("recall", "recall", "higher"),
    Measure("diversity", "diversity", "higher", digits=3),
    Measure("copies", "near-copies", "lower", 100, "%", 1),
    Measure("agreement", "agreement", "higher"),
    Measure("empty", "empty masks", "lower", 100, "%", 1),
    Measure("types", "types covered", "higher", digits=0),
    Measure("lift", "lift", "higher", 1, "mIoU points", 1),
    Measure("held_out_loss", "held-out loss", "lower", 1000, "x 1000", 2),
)


@dataclass(frozen=True)
class Estimate:
    """A value (None: not defined here) and what it is in every resample, float64 [R].

    interval: the one to show, where it is not that of the resamples.
    """

    value: float | None
    resampled: np.ndarray | None = None
    interval: list[float] | None = None

    def to_json(self) -> dict[str, Any]:
        """As results hold it."""
        bounds = self.interval
        if bounds is None and self.resampled is not None:
            bounds = list(interval(self.resampled))
        return {"value": self.value, "interval": bounds}


@dataclass
class Point:
    """One point of a sweep: `at` is its place on the axis; `beaten` is filled in by `recommend`."""

    name: str
    at: int
    label: str
    estimates: dict[str, Estimate]
    beaten: dict[str, dict[str, Any]] = field(default_factory=dict)

    def badness(self, measure: Measure) -> float:
        """The value, turned so that lower is better; infinite where it is not defined."""
        estimate = self.estimates.get(measure.key, Estimate(None))
        if estimate.value is None:
            return np.inf
        return estimate.value if measure.better == "lower" else -estimate.value


@dataclass(frozen=True)
class Rule:
    """stages: in each, what is shown to be worse than the best of those still there is dropped.

    Then the default is taken if it is left (None: there is none); else the measures in `ties` decide, one after
    another, by their values alone. text: all this for a person.
    """

    text: str
    stages: tuple[str, ...]
    ties: tuple[str, ...]
    default: int | None = None


DEFAULT_STEP = 400  # of inference.py
STEP_RULE = Rule(
    "First in KID, then in agreement, then in near-copies, drop the steps that are shown to be worse than the best of "
    "those still there: the 95% interval of the paired difference leaves out 0. If the default step, "
    f"{DEFAULT_STEP}, is left, it is kept; else the step with the fewest near-copies is recommended, then the one with "
    "the greatest diversity. What was not measured is passed over.",
    stages=("kid", "agreement", "copies"),
    ties=("copies", "diversity"),
    default=DEFAULT_STEP,
)
CHECKPOINT_RULE = Rule(
    "First in KID, then in agreement, then in near-copies, drop the checkpoints that are shown to be worse than the "
    "best of those still there: the 95% interval of the paired difference leaves out 0. Of those left the one with the "
    "lowest held-out loss is recommended. What was not measured is passed over.",
    stages=("kid", "agreement", "copies"),
    ties=("held_out_loss",),
)


@dataclass(frozen=True)
class Recommendation:
    """point: the one recommended. separated: whether any point was shown to be worse than another."""

    point: Point
    separated: bool
    sentence: str


def difference(point: Point, best: Point, measure: Measure) -> tuple[dict[str, Any], bool]:
    """{"value", "interval"} of point - best in a measure, and whether the point is shown to be worse."""
    ours, theirs = point.estimates[measure.key], best.estimates[measure.key]
    paired = ours.resampled - theirs.resampled
    low, high = interval(paired)
    return with_interval(ours.value - theirs.value, paired), low > 0 if measure.better == "lower" else high < 0


def recommend(points: Sequence[Point], rule: Rule) -> Recommendation:
    """Apply a rule to the points of a sweep; notes in `beaten` where one is dropped."""
    measures = {measure.key: measure for measure in MEASURES}
    left = list(points)
    for key in rule.stages:
        left = _stage(left, measures[key])
    kept = [point for point in left if point.at == rule.default]
    ranked = kept or sorted(left, key=lambda point: [point.badness(measures[key]) for key in rule.ties])
    sentence = _sentence(points, left, ranked[0], rule, kept=bool(kept))
    return Recommendation(ranked[0], len(left) < len(points), sentence)


def _stage(points: list[Point], measure: Measure) -> list[Point]:
    """Those not shown to be worse than the best in a measure; all where none has it with resamples."""
    known = [p for p in points if p.estimates.get(measure.key, Estimate(None)).resampled is not None]
    if not known:
        return points
    best = min(known, key=lambda point: point.badness(measure))
    for point in points:
        if point.estimates[measure.key].value is None:  # such as agreement where all masks are empty
            point.beaten[measure.key] = {"by": best.name, "difference": None}
            continue
        gap, worse = difference(point, best, measure)
        if worse:
            point.beaten[measure.key] = {"by": best.name, "difference": gap}
    return [point for point in points if not point.beaten]


def _sentence(points: Sequence[Point], left: Sequence[Point], chosen: Point, rule: Rule, kept: bool) -> str:
    names = {measure.key: measure.name for measure in MEASURES if measure.key in points[0].estimates}
    others = ", ".join(point.label for point in left if point is not chosen)
    if kept:
        told = f"{chosen.label}, the default, is kept"
    elif not others:
        told = f"{chosen.label} is recommended, the only one not shown to be worse than another"
    else:
        keys = [key for key in rule.ties if key in names and len({p.estimates[key].value for p in left}) > 1]
        told = f"{chosen.label} is recommended, " + (
            f"the best of those left in {names[keys[0]]}" if keys else "the first"
        )
    if len(left) == len(points):
        return (
            f"Nothing separates these points in {', '.join(names[key] for key in rule.stages if key in names)}. {told}."
        )
    dropped = "; ".join(
        f"{', '.join(point.label for point in points if key in point.beaten)} in {names[key]}"
        for key in rule.stages
        if any(key in point.beaten for point in points)
    )
    return f"{told}. Shown to be worse: {dropped}." + (f" Not told apart: {others}." if others else "")
