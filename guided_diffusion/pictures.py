"""Colours of types, overlays, and the contact sheet: samples beside their overlays, with a legend, on one picture.

Lengths are in units of a 128 px tile, so that a sheet of larger tiles looks the same.
"""

from __future__ import annotations

import colorsys
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from .joint_tensor import MAX_TYPES

_INK, _GREY, _PAPER = (34, 34, 34), (120, 120, 120), (255, 255, 255)


# Okabe & Ito's colours but black, and Tol's wine: distinct for colour-blind readers, readable on grey objects.
_FIRST_COLOURS = (
    (230, 159, 0),
    (86, 180, 233),
    (0, 158, 115),
    (240, 228, 66),
    (213, 94, 0),
    (0, 114, 178),
    (204, 121, 167),
    (136, 34, 85),
)


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
    """What the contact sheet shows of one sample."""

    image: Image.Image
    overlay: Image.Image
    number: str
    types: dict[int, str]  # type index -> name


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
    """Title and settings, legend with the types' colours, then image and overlay of each tile."""
    width, height = tiles[0].image.size
    unit = max(width, height, 128) / 128
    margin, gap, line = round(20 * unit), round(3 * unit), round(20 * unit)
    cell = (max(2 * width + gap, round(130 * unit)), height + round(22 * unit))
    step = (cell[0] + round(16 * unit), cell[1] + round(8 * unit))
    columns = _columns(len(tiles), step)
    inner = max(columns * step[0] - (step[0] - cell[0]), round(640 * unit))

    font, large = ImageFont.load_default(13 * unit), ImageFont.load_default(20 * unit)
    settings_rows = _wrap(settings.split("   "), inner, lambda text: font.getlength(text + "   "))
    keys = list(enumerate(legend, start=1))
    legend_rows = _wrap(keys, inner, lambda key: _key_width(key[1], font, unit))
    header = margin + line * (2 + len(settings_rows) + len(legend_rows)) + line // 2
    rows = math.ceil(len(tiles) / columns)
    sheet = Image.new("RGB", (inner + 2 * margin, header + rows * step[1] + margin // 2), _PAPER)
    draw = ImageDraw.Draw(sheet)

    draw.text((margin, margin - line // 4), title, _INK, large)
    y = margin + line + line // 4
    for row in settings_rows:
        draw.text((margin, y), "   ".join(row), _GREY, font)
        y += line
    y += line // 4
    for row in legend_rows:
        x = margin
        for index, text in row:
            x = _draw_key(draw, x, y, index, text, font, unit)
        y += line
    for number, tile in enumerate(tiles):
        x = margin + (number % columns) * step[0]
        y = header + (number // columns) * step[1]
        sheet.paste(tile.image, (x, y))
        sheet.paste(tile.overlay, (x + width + gap, y))
        _draw_caption(draw, x, y + height + gap, x + cell[0], tile, font, unit)
    return sheet


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
    """Number and types below a tile, up to x = right; types without room are counted."""
    draw.text((x, y), tile.number, _GREY, font)
    x += font.getlength(tile.number + "  ")
    if not tile.types:
        draw.text((x, y), "no defect", _GREY, font)
    for done, (index, name) in enumerate(tile.types.items()):
        left = len(tile.types) - done
        room = right - x - 16 * unit - (font.getlength("  +99") if left > 1 else 0)
        if done and font.getlength(name) > room:
            draw.text((x, y), f"+{left}", _GREY, font)
            return
        while font.getlength(name) > room and len(name) > 4:
            name = name[:-4] + "..."
        x = _draw_key(draw, x, y, index, name, font, unit)


def _key_width(text: str, font: Any, unit: float) -> float:
    return font.getlength(text) + 30 * unit


def _draw_key(draw: ImageDraw.ImageDraw, x: float, y: float, index: int, text: str, font: Any, unit: float) -> float:
    """A swatch in the colour of type `index` and its text at (x, y); returns where the next one goes."""
    colour = tuple(int(c) for c in palette(index)[index])
    draw.rectangle((x, y + 3 * unit, x + 11 * unit, y + 14 * unit), colour, _GREY)
    draw.text((x + 16 * unit, y), text, _INK, font)
    return x + _key_width(text, font, unit)


def _wrap(items: Sequence[Any], width: float, measure: Callable[[Any], float]) -> list[list[Any]]:
    """Items in rows that are at most `width` wide."""
    rows: list[list[Any]] = []
    room = 0.0
    for item in items:
        need = measure(item)
        if not rows or need > room:
            rows.append([])
            room = width
        rows[-1].append(item)
        room -= need
    return rows
