"""A picture of the samples that are most like a training image, each beside what it is like."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from ..pictures import fit_tile
from .copies import Match, window_of
from .image_sets import ImageSet

MOST_PAIRS = 24
COLUMNS = 4  # of pairs
_INK, _GREY, _PAPER, _COPY = (34, 34, 34), (120, 120, 120), (255, 255, 255), (200, 30, 30)


def draw_closest_pairs(
    samples: ImageSet, train: ImageSet, rows: Sequence[dict[str, Any]], threshold: float
) -> Image.Image:
    """The MOST_PAIRS samples with the least distance, near-copies framed in red, beside the training images' windows.

    train: whole images, as for score_samples, whose rows these are, in the order of the samples. The windows are cut
    and flipped as the samples show them. Lengths are in units of a 128 px tile.
    """
    order = sorted(range(len(rows)), key=lambda i: rows[i]["nearest_train"]["distance"])[:MOST_PAIRS]
    tiles = [fit_tile(samples.images[i]) for i in order]
    width, height = tiles[0].size
    unit = max(width, height) / 128
    margin, gap, line = round(20 * unit), round(3 * unit), round(18 * unit)
    step = (2 * width + gap + round(22 * unit), height + 2 * line + round(14 * unit))
    font, large = ImageFont.load_default(12 * unit), ImageFont.load_default(20 * unit)
    columns = min(COLUMNS, len(order))
    title = f"The {len(order)} of {len(rows):,} samples nearest to a training image"
    copies = sum(row["nearest_train"]["copy"] for row in rows)
    notes = (
        "left the sample, right the training image's window, flipped as matched",
        f"distance under {threshold:.3f}: near-copy, framed in red ({copies:,} of all)",
    )
    inner = max(columns * step[0], large.getlength(title), *(font.getlength(note) for note in notes))
    top = margin + round(1.6 * line) + len(notes) * line + line // 2
    size = round(inner) + 2 * margin, top + math.ceil(len(order) / columns) * step[1] + margin // 2
    sheet = Image.new("RGB", size, _PAPER)
    draw = ImageDraw.Draw(sheet)
    draw.text((margin, margin - line // 4), title, _INK, large)
    for k, note in enumerate(notes):
        draw.text((margin, margin + round(1.6 * line) + k * line), note, _GREY, font)

    places = {name: m for m, name in enumerate(train.names)}
    for number, (i, tile) in enumerate(zip(order, tiles, strict=True)):
        near = rows[i]["nearest_train"]
        m = places[near["name"]]
        match = Match(m, near["flip"], near["top"], near["left"], near["distance"])
        window = np.ascontiguousarray(window_of(train.images[m], match, samples.images.shape[1:3]))
        x, y = margin + number % columns * step[0], top + number // columns * step[1]
        if near["copy"]:
            frame = (x - gap, y - gap, x + 2 * width + 2 * gap - 1, y + height + gap - 1)
            draw.rectangle(frame, _COPY)
        sheet.paste(tile, (x, y))
        sheet.paste(fit_tile(window), (x + width + gap, y))
        verdict = f"{near['distance']:.3f}" + (" near-copy" if near["copy"] else "")
        flip = "" if near["flip"] == "none" else f", flipped {near['flip']}"
        y += height + round(4 * unit)
        draw.text((x, y), f"{rows[i]['name']}   {verdict}", _COPY if near["copy"] else _INK, font)
        draw.text((x, y + line), _fitted(near["name"], 2 * width - font.getlength(flip), font) + flip, _GREY, font)
    return sheet


def _fitted(text: str, width: float, font: Any) -> str:
    """The end of a text, which tells names apart, where it is too long."""
    if font.getlength(text) <= width:
        return text
    while font.getlength("…" + text) > width and len(text) > 4:
        text = text[1:]
    return "…" + text
