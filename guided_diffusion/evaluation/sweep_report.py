"""What a person reads of a sweep: the table, the plot and the sheet, all from what sweep.json holds."""

from __future__ import annotations

import io
import math
import textwrap
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from .row_sheet import Row, draw_row_sheet

if TYPE_CHECKING:
    from matplotlib.axes import Axes

SHEET_SEEDS = 10  # columns of the sheet
COLUMNS = 4  # of the small plots
CHARACTER = 8, 16  # pixels, of labels
_INK, _LINE, _MARK, _GREY = "#222222", "#3b6ea5", "#d1495b", "#999999"
# Measures whose axes begin at 0, and how far they reach at least.
FROM_ZERO = {"precision": 0.1, "density": 0.1, "coverage": 0.1, "recall": 0.1, "copies": 5, "empty": 5, "types": 1}
TITLES = {"steps": "Switch step", "checkpoints": "Checkpoints of one training"}

Images = Mapping[str, tuple[np.ndarray, np.ndarray]]  # by the point's name: images [N, H, W, 3], index masks [N, H, W]


def markdown(result: Mapping[str, Any]) -> str:
    """The whole of sweep.md: recommendation, rule, table, notes."""
    measures, points = result["measures"], result["points"]
    head = [result["axis"], *map(_title, measures)]
    lines = [head, ["---", *["---:"] * len(measures)]]
    for point in points:
        chosen = point["name"] == result["recommendation"]["name"]
        label = f"**{point['label']}**" if chosen else point["label"]
        cells = [_cell(point["values"][m["key"]], m) + _fate(point, m, chosen) for m in measures]
        lines.append([label, *cells])
    table = "\n".join("| " + " | ".join(line) + " |" for line in lines)
    notes = "".join(f"- {note}\n" for note in result["notes"])
    return (
        f"# {TITLES[result['kind']]}\n\n{result['recommendation']['sentence']}\n\n{table}\n\n"
        "In brackets the 95% interval; (-) lower is better, (+) higher. x: dropped for this, as shown to be worse.\n\n"
        f"Rule: {result['recommendation']['rule']}\n\n{notes}"
    )


def _title(measure: Mapping[str, Any]) -> str:
    return f"{measure['title']} ({'-' if measure['better'] == 'lower' else '+'})"


def _cell(value: Mapping[str, Any], measure: Mapping[str, Any]) -> str:
    """Scaled, with its interval: 12.3 [10.1, 14.0]; "-" where it is not defined."""

    def text(number: float) -> str:
        return f"{number * measure['scale']:.{measure['digits']}f}"

    if value["value"] is None:
        return "-"
    if value["interval"] is None:
        return text(value["value"])
    low, high = map(text, value["interval"])
    return f"{text(value['value'])} [{low}, {high}]"


def _fate(point: Mapping[str, Any], measure: Mapping[str, Any], chosen: bool) -> str:
    return " x" if measure["key"] in point["beaten"] and not chosen else ""


def draw_plot(result: Mapping[str, Any]) -> bytes:
    """PNG: fidelity against diversity on the left, each measure along the axis on the right; the chosen one marked."""
    from matplotlib.figure import Figure  # no pyplot: no global state, no display

    measures = result["measures"]
    rows = math.ceil(len(measures) / COLUMNS)
    figure = Figure(figsize=(18, max(6.0, 2.7 * rows + 1)), dpi=100, layout="constrained")
    left, right = figure.subfigures(1, 2, width_ratios=(1, 2))
    _draw_trade_off(left.subplots(), result)
    panels = right.subplots(rows, COLUMNS, squeeze=False).ravel()
    for axes, measure in zip(panels, measures, strict=False):
        _draw_measure(axes, result, measure)
    for axes in panels[len(measures) :]:
        axes.axis("off")
    sentence = textwrap.fill(result["recommendation"]["sentence"], 170)
    how = "(-) lower is better, (+) higher; bold: what the rule looks at; x: dropped for this; dotted: real images"
    figure.suptitle(f"{TITLES[result['kind']]}: {sentence}\n{how}", fontsize=12, x=0.01, ha="left")
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    return buffer.getvalue()


def _draw_trade_off(axes: Axes, result: Mapping[str, Any]) -> None:
    """KID (to the left is better) against the mean pairwise perceptual distance (upwards is more diverse)."""
    chosen = result["recommendation"]["name"]
    scale = next(m["scale"] for m in result["measures"] if m["key"] == "kid")
    points = result["points"]
    x, y = ([point["values"][key]["value"] for point in points] for key in ("kid", "diversity"))
    x = [value * scale for value in x]
    axes.plot(x, y, "-", color=_LINE, lw=1, alpha=0.5)
    for point, at_x, at_y in zip(points, x, y, strict=True):
        mark = point["name"] == chosen
        bars = {}
        for bar, key, factor, middle in (("xerr", "kid", scale, at_x), ("yerr", "diversity", 1, at_y)):
            bounds = point["values"][key]["interval"]
            if bounds:
                bars[bar] = [[max(0, middle - bounds[0] * factor)], [max(0, bounds[1] * factor - middle)]]
        colour = _MARK if mark else _GREY if point["beaten"] else _LINE
        axes.errorbar(at_x, at_y, **bars, fmt="none", ecolor=colour, elinewidth=0.8, alpha=0.4)
        axes.plot(at_x, at_y, "*" if mark else "o", ms=20 if mark else 7, color=colour, zorder=3)
    real = result["reference"].get("diversity")
    if real is not None:
        axes.axhline(real, color=_INK, ls=":", lw=1)
        axes.annotate("real images", (0.99, real), (0, 3), ("axes fraction", "data"), "offset points", ha="right")
    axes.set_xlabel("KID x 1000 to held-out real images (to the left: more faithful)")
    axes.set_ylabel("mean pairwise perceptual distance (upwards: more diverse)")
    axes.margins(x=0.2)
    _label(axes, points, np.stack([x, y], axis=1), chosen)
    axes.set_title("star: recommended; grey: shown to be worse; bars: 95% of each alone", fontsize=10, loc="left")
    _plain(axes)


