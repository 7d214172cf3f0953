"""Pictures of a data set: a sheet of overlays for each type, and one page of histograms."""

from __future__ import annotations

import io
import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import blobfile as bf
import numpy as np
from PIL import Image, ImageDraw
from tqdm import tqdm

from ..data.index_masks import read_pair
from ..file_io import encode_png, remove_temporaries, write_atomic
from ..pictures import Tile, draw_sheet, overlay, palette
from .data_check_facts import Record
from .layouts import Sample, stem_of

if TYPE_CHECKING:
    from matplotlib.axes import Axes

SHOWN = 4  # each of the largest, the median and the smallest
TILE = 224  # pixels, longer side of a picture on a sheet
SMALL = 1 / 5  # of the tile's side: what is smaller gets a frame, to be found
NAME_LETTERS = 20
MOST_REGIONS = 12  # an axis of regions per image ends there
_INK, _GREY = "#222222", "#888888"


def draw_pictures(
    out: str,
    samples: Sequence[Sample],
    records: Sequence[Record],
    names: Mapping[int, str],
    num_defect: int,
    summary: Mapping[str, Any],
) -> None:
    """Write <index>_<type>.png for each type that occurs and histograms.png into `out`.

    samples, records: of the data set; the few images that are shown are read again. names: of the types, by index.
    """
    remove_temporaries(out)
    shown = [record for record in records if not record.good and not record.facts.problem]
    by_name = {sample.name: sample for sample in samples}
    occurring = [index for index in names if summary["types"][names[index]]["images"]]
    for index in tqdm(occurring, desc="drawing sheets", unit="type", disable=None):
        sheet = draw_type(index, shown, names, by_name, num_defect, summary)
        safe = re.sub(r"[^\w.-]", "_", names[index])
        write_atomic(bf.join(out, f"{index}_{safe}.png"), encode_png(np.asarray(sheet)))
    write_atomic(bf.join(out, "histograms.png"), draw_histograms(shown, names, summary))


def draw_type(
    index: int,
    records: Sequence[Record],
    names: Mapping[int, str],
    samples: Mapping[str, Sample],
    num_defect: int,
    summary: Mapping[str, Any],
) -> Image.Image:
    """The sheet of one type: images beside their overlays, from the largest share of the image to the smallest."""
    own = [record for record in records if index in record.types]
    own.sort(key=lambda record: -record.types[index].pixels / record.area)
    chosen = choose(len(own))
    box = _box([own[place].facts.size for place in chosen])
    tiles = []
    for place in chosen:
        record = own[place]
        image, mask = read_pair(samples[record.name], num_defect)
        caption = f"{_shortened(stem_of(record.image))}  {100 * record.types[index].pixels / record.area:.2g}%"
        types = {index: names[index]} | {other: names[other] for other in record.types}
        tiles.append(Tile(_framed(image, box), _marked(image, mask, index, box), caption, types))
    found = summary["types"][names[index]]
    share = found["share"]
    return draw_sheet(
        title=f"{names[index]}: {found['images']:,} images, {found['regions']:,} regions",
        settings=(
            f"{_which(len(own))}   area {100 * share['min']:.2g}% to {100 * share['max']:.2g}%, median "
            f"{100 * share['median']:.2g}% of the image   small regions have a frame"
        ),
        legend=[f"{name} (in {summary['types'][name]['images']:,})" for name in names.values()],
        tiles=tiles,
    )


def choose(count: int) -> list[int]:
    """Places among `count` in order of size: SHOWN from each end and from the middle, or all where they are few."""
    if count <= 3 * SHOWN:
        return list(range(count))
    middle = (count - SHOWN) // 2
    return [*range(SHOWN), *range(middle, middle + SHOWN), *range(count - SHOWN, count)]


def _which(count: int) -> str:
    return "all, by area" if count <= 3 * SHOWN else f"the {SHOWN} largest, {SHOWN} around the median, {SHOWN} smallest"


def _shortened(name: str) -> str:
    return name if len(name) <= NAME_LETTERS else "..." + name[3 - NAME_LETTERS :]


