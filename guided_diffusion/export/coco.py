"""COCO instances: an annotation per connected region, read by pycocotools, detectron2, mmdetection and others."""

from __future__ import annotations

import json
from collections.abc import Iterator
from functools import partial
from types import ModuleType
from typing import Any

import numpy as np
from tqdm import tqdm

from ..errors import InputError
from ..pictures import palette
from .contents import image
from .records import Export, Record
from .regions import Region, find_regions
from .writing import Files, IndexFiles


def load_mask_api() -> ModuleType:
    """pycocotools.mask. Raises InputError where it is not installed."""
    try:
        from pycocotools import mask
    except ImportError as error:
        raise InputError(
            "--segmentation rle: needs pycocotools; run `pip install pycocotools`, or take polygon"
        ) from error
    return mask


def files(export: Export, record: Record) -> Files:
    return {f"images/{record.name}.png": image}


def index_files(export: Export) -> IndexFiles:
    return {f"annotations/instances_{part}.json": partial(_instances, export, part) for part in export.parts}


def _instances(export: Export, part: str) -> bytes:
    colours = palette(len(export.class_names)).tolist()
    images, annotations = [], []
    progress = tqdm(export.parts[part], f"annotating {part}", unit="image", disable=None)
    for number, record in enumerate(progress, start=1):
        height, width = record.size
        images.append(
            {
                "id": number,
                "file_name": f"{record.name}.png",
                "width": width,
                "height": height,
                "source": record.source,
            }
        )
        for index, region in _regions(export, record):
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": number,
                    "category_id": index,
                    "segmentation": _segmentation(region, record.size, export.segmentation),
                    "area": region.area,
                    "bbox": region.box,
                    "iscrowd": 0,
                }
            )
    content = {
        "info": {"description": "images of defects; the field source says which are generated, export.json how"},
        "licenses": [],
        "categories": [
            {"id": index, "name": name, "supercategory": "defect", "color": colours[index]}
            for name, index in export.label_map.items()
        ],
        "images": images,
        "annotations": annotations,
    }
    return json.dumps(content, ensure_ascii=False).encode()


def _regions(export: Export, record: Record) -> Iterator[tuple[int, Region]]:
    if not record.types:
        return
    mask = record.read(len(export.class_names))[1]
    for name in record.types:
        index = export.label_map[name]
        for region in find_regions(mask == index):
            yield index, region


def _segmentation(region: Region, size: tuple[int, int], form: str) -> list[list[int]] | dict[str, Any]:
    polygon = region.polygon().ravel()
    if form == "polygon":
        return [polygon.tolist()]
    api = load_mask_api()
    code = api.merge(api.frPyObjects([polygon.astype(np.float64).tolist()], *size))
    return {"size": list(size), "counts": code["counts"].decode("ascii")}
