"""Pictures beside the figures of evaluate.py control: samples by the type asked for, and borders of defects."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from .image_sets import ImageSet
from .row_sheet import Row, draw_row_sheet

COLUMNS = 12
PATCH = 64  # pixels, of a patch on the sheet
_INK, _PAPER = (34, 34, 34), (255, 255, 255)


def draw_asked(samples: ImageSet, asked: np.ndarray) -> Image.Image | None:
    """The first samples asked for each type, bool [N, types], image over mask overlay; None where none was."""
    places = {name: np.flatnonzero(asked[:, k])[:COLUMNS] for k, name in enumerate(samples.class_names)}
    places = {name: at for name, at in sorted(places.items(), key=lambda pair: -len(pair[1])) if len(at)}
    if not places:
        return None
    rows = [
        Row(
            [name, f"asked for in {asked[:, samples.class_names.index(name)].sum():,}"],
            samples.images[at],
            samples.masks[at],
        )
        for name, at in places.items()
    ]
    return draw_row_sheet("Samples by the type asked for", ["first ones, no choice"], samples.class_names, rows)


def draw_borders(patches: Mapping[str, tuple[np.ndarray, np.ndarray]]) -> Image.Image | None:
    """By type the patches uint8 [N, side, side, 3] of real borders and of inserted ones that are told most surely."""
    if not patches:
        return None
    font, gap, line, left = ImageFont.load_default(14), 3, 22, 150
    width, step = left + COLUMNS * (PATCH + gap), 2 * (PATCH + gap) + 12
    sheet = Image.new("RGB", (width + gap, line + 8 + step * len(patches)), _PAPER)
    draw = ImageDraw.Draw(sheet)
    draw.text((8, 4), "Borders that the classifier is most sure of, at one brightness", _INK, font)
    for number, (name, sides) in enumerate(patches.items()):
        for row, (title, own) in enumerate(zip(("real", "inserted"), sides, strict=True)):
            y = line + 8 + step * number + row * (PATCH + gap)
            draw.text((8, y + PATCH // 3), f"{name}, {title}"[:20], _INK, font)
            for column, patch in enumerate(own[:COLUMNS]):
                tile = Image.fromarray(patch).resize((PATCH, PATCH), Image.Resampling.NEAREST)
                sheet.paste(tile, (left + column * (PATCH + gap), y))
    return sheet
