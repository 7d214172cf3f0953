"""YOLO segmentation: a text file of normalised polygons beside each image, and data.yaml, read by ultralytics."""

from __future__ import annotations

import numpy as np
import yaml

from .contents import Content, image
from .records import Export, Record
from .regions import find_regions
from .writing import Files, IndexFiles


def files(export: Export, record: Record) -> Files:
    return {
        f"images/{record.part}/{record.name}.png": image,
        f"labels/{record.part}/{record.name}.txt": _labels,
    }


def index_files(export: Export) -> IndexFiles:
    content = {
        "train": "images/train",
        "val": "images/val" if "val" in export.parts else "images/train",
        "names": dict(enumerate(export.class_names)),
    }
    lines = ["# Paths count from this file's folder, which can be moved: there is no `path` key."]
    if "val" not in export.parts:
        lines.append("# No held-out images were given: val is the training part, and scores on it mean nothing.")
    text = yaml.safe_dump(content, sort_keys=False, allow_unicode=True)
    return {"data.yaml": ("\n".join(lines) + "\n" + text).encode}


def notes(export: Export) -> list[str]:
    return [] if "val" in export.parts else ["without --val, data.yaml names the training part as val"]


def _labels(content: Content) -> bytes:
    """A line per connected region: its class from 0, then x and y of the corners as shares of width and height."""
    height, width = content.mask.shape
    lines = []
    for index in np.unique(content.mask[content.mask > 0]).tolist():
        for region in find_regions(content.mask == index):
            points = region.inset() / [width, height]
            lines.append(" ".join([str(index - 1), *(f"{value:.8f}" for value in points.ravel())]))
    return "".join(f"{line}\n" for line in lines).encode()
