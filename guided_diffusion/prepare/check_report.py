"""The check of a data set: figures for JSON, the same as text, and a sheet of outlines for each type."""

import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

import blobfile as bf
import cv2
import numpy as np
from PIL import Image, ImageOps
from tqdm import tqdm

from .. import MAX_TYPES
from ..data.files import stem_of
from ..data.image_files import View
from ..data.prepared import Sample
from ..file_io import encode_png, remove_temporaries, write_atomic
from ..pictures import Tile, draw_sheet, outline
from .check import Finding, Record, by_type, keeps_regions, size_text
from .layouts.drawing import read_labelled
from .layouts.model import DrawingRule

SHOWN = 12  # images, from the largest share to the smallest
TILE = 224  # pixels, longer side of a picture on a sheet
SHORT_SIDES = (64, 96, 128, 192, 256, 384, 512, 768, 1024)  # of resolutions to suggest
FRAMED = 1 / 5  # of that side: what is smaller gets a frame, to be found
FIGURES = {  # of a type: its key in JSON, and the heading and format in the text
    "images": ("images", ",.0f"),
    "regions": ("regions", ",.0f"),
    "share_5": ("area in %: 5%", ".3g"),
    "share_50": ("median", ".3g"),
    "share_95": ("95%", ".3g"),
    "pixels_50": ("in pixels: median", ",.0f"),
    "trained_50": ("in training", ",.0f"),
    "lost_images": ("lost: images", ",.0f"),
    "lost_regions": ("regions", ",.0f"),
}


