"""The top of the report, which a manager reads, and its end, where everything stands by which the figures were made."""

from __future__ import annotations

import shlex
from collections.abc import Collection, Mapping
from typing import Any

from . import report_html as h
from .report_data import Contents
from .report_html import dig

TILE_TYPES = 6  # names that a tile has room for


def header(contents: Contents, sections: Collection[str]) -> str:
    """Verdict, key figures, notes and links to the sections that there are."""
    lift = contents.results.get("lift")
    sentence = dig(lift, "verdict", "sentence")
    if sentence:
        verdict = f"<h1>{h.escape(sentence)}</h1>"
    else:
        samples = shlex.quote(contents.folder)
        command = f"python scripts/evaluate.py lift --train TRAIN --val HELD_OUT --samples {samples}"
        verdict = (
            "<h1>Whether these images help a segmenter was not measured.</h1>"
            f"<p>This command does it: <code>{h.escape(command)}</code></p>"
        )
    tiles = "".join(
        f'<div><dt>{h.escape(title)}</dt><dd><span class="figure">{figure}</span> '
        f'<span class="note">{h.escape(remark)}</span></dd></div>'
        for title, figure, remark in _tiles(contents)
    )
    links = "".join(
        f'<li><a href="#{name}">{h.escape(title)}</a></li>' for name, title in h.TITLES.items() if name in sections
    )
    count = f"{len(contents.rows):,} generated samples"
    return (
        f'<header><p class="kicker">{count} in {h.escape(contents.folder)}</p>{verdict}'
        f'<dl class="tiles">{tiles}</dl>{h.notes(_notes(contents))}</header>'
        f'<nav aria-label="Sections"><ul>{links}</ul></nav>'
    )


def _tiles(contents: Contents) -> list[tuple[str, str, str]]:
    """Title, figure as HTML and a remark of each key figure."""
    quality = contents.results.get("quality", {})
    rows = contents.rows
    tiles = []
    verdict = dig(contents.results.get("lift"), "verdict") or {}
    if dig(verdict, "difference", "value") is not None:
        remark = f"95%: {h.interval_text(verdict['difference']['interval'], 1)}"
        if dig(verdict, "copy_paste", "value") is not None:
            remark += f"; over copy-paste: {h.number(verdict['copy_paste']['value'], 1, sign=True)}"
            remark += f" ({h.interval_text(verdict['copy_paste']['interval'], 1)})"
        tiles.append(("Lift, points of mIoU", h.number(verdict["difference"]["value"], 1, sign=True), remark))
    copies = sum(bool(dig(row, "nearest_train", "copy")) for row in rows)
    if any(row["nearest_train"] for row in rows):
        share = dig(quality, "memorization", "copies") or {"value": copies / len(rows)}
        bounds = h.interval_text(share.get("interval"), 1, 100)
        remark = f"{copies} of {len(rows)} samples" + (f"; 95%: {bounds}%" if bounds else "")
        tiles.append(("Near-copies of training images", f"{h.number(share['value'], 1, 100)}%", remark))
    empty = sum(row["empty"] for row in rows)
    real = dig(quality, "labels", "empty", "real", "value")
    remark = f"{empty} of {len(rows)} samples"
    remark += f"; real images: {h.number(real, 1, 100)}%" if real is not None else ""
    tiles.append(("Empty masks", f"{h.number(empty / len(rows), 1, 100)}%", remark))
    missing = [name for name in contents.class_names if not any(name in row["types"] for row in rows)]
    covered = len(contents.class_names) - len(missing)
    shown = ", ".join(missing[:TILE_TYPES]) + (", …" if len(missing) > TILE_TYPES else "")
    remark = f"missing: {shown}" if missing else "every trained type occurs"
    tiles.append(("Types covered", f"{covered} of {len(contents.class_names)}", remark))
    kid = dig(quality, "overall", "kid")
    if kid:
        remark = f"95%: {h.interval_text(kid.get('interval'), 1, 1000)}" if kid.get("interval") else "no interval"
        among = dig(quality, "reference", "real", "overall", "kid")
        if among:
            remark += f"; real against real: {h.number(among['value'], 1, 1000)}"
            remark += f" ({h.interval_text(among.get('interval'), 1, 1000)})" if among.get("interval") else ""
        tiles.append(("KID × 1000, lower is better", h.number(kid["value"], 1, 1000), remark))
    agreement = dig(quality, "agreement", "mean")
    if agreement:
        remark = f"mean IoU; 95%: {h.interval_text(agreement.get('interval'))}"
        on_real = dig(quality, "agreement", "reference", "mean", "value")
        remark += f"; real images: {h.number(on_real)}" if on_real is not None else ""
        tiles.append(("Masks agree with a segmenter", h.number(agreement["value"]), remark))
    return tiles


def _notes(contents: Contents) -> list[str]:
    """What was not measured, and what holds for the verdict."""
    lines = list(contents.notes)
    if "quality" not in contents.results:
        lines.append(
            "Fidelity, copies and agreement were not measured: python scripts/evaluate.py quality --real HELD_OUT "
            f"--train TRAIN --samples {shlex.quote(contents.folder)}"
        )
    return [*lines, *(dig(contents.results.get("lift"), "notes") or [])]


def provenance_section(contents: Contents) -> str:
    """Settings, counts and hashes of every command, to be unfolded."""
    parts = []
    for name, result in contents.results.items():
        recorded: dict[str, Any] = {key: result[key] for key in ("settings", "counts", "provenance") if key in result}
        if any(isinstance(value, Mapping) for value in recorded.values()):
            parts.append(f"<details><summary>evaluate.py {name}</summary>{h.definitions(recorded)}</details>")
    if not parts:
        return ""
    return h.section("provenance", *parts)
