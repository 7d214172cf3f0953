"""Two figures held against each other, and what they have to reach.

A figure is {"value", "interval": [low, high] or None}. The interval of a difference is put together from those of its
two sides, which are taken for independent (Zou and Donner 2008; of two shares that is Newcombe's of 1998).
"""

from __future__ import annotations

import math
from typing import Any

Figure = dict[str, Any]


def difference(a: Figure, b: Figure) -> Figure:
    """a - b; without an interval where one of them has none."""
    value = a["value"] - b["value"]
    if a["interval"] is None or b["interval"] is None:
        return {"value": value, "interval": None}
    (low_a, high_a), (low_b, high_b) = a["interval"], b["interval"]
    below = math.hypot(a["value"] - low_a, high_b - b["value"])
    above = math.hypot(high_a - a["value"], b["value"] - low_b)
    return {"value": value, "interval": [value - below, value + above]}


def ratio(a: Figure, b: Figure) -> Figure:
    """a / b of figures above 0, by the difference of their logarithms."""
    return _each(difference(_each(a, math.log), _each(b, math.log)), math.exp)


def _each(figure: Figure, function: Any) -> Figure:
    return {
        "value": function(figure["value"]),
        "interval": figure["interval"] and [function(bound) for bound in figure["interval"]],
    }


def verdict(figure: Figure, *, least: float = -math.inf, most: float = math.inf) -> str:
    """Whether a figure lies within its bounds: "yes" or "no" where all of its interval does or does not, else the same
    of the value alone with "not shown".
    """
    low, high = figure["interval"] or (-math.inf, math.inf)
    if low >= least and high <= most:
        return "yes"
    if high < least or low > most:
        return "no"
    return f"{'yes' if least <= figure['value'] <= most else 'no'}, not shown"
