"""Small pieces of HTML: escaped text, figures with their intervals, tables."""

from __future__ import annotations

import html
import math
from collections.abc import Mapping, Sequence
from typing import Any

Value = Mapping[str, Any] | None  # {"value": v, "interval": [lo, hi] or None}

# The sections in their order, as #name of the page.
TITLES = {
    "lift": "Worth to a segmenter",
    "fidelity": "Likeness to real images",
    "labels": "Masks",
    "copies": "Copies of training images",
    "sweep": "Settings compared",
    "gallery": "Gallery",
    "provenance": "How it was measured",
}

escape = html.escape


def dig(value: Any, *keys: str) -> Any:
    """value[key][key]..., or None where one of them is missing."""
    for key in keys:
        value = value.get(key) if isinstance(value, Mapping) else None
    return value


def number(value: float | None, digits: int = 2, scale: float = 1.0, *, sign: bool = False) -> str:
    """`value` times `scale`; a dash where there is none. sign: with a plus where it is above 0."""
    if value is None or not math.isfinite(value):
        return "–"
    text = f"{value * scale:{'+' if sign else ''},.{digits}f}"
    return text.replace("-", "−") if float(text.replace(",", "")) else text.lstrip("+-")


def interval_text(interval: Sequence[float] | None, digits: int = 2, scale: float = 1.0) -> str:
    """ "0.1 to 0.3"; "" where there is none."""
    return " to ".join(number(bound, digits, scale) for bound in interval) if interval else ""


def figure(value: Value, digits: int = 2, scale: float = 1.0, none: str = "too few", *, sign: bool = False) -> str:
    """A figure with its interval below, or `none`; sign: with a plus where it is above 0."""
    if value is None or value.get("value") is None:
        return f'<span class="note">{escape(none)}</span>'
    bounds = interval_text(value.get("interval"), digits, scale)
    shown = f'<span class="interval">{bounds}</span>' if bounds else ""
    return f"{number(value['value'], digits, scale, sign=sign)}{shown}"


def percent(value: Value, digits: int = 1, none: str = "too few") -> str:
    """A share as per cent, with its interval below."""
    return figure(value, digits, 100.0, none)


def table(
    head: Sequence[str],
    rows: Sequence[Sequence[str]],
    *,
    strong: Sequence[bool] = (),
    plot: int = -1,
    spans: Sequence[tuple[str, int]] = (),
) -> str:
    """A table of HTML cells, the first of each row its heading.

    strong: which rows to set off. plot: the column that holds plots. spans: titles above so many columns each, from the
    second on.
    """

    def cell(tag: str, k: int, content: str, scope: str = "") -> str:
        kind = ' class="plot"' if k == plot else ""
        return f"<{tag}{scope}{kind}>{content}</{tag}>"

    first = "".join(cell("th", k, content, ' scope="col"') for k, content in enumerate(head))
    lines = []
    for k, (heading, *rest) in enumerate(rows):
        kind = ' class="strong"' if k < len(strong) and strong[k] else ""
        cells = "".join(cell("td", place, content) for place, content in enumerate(rest, start=1))
        lines.append(f'<tr{kind}><th scope="row">{heading}</th>{cells}</tr>')
    above = "".join(f'<th scope="colgroup" colspan="{count}">{title}</th>' for title, count in spans)
    above = f'<tr class="spans"><td></td>{above}</tr>' if above else ""
    body = "".join(lines)
    return f'<div class="scroll"><table><thead>{above}<tr>{first}</tr></thead><tbody>{body}</tbody></table></div>'


def section(name: str, *parts: str) -> str:
    """A section of the page, one of TITLES."""
    return (
        f'<section id="{name}" aria-labelledby="{name}-title"><h2 id="{name}-title">{TITLES[name]}</h2>'
        f"{''.join(parts)}</section>"
    )


def note(text: str) -> str:
    return f'<p class="note">{escape(text)}</p>'


def notes(lines: Sequence[str]) -> str:
    """A list of plain sentences."""
    items = "".join(f"<li>{escape(str(line))}</li>" for line in lines)
    return f'<ul class="notes">{items}</ul>' if items else ""


def definitions(pairs: Mapping[str, Any]) -> str:
    """A table of settings, nested ones with dotted names."""
    rows = [[escape(key), f"<code>{escape(value)}</code>"] for key, value in _flat(pairs, "")]
    return table(["", ""], rows) if rows else ""


def _flat(pairs: Mapping[str, Any], prefix: str) -> list[tuple[str, str]]:
    lines = []
    for key, value in pairs.items():
        if isinstance(value, Mapping):
            lines += _flat(value, f"{prefix}{key}.")
        elif isinstance(value, list):
            lines.append((f"{prefix}{key}", ", ".join(map(str, value))))
        elif value is not None:
            lines.append((f"{prefix}{key}", str(value)))
    return lines
