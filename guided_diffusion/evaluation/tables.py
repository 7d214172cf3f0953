"""How figures and tables are written, for terminals and Markdown files, and drawn."""

import io
from collections.abc import Mapping, Sequence
from typing import Any

import blobfile as bf
import numpy as np
from matplotlib.figure import Figure  # no pyplot: no global state, no display
from PIL import Image

from ..file_io import encode_png, write_atomic, write_json, write_or_warn
from .bootstrap import Estimate


def number(ci: Estimate | None, factor: float = 1, digits: int = 2, sign: str = "") -> str:
    """An estimate as text: 1.2 [0.9, 1.6]; - where it or its value is None. sign: "+" or ""."""
    if ci is None or ci["value"] is None:
        return "-"
    shown = [f"{factor * value:{sign}.{digits}f}" for value in (ci["value"], *(ci["interval"] or ()))]
    return f"{shown[0]} [{shown[1]}, {shown[2]}]" if len(shown) > 1 else shown[0]


def table(head: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """A Markdown table, its columns aligned for a terminal: the first to the left, the others to the right."""
    widths = [max(len(str(cell)) for cell in column) for column in zip(head, *rows, strict=True)]
    line = "| " + " | ".join(f"{{!s:{'>' if k else '<'}{width}}}" for k, width in enumerate(widths)) + " |\n"
    rule = "|".join("-" * (width + 1) + (":" if k else "-") for k, width in enumerate(widths))
    return "".join([line.format(*head), f"|{rule}|\n", *(line.format(*row) for row in rows)])


def write_results(out: str, result: dict[str, Any], text: str, pictures: Mapping[str, Image.Image]) -> None:
    """Write pictures (or warn), <command>.md and, when all is there, <command>.json; print the text."""
    for file, picture in pictures.items():
        write_or_warn(bf.join(out, file), encode_png(np.asarray(picture)))
    write_atomic(bf.join(out, f"{result['command']}.md"), text.encode())
    write_json(bf.join(out, f"{result['command']}.json"), result)
    print(f"{text}\nlook at {' and '.join(bf.join(out, file) for file in pictures)}")


# Title, factor, estimate of each name or None, {style of matplotlib: place} of vertical lines.
Panel = tuple[str, float, Sequence[Estimate | None], dict[str, float]]


def plot_intervals(names: Sequence[str], panels: Sequence[Panel]) -> Image.Image:
    """A row for each name, the first, which is the reference, in red."""
    figure = Figure(figsize=(3 + 2.6 * len(panels), 1.5 + 0.3 * len(names)), dpi=100, layout="constrained")
    columns = figure.subplots(1, len(panels), sharey=True, squeeze=False)[0]
    for axes, (title, factor, found, lines) in zip(columns, panels, strict=True):
        for at, one in enumerate(found):
            if one and one["value"] is not None:
                colour = "#3b6ea5" if at else "#d1495b"
                axes.plot(factor * one["value"], at, "o", color=colour, ms=5)
                axes.plot([factor * bound for bound in one["interval"] or []], [at] * 2, color=colour, lw=1.5)
        for style, place in lines.items():
            axes.axvline(factor * place, color="#222222", ls=style, lw=1)
        axes.set_title(title, fontsize=10, loc="left")
        axes.grid(axis="x", alpha=0.25)
        axes.set_yticks(range(len(names)), names, fontsize=8)
        axes.set_ylim(len(names) - 0.5, -0.5)
    figure.savefig(buffer := io.BytesIO())
    return Image.open(buffer).convert("RGB")
