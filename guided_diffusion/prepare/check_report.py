"""The check of a data set: figures for JSON, the same as text, and a sheet of overlays for each type."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import blobfile as bf
import cv2
import numpy as np
from PIL import Image, ImageOps
from tqdm import tqdm

from ..data.files import stem_of
from ..data.image_files import View
from ..data.prepared import Sample
from ..file_io import encode_png, remove_temporaries, write_atomic
from ..pictures import Tile, draw_sheet, overlay
from .check import Finding, Record
from .layouts.drawing import read_labelled

UNEVEN = 2  # a type with so many times the images of another
SHOWN = 4  # each of the largest, the median and the smallest
TILE = 224  # pixels, longer side of a picture on a sheet
FRAMED = 1 / 5  # of the tile's side: what is smaller gets a frame, to be found
FIGURES = {  # of a type: its key in JSON, and the heading and format in the text
    "images": ("images", ",.0f"),
    "regions": ("regions", ",.0f"),
    "share_5": ("area in %: 5%", ".3g"),
    "share_50": ("median", ".3g"),
    "share_95": ("95%", ".3g"),
    "pixels_5": ("in pixels: 5%", ",.0f"),
    "pixels_50": ("median", ",.0f"),
    "pixels_95": ("95%", ",.0f"),
    "trained_50": ("in training: median", ",.0f"),
    "lost_images": ("lost: images", ",.0f"),
    "lost_regions": ("regions", ",.0f"),
}
REASONS = {
    "resolution": " (the median image's proportions; the least at which the fewest types vanish from single images)",
    "num_image_train": " (as many images of each type)",
}


def summarize(
    records: Sequence[Record], names: Mapping[int, str], candidates: Sequence[tuple[int, int]]
) -> dict[str, Any]:
    """The figures of a data set, as JSON holds them; shares in % of the image.

    candidates: further sizes at which the records know what is left.
    """
    readable = [record for record in records if not record.problem]
    samples = [record for record in readable if not record.good]
    return {
        "images": len(samples),
        "good": len(readable) - len(samples),
        "unreadable": len(records) - len(readable),
        "types": {name: _type([r for r in samples if index in r.types], index) for index, name in names.items()},
        "suggestions": _suggestions(samples, names, candidates),
    }


def _type(own: Sequence[Record], index: int) -> dict[str, float]:
    """FIGURES of one type, over the images that show it."""
    facts = [record.types[index] for record in own]
    areas = {
        "share": [100 * record.share(index) for record in own],
        "pixels": [one.pixels for one in facts],
        "trained": [one.trained for one in facts],
    }
    figures = {"images": len(own), "regions": sum(one.regions for one in facts)}
    for name, values in areas.items() if own else ():
        figures |= {f"{name}_{percent}": float(np.percentile(values, percent)) for percent in (0, 5, 50, 95, 100)}
    return figures | {"lost_images": areas["trained"].count(0), "lost_regions": sum(one.lost for one in facts)}


def _suggestions(
    samples: Sequence[Record], names: Mapping[int, str], candidates: Sequence[tuple[int, int]]
) -> dict[str, Any]:
    """What to set in the YAML: the resolution at which the fewest types vanish, and as many images of each type."""
    found: dict[str, Any] = {"num_defect": len(names)}
    kept = [facts.candidates for record in samples for facts in record.types.values()]
    if candidates and kept:
        lost = [column.count(0) for column in zip(*kept, strict=True)]
        found["resolution"] = list(candidates[np.argmin(lost)])
    folders = Counter(record.folder for record in samples if record.folder)
    images = (folders or Counter(names[index] for record in samples for index in record.types)).values()
    if len(images) > 1 and max(images) > UNEVEN * min(images):
        found["num_image_train"] = min(images)
    return found


def as_text(
    figures: Mapping[str, Any], records: Sequence[Record], names: Mapping[int, str], view: View, findings: list[Finding]
) -> str:
    """The report: what is there, by type, what to set, and last what is wrong."""
    sizes = sorted((record.size for record in records if not record.good and not record.problem), key=math.prod)
    aspects = np.array([[w / h for h, w in (size, view.size_of(size))] for size in sizes or [view.size]])
    stretch = np.exp(np.abs(np.diff(np.log(aspects))).max())
    origin = f"of images stretched to {_size(view.crop_from)}" if view.crop_from else "of images of their size"
    seen = f"windows {origin} (fit: random_crop)" if view.windows else "images stretched to it (fit: resize)"
    shown = zip(("smallest", "median", "largest"), (sizes[:1], sizes[len(sizes) // 2 :], sizes[-1:]), strict=True)
    head = {
        "images": f"{figures['images']:,} with a mask, {figures['good']:,} defect-free",
        "unreadable": f"{figures['unreadable']:,}" if figures["unreadable"] else "",
        "label map": ", ".join(f"{name} {index}" for index, name in names.items()),
        "height x width": ", ".join(f"{key} {_size(size)}" for key, (size, *_) in shown) if sizes else "",
        "training sees": f"{_size(view.size)}, {seen}",
        "distorted": f"by up to a factor of {stretch:.2f}" if stretch > 1.005 else "",
    }
    lines = [finding.line for finding in findings]
    if any(len(finding.files) > 1 for finding in findings):
        lines.append("(--json FILE lists all files)")
    advice = [f"  {key}: {value}{REASONS.get(key, '')}" for key, value in figures["suggestions"].items()]
    paragraphs = (
        [f"{key:15} {text}" for key, text in head.items() if text],
        _table(figures["types"]),
        ["to set in the YAML", *advice],
        lines,
    )
    return "\n\n".join("\n".join(paragraph) for paragraph in paragraphs if paragraph)


def _table(types: Mapping[str, Mapping[str, float]]) -> list[str]:
    """A line for each type."""
    rows = [["type", *(heading for heading, _ in FIGURES.values())]]
    for name, figures in types.items():
        rows.append([name, *(f"{figures[key]:{how}}" if key in figures else "" for key, (_, how) in FIGURES.items())])
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = [[row[0].ljust(widths[0]), *map(str.rjust, row[1:], widths[1:])] for row in rows]
    return ["  ".join(line).rstrip() for line in lines]


def _size(size: Sequence[int]) -> str:
    return f"{size[0]} x {size[1]}"


def draw_sheets(
    out: str, samples: Sequence[Sample], records: Sequence[Record], names: Mapping[int, str], num_defect: int
) -> None:
    """Write <index>_<type>.png for each type that occurs into `out`: images beside their overlays, the largest share
    of the image first.

    samples, records: of the data set; the few images that are shown are read again. names: of the types, by index.
    """
    remove_temporaries(out)
    by_name = {sample.name: sample for sample in samples}
    shown = {index: [record for record in records if index in record.types] for index in names}
    legend = [f"{name} (in {len(shown[index]):,})" for index, name in names.items()]
    for index in tqdm([index for index in names if shown[index]], desc="drawing sheets", unit="type", disable=None):
        own = sorted(shown[index], key=lambda record, index=index: -record.share(index))
        chosen = [own[place] for place in choose(len(own))]
        box = tuple(max(round(TILE * record.size[axis] / max(record.size)) for record in chosen) for axis in (1, 0))
        tiles = []
        for record in chosen:
            image, mask = read_labelled(by_name[record.name], num_defect).pair()
            how = Image.Resampling.NEAREST if max(mask.shape) <= TILE else Image.Resampling.LANCZOS
            pair = (ImageOps.pad(Image.fromarray(a), box, how, "white") for a in (image, _framed(image, mask, index)))
            types = {index: names[index]} | {other: names[other] for other in record.types}
            tiles.append(Tile(*pair, f"{100 * record.share(index):.2g}%", types, note=stem_of(record.image)))
        few = len(chosen) == len(own)
        which = "all, by area" if few else f"the {SHOWN} largest, {SHOWN} around the median, {SHOWN} smallest"
        sheet = draw_sheet(
            title=f"{names[index]}: {len(own):,} images, {sum(r.types[index].regions for r in own):,} regions",
            settings=f"{which}   areas in % of the image   small regions have a frame",
            legend=legend,
            tiles=tiles,
        )
        safe = re.sub(r"[^\w.-]", "_", names[index])
        write_atomic(bf.join(out, f"{index}_{safe}.png"), encode_png(np.asarray(sheet)))


def choose(count: int) -> list[int]:
    """Places among `count` in order of size: SHOWN from each end and from the middle, or all where they are few."""
    if count <= 3 * SHOWN:
        return list(range(count))
    middle = (count - SHOWN) // 2
    return [*range(SHOWN), *range(middle, middle + SHOWN), *range(count - SHOWN, count)]


def _framed(image: np.ndarray, mask: np.ndarray, index: int) -> np.ndarray:
    """The overlay, with a frame around the type where that is small."""
    shown = overlay(image, mask, alpha=0.75)
    unit = max(mask.shape) / TILE  # pixels of the image to one of the tile
    left, top, width, height = cv2.boundingRect((mask == index).astype(np.uint8))
    if max(width, height) < FRAMED * max(mask.shape):
        gap, line = max(2, round(5 * unit)), max(1, int(unit))
        corners = (left - gap, top - gap), (left + width + gap, top + height + gap)
        cv2.rectangle(shown, *corners, (255, 255, 255), line)
    return shown
