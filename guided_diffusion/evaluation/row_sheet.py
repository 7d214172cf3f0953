"""A sheet of rows: the same seeds under one setting after another, image over mask overlay."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from ..pictures import fit_tile, overlay, palette

_INK, _GREY, _PAPER = (34, 34, 34), (120, 120, 120), (255, 255, 255)


@dataclass(frozen=True)
class Row:
    """What one setting makes: images uint8 [N, H, W, 3], index masks uint8 [N, H, W], and lines that say what it is."""

    label: Sequence[str]  # the first line is the heading
    images: np.ndarray
    masks: np.ndarray


def draw_row_sheet(title: str, notes: Sequence[str], class_names: Sequence[str], rows: Sequence[Row]) -> Image.Image:
    """Title, notes and the types' colours, then a row for each of `rows`; all hold the same number of samples.

    Lengths are in units of a 128 px tile, so that a sheet of larger tiles looks the same.
    """
    tile = fit_tile(rows[0].images[0])
    unit = max(*tile.size, 128) / 128
    margin, gap, line = round(20 * unit), round(3 * unit), round(20 * unit)
    font, large = ImageFont.load_default(13 * unit), ImageFont.load_default(20 * unit)
    bold = ImageFont.load_default(16 * unit)
    left = margin + round(max(bold.getlength(text) for row in rows for text in row.label)) + margin
    legend = sum(font.getlength(name) + 30 * unit for name in class_names)
    inner = max([left + len(rows[0].images) * (tile.width + gap), legend, *map(font.getlength, notes)])
    step = 2 * (tile.height + gap) + round(10 * unit)
    top = margin + line * (len(notes) + 3)
    sheet = Image.new("RGB", (round(inner) + 2 * margin, top + step * len(rows) + margin), _PAPER)
    draw = ImageDraw.Draw(sheet)

    draw.text((margin, margin - line // 4), title, _INK, large)
    for number, text in enumerate(notes):
        draw.text((margin, margin + line * (number + 1) + line // 4), text, _GREY, font)
    x, y = float(margin), margin + line * (len(notes) + 1) + line // 2
    for index, name in enumerate(class_names, start=1):
        colour = tuple(map(int, palette(index)[index]))
        draw.rectangle((x, y + 3 * unit, x + 11 * unit, y + 14 * unit), colour, _GREY)
        draw.text((x + 16 * unit, y), name, _INK, font)
        x += font.getlength(name) + 30 * unit

    for number, row in enumerate(rows):
        y = top + step * number
        for place, text in enumerate(row.label):
            draw.text((margin, y + place * line), text, _GREY if place else _INK, font if place else bold)
        for column, (image, mask) in enumerate(zip(row.images, row.masks, strict=True)):
            x = left + column * (tile.width + gap)
            sheet.paste(fit_tile(image), (round(x), y))
            sheet.paste(fit_tile(overlay(image, mask, alpha=0.7)), (round(x), y + tile.height + gap))
    return sheet