def summarize(records: Sequence[Record], names: Mapping[int, str]) -> dict[str, Any]:
    """The figures of a data set, as JSON holds them; shares in % of the image."""
    readable = [record for record in records if not record.problem]
    samples = [record for record in readable if not record.good]
    shown = by_type(samples)
    sizes = sorted((record.size for record in samples), key=math.prod)
    picks = {"smallest": 0, "median": len(sizes) // 2, "largest": -1} if sizes else {}
    return {
        "images": len(samples),
        "good": len(readable) - len(samples),
        "unreadable": len(records) - len(readable),
        "sizes": {what: sizes[place] for what, place in picks.items()},
        "types": {name: _figures(shown.get(index, []), index) for index, name in names.items()},
    }


def _figures(own: Sequence[Record], index: int) -> dict[str, float]:
    """FIGURES of one type and further percentiles, over the images that show it."""
    rows = [(100 * record.share(index), *vars(record.types[index]).values()) for record in own]
    shares, pixels, trained, regions, lost, _ = zip(*rows, strict=True) if rows else [()] * 6
    figures = {"images": len(own), "regions": sum(regions)}
    for name, values in {"share": shares, "pixels": pixels, "trained": trained}.items() if own else ():
        figures |= {f"{name}_{percent}": float(np.percentile(values, percent)) for percent in (0, 5, 50, 95, 100)}
    return figures | {"lost_images": trained.count(0), "lost_regions": sum(lost)}


def suggest_resolution(records: Sequence[Record], multiple: int) -> list[int] | None:
    """The least [height, width], multiples of `multiple`, that keeps all regions, up to the median image's; or None."""
    samples = [record for record in records if record.types]
    middle = np.median([record.size for record in samples] or [(1, 1)], axis=0)
    for side in (*(side for side in SHORT_SIDES if side < middle.min()), middle.min()):
        scaled = (middle * side / middle.min()).tolist()
        size = [math.ceil(round(side, 3) / multiple) * multiple for side in scaled]
        if samples and all(keeps_regions(record, size) for record in samples):
            return size
    return None


def as_text(
    figures: Mapping[str, Any],
    names: Mapping[int, str],
    view: View,
    findings: Sequence[Finding],
    held_out: Mapping[str, Any] | None = None,
) -> str:
    """The report: what is there, by type, what to set, and last what is wrong. held_out: figures of that set."""
    how = "windows (fit: random_crop) of images" if view.windows else "images"
    head = {
        "images": f"{figures['images']:,} with a mask, {figures['good']:,} defect-free",
        "label map": ", ".join(f"{name} {index}" for index, name in names.items()),
        "height x width": ", ".join(f"{what} {size_text(size)}" for what, size in figures["sizes"].items()),
        "training sees": f"{size_text(view.size)}, {how} stretched to {size_text(view.whole_size)}",
    }
    if held_out:
        shown = ", ".join(f"{name} {own['images']:,}" for name, own in held_out["types"].items())
        head["held out"] = f"{held_out['images']:,} with a mask ({shown}), {held_out['good']:,} defect-free"
    regions = sum(one["regions"] for one in figures["types"].values())
    if regions and not view.windows and not figures["resolution"]:
        head["suggested"] = "data.fit random_crop: at no size up to the median image's do all regions stay"
    elif figures["resolution"]:
        head["suggested"] = f"data.resolution {figures['resolution']}: the median image's proportions, and regions stay"
    rows = [["type", *(heading for heading, _ in FIGURES.values())]]
    for name, own in figures["types"].items():
        rows.append([name, *(f"{own[key]:{how}}" if key in own else "" for key, (_, how) in FIGURES.items())])
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    table = ["  ".join([row[0].ljust(widths[0]), *map(str.rjust, row[1:], widths[1:])]).rstrip() for row in rows]
    lines = [finding.line for finding in findings]
    lines += ["(--json FILE lists all files)"] * any(len(finding.files) > 1 for finding in findings)
    paragraphs = [f"{key:15} {text}" for key, text in head.items()], table, lines
    return "\n\n".join("\n".join(paragraph) for paragraph in paragraphs if paragraph)


def draw_sheets(
    out: str, samples: Sequence[Sample], records: Sequence[Record], names: Mapping[int, str], rule: DrawingRule
) -> None:
    """Write <index>_<type>.png of each type into `out`: images beside their outlines, the largest share first."""
    remove_temporaries(out)
    by_name = {sample.name: sample for sample in samples}
    shown = by_type(records)
    legend = [f"{name} (in {len(shown.get(index, ())):,})" for index, name in names.items()]
    for index, own in tqdm(shown.items(), desc="drawing sheets", unit="type", disable=None):
        chosen = [own[place] for place in np.linspace(0, len(own) - 1, min(len(own), SHOWN)).round().astype(int)]
        box = tuple(max(round(TILE * record.size[axis] / max(record.size)) for record in chosen) for axis in (1, 0))
        tiles = []
        for record in chosen:
            image, mask = read_labelled(by_name[record.name], MAX_TYPES, rule).pair()
            both = image, _framed(image, mask, index)
            pair = (ImageOps.pad(Image.fromarray(picture), box, color="white") for picture in both)
            types = ", ".join(dict.fromkeys(names[own] for own in (index, *record.types)))
            tiles.append(Tile(*pair, f"{100 * record.share(index):.2g}%  {types}", stem_of(record.image)))
        title = f"{names[index]}: {len(own):,} images, {sum(r.types[index].regions for r in own):,} regions"
        notes = f"{len(chosen)} of them, the largest first", "areas in % of the image", "small regions have a frame"
        sheet = draw_sheet(title, notes, legend, tiles)
        safe = re.sub(r"[^\w.-]", "_", names[index])
        write_atomic(bf.join(out, f"{index}_{safe}.png"), encode_png(np.asarray(sheet)))


def _framed(image: np.ndarray, mask: np.ndarray, index: int) -> np.ndarray:
    """The image with outlines, and a frame around the type where that is small."""
    shown = outline(image, mask)
    unit = max(mask.shape) / TILE  # pixels of the image to one of the tile
    left, top, width, height = cv2.boundingRect((mask == index).astype(np.uint8))
    if max(width, height) < FRAMED * max(mask.shape):
        gap, line = max(2, round(5 * unit)), max(1, int(unit))
        corners = (left - gap, top - gap), (left + width + gap, top + height + gap)
        cv2.rectangle(shown, *corners, (255, 255, 255), line)
    return shown
