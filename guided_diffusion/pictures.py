"""Colours of types, overlays, and the two sheets: tiles (contact sheet) and rows (one setting after another).

Lengths are in units of a 128 px tile, so that a sheet of larger tiles looks the same.
"""

from __future__ import annotations

import colorsys
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from .joint_tensor import MAX_TYPES

_INK, _GREY, _PAPER, _RED = (34, 34, 34), (120, 120, 120), (255, 255, 255), (200, 30, 30)

# Okabe & Ito's colours but black, and Tol's wine: distinct for colour-blind readers, readable on grey objects.
_FIRST_COLOURS = [tuple(bytes.fromhex(c)) for c in "e69f00 56b4e9 009e73 f0e442 d55e00 0072b2 cc79a7 882255".split()]


@lru_cache
def palette(num_defect: int) -> np.ndarray:
    """Colours uint8 [num_defect + 1, 3]: row 0 black (background), row k the colour of type k.

    A type's colour does not depend on how many types there are.
    """
    colours = [(0, 0, 0), *_FIRST_COLOURS[:num_defect]]
    for k in range(len(_FIRST_COLOURS), num_defect):
        hue = (k * 0.618034) % 1.0  # the golden ratio keeps neighbours apart
        rgb = colorsys.hsv_to_rgb(hue, 0.55 + 0.45 * (k % 3) / 2, 1.0 - 0.35 * (k % 2))
        colours.append(tuple(round(255 * c) for c in rgb))
    return np.array(colours, dtype=np.uint8)


def colorize(mask: np.ndarray) -> np.ndarray:
    """Index mask uint8 [...] -> colours uint8 [..., 3]."""
    return palette(MAX_TYPES)[mask]


def overlay(image: np.ndarray, mask: np.ndarray, alpha: float = 0.55) -> np.ndarray:
    """Blend the mask's colours over an image: uint8 [H, W, 3] and index mask [H, W] -> uint8 [H, W, 3]."""
    mixed = (1 - alpha) * image + alpha * colorize(mask)
    return np.where(mask[..., None] > 0, mixed.round(), image).astype(np.uint8)


@dataclass(frozen=True)
class Tile:
    """Two pictures side by side on a sheet, and what stands below them."""

    image: Image.Image
    overlay: Image.Image
    caption: str
    types: Mapping[int, str] | None = None  # type index -> name; empty is captioned "no defect", None says nothing
    note: str = ""  # a second line, cut at its start
    marked: bool = False  # framed and captioned in red


@dataclass(frozen=True)
class Row:
    """One setting: images uint8 [N, H, W, 3], index masks uint8 [N, H, W], and lines that say what it is."""

    label: Sequence[str]  # the first line is the heading
    images: np.ndarray
    masks: np.ndarray


def fit_tile(array: np.ndarray) -> Image.Image:
    """A tile of uint8 [H, W, 3]: small ones enlarged by a whole factor, large ones reduced to 256 px."""
    image = Image.fromarray(array)
    longest = max(image.size)
    if longest < 128:
        factor = math.ceil(128 / longest)
        return image.resize((image.width * factor, image.height * factor), Image.Resampling.NEAREST)
    image.thumbnail((256, 256), Image.Resampling.LANCZOS)  # no-op up to 256
    return image


