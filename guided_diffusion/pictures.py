"""Colours of types, outlines, and sheets of tiles, such as the contact sheet.

Lengths are in units of a 128 px tile, so that a sheet of larger tiles looks the same.
"""

import colorsys
import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import cv2
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from . import MAX_TYPES

_INK, _GREY, _PAPER, _RED = (34, 34, 34), (120, 120, 120), (255, 255, 255), (200, 30, 30)

# Okabe & Ito's colours but black, and Tol's wine: distinct for colour-blind readers, readable on grey objects.
_FIRST_COLOURS = [tuple(bytes.fromhex(c)) for c in "e69f00 56b4e9 009e73 f0e442 d55e00 0072b2 cc79a7 882255".split()]


@lru_cache
def palette(num_defect: int) -> np.ndarray:
    """Colours uint8 [num_defect + 1, 3]: row 0 black (background), row k the colour of type k, however many."""
    colours = [(0, 0, 0), *_FIRST_COLOURS[:num_defect]]
    for k in range(len(_FIRST_COLOURS), num_defect):
        hue = (k * 0.618034) % 1.0  # the golden ratio keeps neighbours apart
        rgb = colorsys.hsv_to_rgb(hue, 0.55 + 0.45 * (k % 3) / 2, 1.0 - 0.35 * (k % 2))
        colours.append(tuple(round(255 * c) for c in rgb))
    return np.array(colours, dtype=np.uint8)


def colorize(mask: np.ndarray) -> np.ndarray:
    """Index mask uint8 [...] -> colours uint8 [..., 3]."""
    return palette(MAX_TYPES)[mask]


def outline(image: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """Draw the types' outlines around their regions, whose own pixels stay visible, however small they are.

    image: uint8 [H, W, 3]; mask: index mask uint8 [H, W]. Returns uint8 [H, W, 3]."""
    shown, reach = image.copy(), 1 + 2 * max(1, round(max(mask.shape) / 128))
    for index in np.unique(mask[mask > 0]).tolist():
        inside = mask == index
        near = cv2.dilate(inside.astype(np.uint8), np.ones((reach, reach), np.uint8)) > 0
        shown[near & ~inside] = palette(MAX_TYPES)[index]
    return shown


@dataclass(frozen=True)
class Tile:
    """A picture and its outlines on a sheet, and what stands below them."""

    image: Image.Image
    outlined: Image.Image
    caption: str
    note: str = ""  # a second line
    marked: bool = False  # framed and captioned in red


def fit_tile(array: np.ndarray) -> Image.Image:
    """A tile of uint8 [H, W, 3]: small ones enlarged by a whole factor, large ones reduced to 256 px."""
    image = Image.fromarray(_enlarged(array))
    image.thumbnail((256, 256), Image.Resampling.LANCZOS)  # no-op up to 256
    return image


def _enlarged(array: np.ndarray) -> np.ndarray:
    factor = math.ceil(128 / max(array.shape[:2]))
    return array.repeat(factor, axis=0).repeat(factor, axis=1)


def tile_of(image: np.ndarray, mask: np.ndarray, caption: str) -> Tile:
    """A tile of uint8 [H, W, 3] and its index mask uint8 [H, W]; a small image is enlarged before it is outlined."""
    return Tile(fit_tile(image), fit_tile(outline(_enlarged(image), _enlarged(mask))), caption)


def draw_sheet(
    title: str, notes: Sequence[str], legend: Sequence[str], tiles: Sequence[Tile], rows: bool = False
) -> Image.Image:
    """Title and notes, legend with the types' colours, then the tiles, in cells of the largest's size. rows: a tile is
    a row of pictures, above the row of these with outlines; it has a line of the sheet for itself."""
    width, height = (max(sides) for sides in zip(*(tile.image.size for tile in tiles), strict=True))
    unit = max(height if rows else width, height, 128) / 128
    gap, line, font = round(3 * unit), round(18 * unit), ImageFont.load_default(13 * unit)
    beside = (0, height + gap) if rows else (width + gap, 0)  # the outlined one, from its picture
    right, bottom = width + beside[0], height + beside[1]
    room = max(right, round(130 * unit))
    step = room + round(16 * unit), bottom + gap + line * (2 if any(tile.note for tile in tiles) else 1) + line // 2
    columns = round(math.sqrt(len(tiles) * 4 / 3 * step[1] / step[0]))  # for a sheet of about 4:3
    columns = 1 if rows else min(max(1, columns), len(tiles), 12)
    inner = round(max([columns * step[0], 640 * unit, *map(font.getlength, notes)]))

    margin, swatch = round(20 * unit), round(16 * unit)
    places, x, row = [], 0.0, 0  # as many texts in a row as fit; the legend starts a row of its own
    for number, text in enumerate([*notes, *legend], start=1):
        key = max(0, number - len(notes))  # the number in the legend; 0: a note
        width = swatch * (2 if key else 1) + font.getlength(text)
        if x and (x + width > inner or key == 1):
            x, row = 0.0, row + 1
        places.append((margin + x, row, text, key))
        x += width
    top = margin * (4 + row) + margin // 2
    body = math.ceil(len(tiles) / columns) * step[1]
    sheet = Image.new("RGB", (inner + 2 * margin, top + body + margin // 2), _PAPER)
    draw = ImageDraw.Draw(sheet)
    draw.text((margin, margin - margin // 4), title, _INK, ImageFont.load_default(20 * unit))
    for x, row, text, key in places:
        y = margin * (2 + row) + margin // 2
        if key:
            draw.rectangle((x, y + 3 * unit, x + 11 * unit, y + 14 * unit), tuple(palette(key)[key].tolist()), _GREY)
        draw.text((x + swatch * (key > 0), y), text, _INK if key else _GREY, font)

    for number, tile in enumerate(tiles):
        x, y = margin + (number % columns) * step[0], top + (number // columns) * step[1]
        if tile.marked:
            draw.rectangle((x - gap, y - gap, x + right + gap - 1, y + bottom + gap - 1), _RED)
        sheet.paste(tile.image, (x, y))
        sheet.paste(tile.outlined, (x + beside[0], y + beside[1]))
        for text, colour in ((tile.caption, _RED if tile.marked else _GREY), (tile.note, _GREY)):
            while font.getlength(text) > room and len(text) > 4:  # both ends tell
                text = text[: len(text) // 2 - 2] + "..." + text[len(text) // 2 + 2 :]
            draw.text((x, y + bottom + gap), text, colour, font)
            y += line
    return sheet


def row_tile(caption: str, images: np.ndarray, masks: np.ndarray) -> Tile:
    """A tile for draw_sheet(rows=True): uint8 images [N, H, W, 3] over these with outlines by index masks [N, H, W]."""
    tiles = [tile_of(image, mask, "") for image, mask in zip(images, masks, strict=True)]
    strips = ([tile.image for tile in tiles], [tile.outlined for tile in tiles])
    return Tile(*(Image.fromarray(np.hstack(strip)) for strip in strips), caption)
