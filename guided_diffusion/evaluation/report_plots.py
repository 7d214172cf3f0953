"""Plots of the report as inline SVG that follow the page's width and colours: places in per cent, text not scaled.

Their styles are in report_assets/report.css.
"""

from __future__ import annotations

import html
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

PLOT_WIDTH = 900  # pixels, about, by which trade_off keeps labels apart
ROW_HEIGHT = 46  # pixels, of a table row with a figure and its interval: so lines go through from row to row


@dataclass(frozen=True)
class Axis:
    """A range of values and the places of its ticks; `log`: in doublings."""

    low: float
    high: float
    ticks: tuple[float, ...]
    log: bool = False

    @classmethod
    def of(cls, values: Sequence[float], *, include: Sequence[float] = (), log: bool = False) -> Axis:
        """An axis with about five round ticks around `values`; those in `include` are on it too."""
        values = [*values, *include]
        if log:
            powers = range(math.floor(math.log10(min(values))), math.ceil(math.log10(max(values))) + 1)
            powers = range(powers[0], max(powers[-1], powers[0] + 1) + 1)
            return cls(10.0 ** powers[0], 10.0 ** powers[-1], tuple(10.0**power for power in powers), True)
        low, high = min(values), max(values)
        span = high - low or abs(high) or 1.0
        rough = span / 4
        unit = 10.0 ** math.floor(math.log10(rough))
        step = next(factor * unit for factor in (1, 2, 2.5, 5, 10) if factor * unit >= rough * 0.999)
        first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
        last = max(last, first + 1)
        return cls(first * step, last * step, tuple(k * step for k in range(first, last + 1)))

    def place(self, value: float) -> float:
        """Where `value` lies between the ends: 0..1, held there."""
        if self.log:
            value, low, high = (math.log(max(x, 1e-300)) for x in (value, self.low, self.high))
        else:
            low, high = self.low, self.high
        return min(1.0, max(0.0, (value - low) / (high - low)))


@dataclass(frozen=True)
class Mark:
    """A value with its interval on a plot; kind: a CSS class, "" or "reference"."""

    value: float
    interval: Sequence[float] | None = None
    kind: str = ""


def interval_row(marks: Sequence[Mark], axis: Axis, *, zero: float | None = None) -> str:
    """Values with their intervals in one row of a table, one below the other; a line at `zero`."""
    height = ROW_HEIGHT
    parts = [_line(axis.place(tick), axis.place(tick), 0, height, "grid") for tick in axis.ticks]
    if zero is not None:
        parts.append(_line(axis.place(zero), axis.place(zero), 0, height, "zero"))
    for k, mark in enumerate(marks):
        y = height / 2 + 14 * (k - (len(marks) - 1) / 2)
        inner = ""
        if mark.interval:
            inner = _line(axis.place(mark.interval[0]), axis.place(mark.interval[1]), y, y, "whisker")
        inner += f'<circle class="dot" cx="{_x(axis.place(mark.value))}" cy="{y}" r="4"/>'
        parts.append(f'<g class="{mark.kind}">{inner}</g>')
    return f'<svg aria-hidden="true" height="{height}">{"".join(parts)}</svg>'


def axis_row(axis: Axis, show: Callable[[float], str]) -> str:
    """The ticks' labels, to stand above or below the rows of interval_row."""
    labels = "".join(
        f'<text x="{_x(axis.place(tick))}" y="12" text-anchor="middle">{html.escape(show(tick))}</text>'
        for tick in axis.ticks
    )
    return f'<svg aria-hidden="true" height="16">{labels}</svg>'


@dataclass(frozen=True)
class Point:
    """A labelled point of trade_off with its intervals; `chosen` is set off."""

    x: float
    y: float
    x_interval: Sequence[float] | None
    y_interval: Sequence[float] | None
    label: str
    chosen: bool = False