def draw_sheet(title: str, settings: str, legend: Sequence[str], tiles: Sequence[Tile]) -> Image.Image:
    """Title and settings (parted by three spaces), legend with the types' colours, then the tiles, all of one size."""
    width, height = tiles[0].image.size
    unit = max(width, height, 128) / 128
    gap = round(3 * unit)
    cell = (max(2 * width + gap, round(130 * unit)), height + round((40 if any(t.note for t in tiles) else 22) * unit))
    step = (cell[0] + round(16 * unit), cell[1] + round(8 * unit))
    columns = _columns(len(tiles), step)
    inner = max(columns * step[0] - (step[0] - cell[0]), round(640 * unit))
    font = ImageFont.load_default(13 * unit)
    lines = ["   ".join(row) for row in _wrap(settings.split("   "), inner, lambda text: font.getlength(text + "   "))]
    rows = math.ceil(len(tiles) / columns)
    sheet, left, top = _start_sheet(title, lines, legend, inner, rows * step[1], unit)
    draw = ImageDraw.Draw(sheet)
    for number, tile in enumerate(tiles):
        x, y = left + (number % columns) * step[0], top + (number // columns) * step[1]
        if tile.marked:
            draw.rectangle((x - gap, y - gap, x + 2 * width + 2 * gap - 1, y + height + gap - 1), _RED)
        sheet.paste(tile.image, (x, y))
        sheet.paste(tile.overlay, (x + width + gap, y))
        _draw_caption(draw, x, y + height + gap, x + cell[0], tile, font, unit)
    return sheet


def draw_rows(title: str, notes: Sequence[str], class_names: Sequence[str], rows: Sequence[Row]) -> Image.Image:
    """Title, notes and the types' colours, then a row of images over mask overlays for each of `rows`, all as long."""
    tile = fit_tile(rows[0].images[0])
    unit = max(*tile.size, 128) / 128
    gap, line = round(3 * unit), round(20 * unit)
    font, bold = ImageFont.load_default(13 * unit), ImageFont.load_default(16 * unit)
    column = round(max(bold.getlength(text) for row in rows for text in row.label)) + line
    inner = round(max([column + len(rows[0].images) * (tile.width + gap), *map(font.getlength, notes)]))
    step = 2 * (tile.height + gap) + round(10 * unit)
    sheet, left, top = _start_sheet(title, notes, class_names, inner, step * len(rows), unit)
    draw = ImageDraw.Draw(sheet)
    for number, row in enumerate(rows):
        y = top + step * number
        for place, text in enumerate(row.label):
            draw.text((left, y + place * line), text, _GREY if place else _INK, font if place else bold)
        for k, (image, mask) in enumerate(zip(row.images, row.masks, strict=True)):
            x = left + column + k * (tile.width + gap)
            sheet.paste(fit_tile(image), (x, y))
            sheet.paste(fit_tile(overlay(image, mask, alpha=0.7)), (x, y + tile.height + gap))
    return sheet


def _start_sheet(
    title: str, lines: Sequence[str], legend: Sequence[str], inner: int, body: int, unit: float
) -> tuple[Image.Image, int, int]:
    """A sheet with its header: title, lines and legend; and left and top of the room for the body."""
    margin = line = round(20 * unit)
    font, large = ImageFont.load_default(13 * unit), ImageFont.load_default(20 * unit)
    legend_rows = _wrap(list(enumerate(legend, start=1)), inner, lambda key: font.getlength(key[1]) + 30 * unit)
    header = margin + line * (2 + len(lines) + len(legend_rows)) + line // 2
    sheet = Image.new("RGB", (inner + 2 * margin, header + body + margin // 2), _PAPER)
    draw = ImageDraw.Draw(sheet)
    draw.text((margin, margin - line // 4), title, _INK, large)
    y = margin + line + line // 4
    for number, text in enumerate(lines):
        draw.text((margin, y + number * line), text, _GREY, font)
    y += len(lines) * line + line // 4
    for row in legend_rows:
        x = float(margin)
        for index, text in row:
            x = _draw_key(draw, x, y, index, text, font, unit)
        y += line
    return sheet, margin, header


def _columns(count: int, step: tuple[int, int]) -> int:
    """So many columns that the sheet is about 4:3 and its last row rather full."""

    def cost(columns: int) -> float:
        rows = math.ceil(count / columns)
        aspect = columns * step[0] / (rows * step[1])
        return abs(math.log(aspect * 3 / 4)) + 3 * (1 - count / (columns * rows))

    return min(range(1, min(count, 12) + 1), key=cost)


def _draw_caption(
    draw: ImageDraw.ImageDraw, x: float, y: float, right: float, tile: Tile, font: Any, unit: float
) -> None:
    """Caption and types below a tile, up to x = right, and its note; types without room are counted."""
    note = tile.note
    while font.getlength(note) > right - x and len(note) > 4:  # its end tells names apart
        note = "..." + note[4:]
    draw.text((x, y + 18 * unit), note, _GREY, font)
    draw.text((x, y), tile.caption, _RED if tile.marked else _GREY, font)
    x += font.getlength(tile.caption + "  ")
    if tile.types is not None and not tile.types:
        draw.text((x, y), "no defect", _GREY, font)
    for done, (index, name) in enumerate((tile.types or {}).items()):
        left = len(tile.types) - done
        room = right - x - 16 * unit - (font.getlength("  +99") if left > 1 else 0)
        if done and font.getlength(name) > room:
            draw.text((x, y), f"+{left}", _GREY, font)
            return
        while font.getlength(name) > room and len(name) > 4:
            name = name[:-4] + "..."
        x = _draw_key(draw, x, y, index, name, font, unit)


def _draw_key(draw: ImageDraw.ImageDraw, x: float, y: float, index: int, text: str, font: Any, unit: float) -> float:
    """A swatch in the colour of type `index` and its text at (x, y); returns where the next one goes."""
    colour = tuple(palette(index)[index].tolist())
    draw.rectangle((x, y + 3 * unit, x + 11 * unit, y + 14 * unit), colour, _GREY)
    draw.text((x + 16 * unit, y), text, _INK, font)
    return x + font.getlength(text) + 30 * unit


def _wrap(items: Sequence[Any], width: float, measure: Callable[[Any], float]) -> list[list[Any]]:
    """Items in rows that are at most `width` wide."""
    rows: list[list[Any]] = []
    room = 0.0
    for item in items:
        if not rows or measure(item) > room:
            rows.append([])
            room = width
        rows[-1].append(item)
        room -= measure(item)
    return rows