def _label(axes: Axes, points: Sequence[Mapping[str, Any]], places: np.ndarray, chosen: str) -> None:
    """Labels beside points at `places` [N, 2], where they cover neither another point nor a label that is there."""
    axes.figure.figure.draw_without_rendering()  # or the limits of the axes are not known yet
    pixels = axes.transData.transform(places)
    boxes = [(x - 6, x + 6, y - 6, y + 6) for x, y in pixels]  # left, right, low, high
    for number, (point, (x, y)) in enumerate(zip(points, pixels, strict=True)):
        width = CHARACTER[0] * len(point["label"])
        tried = []
        for rise in (0, 1, -1, 2, -2, 3):
            for side in (1, -1):
                middle = y + rise * CHARACTER[1]
                left = x + 16 if side > 0 else x - 16 - width
                tried.append((side, (left, left + width, middle - CHARACTER[1] / 2, middle + CHARACTER[1] / 2)))
        others = boxes[:number] + boxes[number + 1 :]
        side, box = min(tried, key=lambda place: sum(_overlap(place[1], other) for other in others))
        boxes.append(box)
        axes.annotate(
            point["label"],
            places[number],
            (side * 12, ((box[2] + box[3]) / 2 - y) * 72 / axes.figure.dpi),
            textcoords="offset points",
            ha="left" if side > 0 else "right",
            va="center",
            color=_MARK if point["name"] == chosen else _INK,
            zorder=4,
        )


def _overlap(one: Sequence[float], other: Sequence[float]) -> float:
    """Area that two boxes share, each (left, right, low, high)."""
    width, height = (min(one[i + 1], other[i + 1]) - max(one[i], other[i]) for i in (0, 2))
    return max(0.0, width) * max(0.0, height)


def _draw_measure(axes: Axes, result: Mapping[str, Any], measure: Mapping[str, Any]) -> None:
    """One measure along the axis with its intervals; steps stand at equal distances, checkpoints at their steps."""
    points = result["points"]
    even = result["kind"] == "steps"
    places = [number if even else point["at"] for number, point in enumerate(points)]
    chosen = result["recommendation"]["name"]
    values = [point["values"][measure["key"]] for point in points]
    y = [math.nan if v["value"] is None else v["value"] * measure["scale"] for v in values]
    axes.plot(places, y, "-o", color=_LINE, ms=4, lw=1.4)
    for place, value in zip(places, values, strict=True):
        if value["interval"]:
            axes.vlines(place, *(bound * measure["scale"] for bound in value["interval"]), color=_LINE, lw=0.9)
    for place, at_y, point in zip(places, y, points, strict=True):
        if point["name"] == chosen:
            axes.axvline(place, color=_MARK, lw=6, alpha=0.2)
            axes.plot(place, at_y, "*", color=_MARK, ms=13)
        elif measure["key"] in point["beaten"]:
            axes.plot(place, at_y, "x", color=_INK, ms=10, mew=1.8)
    real = result["reference"].get(measure["key"])
    if real is not None:
        axes.axhline(real * measure["scale"], color=_INK, ls=":", lw=1)
    weight = "bold" if measure["key"] in result["recommendation"]["looks_at"] else "normal"
    axes.set_title(_title(measure), fontsize=10, loc="left", fontweight=weight)
    if measure["key"] in FROM_ZERO:
        axes.set_ylim(0, 1.05 * max(axes.get_ylim()[1], FROM_ZERO[measure["key"]]))
    if even:
        axes.set_xticks(places, [str(point["at"]) for point in points], fontsize=8)
    _plain(axes)


def _plain(axes: Axes) -> None:
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(alpha=0.25)


def draw_sheet(result: Mapping[str, Any], samples: Images) -> Image.Image:
    """The same seeds under each point, images over mask overlays, the recommended one said so."""
    shown = [m for m in result["measures"] if m["key"] in ("kid", "diversity", "copies", "agreement", "held_out_loss")]
    rows = []
    for point in result["points"]:
        fate = [f"dropped: {m['name']}" for m in result["measures"] if m["key"] in point["beaten"]]
        if point["name"] == result["recommendation"]["name"]:
            fate = ["recommended"]
        label = [point["label"], *fate]
        label += [f"{m['title']}: {_cell({**point['values'][m['key']], 'interval': None}, m)}" for m in shown]
        images, masks = samples[point["name"]]
        rows.append(Row(label, images[:SHEET_SEEDS], masks[:SHEET_SEEDS]))
    title = f"{TITLES[result['kind']]}: the same seeds at every point"
    return draw_row_sheet(title, textwrap.wrap(result["recommendation"]["sentence"], 170), result["class_names"], rows)