def trade_off(points: Sequence[Point], x_title: str, y_title: str, show: tuple[Callable, Callable]) -> str:
    """Two measures against each other, a point for each setting, with a line through them in their order."""
    x_axis = Axis.of([value for point in points for value in (point.x, *(point.x_interval or ()))])
    y_axis = Axis.of([value for point in points for value in (point.y, *(point.y_interval or ()))])
    top, bottom = 24, 276

    def across(value: float) -> float:
        return 0.07 + 0.91 * x_axis.place(value)

    def down(value: float) -> float:
        return bottom - (bottom - top) * y_axis.place(value)

    parts = [f'<text x="0" y="12">{html.escape(y_title)}</text>']
    parts.append(f'<text x="98%" y="{bottom + 34}" text-anchor="end">{html.escape(x_title)}</text>')
    for tick in x_axis.ticks:
        parts.append(_line(across(tick), across(tick), top, bottom, "grid"))
        parts.append(f'<text x="{_x(across(tick))}" y="{bottom + 16}" text-anchor="middle">{show[0](tick)}</text>')
    for tick in y_axis.ticks:
        parts.append(_line(0.07, 0.98, down(tick), down(tick), "grid"))
        parts.append(f'<text x="6%" y="{down(tick) + 4:.1f}" text-anchor="end">{show[1](tick)}</text>')
    for one, other in zip(points, points[1:], strict=False):
        parts.append(_line(across(one.x), across(other.x), down(one.y), down(other.y), "zero"))
    labels = []
    dots = [(across(point.x), down(point.y)) for point in points]
    taken = [(x - 6 / PLOT_WIDTH, x + 6 / PLOT_WIDTH, y - 6, y + 6) for x, y in dots]
    for point in points:
        x, y = across(point.x), down(point.y)
        inner = ""
        if point.x_interval:
            inner += _line(*map(across, point.x_interval), y, y, "whisker thin")
        if point.y_interval:
            inner += _line(x, x, *map(down, point.y_interval), "whisker thin")
        inner += f'<circle class="dot" cx="{_x(x)}" cy="{y:.1f}" r="{7 if point.chosen else 4.5}"/>'
        parts.append(f'<g class="{"chosen" if point.chosen else ""}">{inner}</g>')
        anchor, shift, below = _label_place(x, y, len(point.label), taken)
        labels.append(
            f'<text class="label" x="{_x(x)}" dx="{shift}" y="{y + below:.1f}" text-anchor="{anchor}">'
            f"{html.escape(point.label)}</text>"
        )
    title = html.escape(f"{y_title} against {x_title}: " + "; ".join(point.label for point in points))
    return f'<svg role="img" aria-label="{title}" height="{bottom + 44}">{"".join(parts + labels)}</svg>'


def _label_place(
    x: float, y: float, letters: int, taken: list[tuple[float, float, float, float]]
) -> tuple[str, int, int]:
    """Anchor, shift and drop in pixels of a label beside (x, y) where it hits fewest boxes; adds its own to `taken`.

    A box is left, right (as shares of the width), top, bottom (in pixels).
    """
    width = 6.5 * letters / PLOT_WIDTH
    places = []
    for anchor, shift in (("start", 10), ("end", -10)):
        for below in (-8, 16):
            left = x + shift / PLOT_WIDTH - (width if anchor == "end" else 0)
            box = (left, left + width, y + below - 11, y + below + 3)
            hit = sum(box[0] < o[1] and o[0] < box[1] and box[2] < o[3] and o[2] < box[3] for o in taken)
            outside = box[1] > 1 or box[0] < 0.05
            places.append((10 * outside + hit, len(places), anchor, shift, below, box))
    *_, anchor, shift, below, box = min(places)
    taken.append(box)
    return anchor, shift, below


def _line(x1: float, x2: float, y1: float, y2: float, kind: str) -> str:
    return f'<line class="{kind}" x1="{_x(x1)}" x2="{_x(x2)}" y1="{y1:.1f}" y2="{y2:.1f}"/>'


def _x(place: float) -> str:
    return f"{100 * place:.2f}%"