def _box(sizes: Sequence[tuple[int, int]]) -> tuple[int, int]:
    """(width, height) that holds images of these sizes, each scaled so that its longer side is TILE."""
    scaled = [_scaled(size) for size in sizes]
    return max(width for width, _ in scaled), max(height for _, height in scaled)


def _scaled(size: tuple[int, int]) -> tuple[int, int]:
    """(width, height) at which an image of `size` = (height, width) is shown."""
    factor = TILE / max(size)
    return max(1, round(size[1] * factor)), max(1, round(size[0] * factor))


def _framed(image: np.ndarray, box: tuple[int, int]) -> Image.Image:
    """An image uint8 [H, W, 3] at the size at which it is shown, in the middle of a white box."""
    size = _scaled(image.shape[:2])
    how = Image.Resampling.NEAREST if size[0] >= image.shape[1] else Image.Resampling.LANCZOS
    tile = Image.new("RGB", box, "white")
    tile.paste(Image.fromarray(image).resize(size, how), ((box[0] - size[0]) // 2, (box[1] - size[1]) // 2))
    return tile


def _marked(image: np.ndarray, mask: np.ndarray, index: int, box: tuple[int, int]) -> Image.Image:
    """The overlay in its box, with a frame around the type where that is small."""
    tile = _framed(overlay(image, mask, alpha=0.75), box)
    rows, columns = np.nonzero(mask == index)
    width, height = _scaled(mask.shape)
    factor = TILE / max(mask.shape)
    left, top = (box[0] - width) // 2, (box[1] - height) // 2
    bounds = [columns.min() * factor, rows.min() * factor, (columns.max() + 1) * factor, (rows.max() + 1) * factor]
    if max(bounds[2] - bounds[0], bounds[3] - bounds[1]) < SMALL * TILE:
        x1, y1, x2, y2 = (round(value) for value in bounds)
        frame = (left + x1 - 5, top + y1 - 5, left + x2 + 4, top + y2 + 4)
        ImageDraw.Draw(tile).rectangle(frame, outline=(255, 255, 255), width=1)
    return tile


def draw_histograms(records: Sequence[Record], names: Mapping[int, str], summary: Mapping[str, Any]) -> bytes:
    """PNG: areas and number of images by type, sizes of images, regions in an image."""
    from matplotlib.figure import Figure  # no pyplot: no global state, no display

    height = max(9.0, 5 + 0.5 * len(names))
    figure = Figure(figsize=(14, height), dpi=100, layout="constrained")
    panels = figure.subplots(2, 2, height_ratios=(max(1.0, 0.16 * len(names)), 1))
    _draw_areas(panels[0, 0], records, names, summary)
    _draw_counts(panels[0, 1], names, summary)
    _draw_sizes(panels[1, 0], records, summary)
    _draw_regions(panels[1, 1], records, names)
    for axes in panels.ravel():
        axes.grid(alpha=0.25)
        axes.set_axisbelow(True)
        axes.spines[["top", "right"]].set_visible(False)
    figure.suptitle(f"{summary['root']}: {summary['images']:,} images with a mask", x=0.01, ha="left", fontsize=14)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    return buffer.getvalue()


def _draw_areas(axes: Axes, records: Sequence[Record], names: Mapping[int, str], summary: Mapping[str, Any]) -> None:
    """A row per type: a histogram of its share of the images that show it; one pixel of the training as a line."""
    shares = {
        index: [100 * record.types[index].pixels / record.area for record in records if index in record.types]
        for index in names
    }
    everything = [value for values in shares.values() for value in values]
    training = summary["training"]
    pixel = None
    if training["fit"] == "resize" or training["crop_from"]:
        height, width = training["crop_from"] or training["resolution"]
        pixel = 100 / (height * width)
    if everything:
        low, high = min([*everything, pixel or 100]), max(everything)
        bins = np.geomspace(low * 0.8, min(100, high * 1.25), 40)
        for row, (index, values) in enumerate(shares.items()):
            counts = np.histogram(values, bins)[0]
            heights = 0.8 * counts / max(1, counts.max())
            axes.bar(bins[:-1], heights, np.diff(bins), -row, align="edge", color=_colour(index), ec=_INK, lw=0.4)
            if values:
                axes.plot([np.median(values)] * 2, [-row, 0.85 - row], color=_INK, lw=1.5)
    axes.set_xscale("log")
    axes.xaxis.set_major_formatter("{x:g}")
    axes.set_yticks(0.35 - np.arange(len(names)), list(names.values()))
    axes.tick_params(axis="y", length=0)
    axes.set_ylim(0.9 - len(names), 1)
    for row in range(len(names)):
        axes.axhline(-row, color=_GREY, lw=0.4)
    if pixel:
        axes.axvline(pixel, color="#D55E00", lw=1.5, ls="--")
        where = ("data", "axes fraction")
        axes.annotate(f" one pixel at {height} x {width}", (pixel, 1.0), xycoords=where, color="#D55E00", va="bottom")
    axes.set_xlabel("area in an image, % of it (line: median)")


def _draw_counts(axes: Axes, names: Mapping[int, str], summary: Mapping[str, Any]) -> None:
    rows = [(name, summary["types"][name]["images"], _colour(index)) for index, name in names.items()]
    if summary["good"]:
        rows.append(("defect-free", summary["good"], "#BBBBBB"))
    bars = axes.barh(range(len(rows)), [row[1] for row in rows], color=[row[2] for row in rows], ec=_INK, lw=0.4)
    axes.bar_label(bars, [f"{row[1]:,}" for row in rows], padding=3)
    axes.set_yticks(range(len(rows)), [row[0] for row in rows])
    axes.invert_yaxis()
    axes.margins(x=0.1)
    axes.set_xlabel("images that show it")


def _draw_sizes(axes: Axes, records: Sequence[Record], summary: Mapping[str, Any]) -> None:
    """A dot per image size, larger where more images have it; the proportions of training as a line."""
    sizes, counts = np.unique([record.facts.size for record in records], axis=0, return_counts=True)
    dots = 30 + 12 * np.sqrt(counts)
    axes.scatter(sizes[:, 1], sizes[:, 0], dots, color="#0072B2", alpha=0.45, ec=_INK, lw=0.4)
    largest = sizes.max(axis=0) * 1.1
    axes.set_xlim(0, largest[1])
    axes.set_ylim(0, largest[0])
    if summary["training"]["fit"] == "resize":
        height, width = summary["training"]["resolution"]
        end = min(largest[0] / height, largest[1] / width)
        label = f"proportions of training, {height} x {width}"
        axes.plot([0, end * width], [0, end * height], color="#D55E00", lw=1.5, ls="--", label=label)
        axes.legend(loc="upper left", frameon=False)
    if len(sizes) == 1:
        axes.annotate(
            f"all {counts[0]:,}", sizes[0][::-1], (-8, 0), textcoords="offset points", ha="right", va="center"
        )
    axes.set_xlabel("width, pixels")
    axes.set_ylabel("height, pixels")


def _draw_regions(axes: Axes, records: Sequence[Record], names: Mapping[int, str]) -> None:
    """How many images have 1, 2, ... regions, by type, stacked."""
    bottom = np.zeros(MOST_REGIONS)
    for index in names:
        numbers = [sum(record.types[index].regions.values()) for record in records if index in record.types]
        counts = (
            np.bincount(np.minimum(numbers, MOST_REGIONS), minlength=MOST_REGIONS + 1)[1:] if numbers else bottom * 0
        )
        axes.bar(range(1, MOST_REGIONS + 1), counts, 0.8, bottom, color=_colour(index), ec=_INK, lw=0.4)
        bottom += counts
    last = max(np.flatnonzero(bottom), default=0) + 1
    axes.set_xlim(0.4, max(last, 4) + 0.6)
    ticks = range(1, max(last, 4) + 1)
    axes.set_xticks(ticks, [f"{tick}+" if tick == MOST_REGIONS else str(tick) for tick in ticks])
    axes.set_xlabel("regions of a type in an image")
    axes.set_ylabel("images, types stacked")


def _colour(index: int) -> tuple[float, ...]:
    return tuple((palette(index)[index] / 255).tolist())
