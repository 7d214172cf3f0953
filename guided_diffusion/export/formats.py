"""The formats, each by what reads it: pycocotools, ultralytics, mmsegmentation, anomalib, `datasets`, this project."""

import json
from collections import Counter
from collections.abc import Iterator
from functools import partial
from pprint import pformat
from typing import Any

import numpy as np
import yaml
from pycocotools import mask as coco_mask
from tqdm import tqdm

from .. import MAX_TYPES
from ..data.prepared import read_pair
from ..file_io import as_json, encode_png
from ..pictures import colorize, palette
from .polygons import edge_polygon, inset_polygon, outlines
from .records import Export, Layout, Record, by_name, safe_names


def coco(export: Export) -> Layout:
    """COCO instances: an annotation per connected region."""
    index_files = {}
    for part, records in export.parts.items():
        images, annotations = [], []
        for number, record in enumerate(tqdm(records, f"annotating {part}", unit="image", disable=None), start=1):
            mask = read_pair(record.sample, MAX_TYPES)[1]
            height, width = mask.shape
            image = {"id": number, "file_name": f"{record.name}.png", "width": width, "height": height}
            images.append({**image, "source": record.source})
            for index, walk in _regions(mask):
                polygon = edge_polygon(walk).ravel()
                code = coco_mask.merge(coco_mask.frPyObjects([polygon.astype(float).tolist()], height, width))
                rle = {"size": [height, width], "counts": code["counts"].decode("ascii")}
                annotation = {"id": len(annotations) + 1, "image_id": number, "category_id": index, "iscrowd": 0}
                annotation["segmentation"] = rle if export.segmentation == "rle" else [polygon.tolist()]
                annotation["area"] = int(coco_mask.area(code))
                annotation["bbox"] = coco_mask.toBbox(code).astype(int).tolist()
                annotations.append(annotation)
        categories = [{"id": k, "name": name, "supercategory": "defect"} for name, k in export.label_map.items()]
        content = {"info": {"description": "images of defects; the field source says which are generated"}}
        content |= {"licenses": [], "categories": categories, "images": images, "annotations": annotations}
        index_files[f"annotations/instances_{part}.json"] = json.dumps(content, ensure_ascii=False).encode()
    return Layout(by_name({"images/{name}.png": None}), index_files)


def _regions(mask: np.ndarray) -> Iterator[tuple[int, np.ndarray]]:
    """The type and the outline of each connected region, type by type."""
    for index in np.unique(mask[mask > 0]).tolist():
        for walk in outlines(mask == index):
            yield index, walk


def yolo(export: Export) -> Layout:
    """YOLO segmentation: a text file of normalised polygons beside each image, and data.yaml."""
    has_val = "val" in export.parts
    content = {"train": "images/train", "val": "images/val" if has_val else "images/train"}
    content["names"] = dict(enumerate(export.label_map))
    text = "# Paths count from this file's folder, which can be moved: there is no `path` key.\n"
    text += yaml.safe_dump(content, sort_keys=False, allow_unicode=True)
    files = by_name({"images/{part}/{name}.png": None, "labels/{part}/{name}.txt": _labels})
    note = "without --val, data.yaml names the training part as val: scores on it mean nothing"
    return Layout(files, {"data.yaml": text.encode()}, [] if has_val else [note])


def _labels(mask: np.ndarray) -> bytes:
    """A line per connected region: its class from 0, then x and y of the corners as shares of width and height."""
    lines = []
    for index, walk in _regions(mask):
        shares = inset_polygon(walk) / mask.shape[::-1]
        lines.append(" ".join([str(index - 1), *(f"{value:.8f}" for value in shares.ravel())]) + "\n")
    return "".join(lines).encode()


_palette_mask = partial(encode_png, palette=palette(MAX_TYPES))  # viewers show it in the project's colours

# mmengine puts the file's folder in place of fileDirname; label 0 is the background, a class of its own.
_DATALOADER = """{part}_dataloader = {{'dataset': {{'type': 'BaseSegDataset',
 'data_root': '{{{{ fileDirname }}}}',
 'data_prefix': {{'img_path': 'img_dir/{part}', 'seg_map_path': 'ann_dir/{part}'}},
 'img_suffix': '.png',
 'seg_map_suffix': '.png',
 'reduce_zero_label': False,
 'metainfo': METAINFO}}}}
"""


def mmseg(export: Export) -> Layout:
    """mmsegmentation: img_dir/ and ann_dir/ with index masks, and dataset.py to inherit from."""
    metainfo = {"classes": ("background", *export.label_map), "palette": palette(len(export.label_map)).tolist()}
    text = '"""A data set for mmsegmentation: name this file in `_base_` and add the rest, such as pipelines."""\n\n'
    text += f"METAINFO = {pformat(metainfo, sort_dicts=False, width=110)}\n"
    text += "".join(_DATALOADER.format(part=part) for part in export.parts)
    files = by_name({"img_dir/{part}/{name}.png": None, "ann_dir/{part}/{name}.png": _palette_mask})
    notes = [] if "val" in export.parts else ["without --val, dataset.py has no val_dataloader"]
    return Layout(files, {"dataset.py": text.encode()}, notes)


def mvtec(export: Export) -> Layout:
    """MVTec AD: defect-free images to train on, defects to test on, one 0/255 mask each."""
    top = export.object_name
    # MVTec AD's own folders first, so that a type of such a name gets another one.
    folders = dict(zip(export.label_map, safe_names(["good", "combined", *export.label_map])[2:], strict=True))

    def files(record: Record) -> dict[str, Any]:
        # anomalib pairs images and masks by their place in sorted lists, so no name may be the beginning of another.
        name = f"{record.origin}_{record.number:06d}"
        if record.sample.mask is None:
            return {f"{top}/{'test' if record.part == 'val' else 'train'}/good/{name}.png": None}
        if not record.types:  # nobody calls it defect-free
            return {}
        folder = folders[next(iter(record.types))] if len(record.types) == 1 else "combined"
        truth = f"{top}/ground_truth/{folder}/{name}_mask.png"
        return {f"{top}/test/{folder}/{name}.png": None, truth: lambda mask: encode_png(np.uint8(255) * (mask > 0))}

    notes = []
    if not any(record.sample.mask is None and record.origin == "real" for record in export.records):
        notes.append("train/good is missing: only --real can give defect-free images, and it gave none")
    if empty := sum(record.sample.mask is not None and not record.types for record in export.records):
        notes.append(f"left out: {empty} images with an empty mask, which are not known to be good")
    return Layout(files, {}, notes)


def hf(export: Export) -> Layout:
    """Hugging Face's imagefolder: metadata.jsonl beside the images of each part, and a dataset card."""
    folders = {"train": "train", "val": "validation"}  # as `datasets` knows parts by their folders
    index_files = {}
    for part, records in export.parts.items():
        text = ""
        for record in records:
            row = {"file_name": f"{record.name}.png", "mask_file_name": f"masks/{record.name}.png"}
            # `datasets` wants the same columns, of the same types, in all parts: none may be null.
            seed = "" if record.seed is None else str(record.seed)
            row |= {"types": list(record.types), "source": record.source, "seed": seed}
            text += json.dumps(row, ensure_ascii=False) + "\n"
        index_files[f"{folders[part]}/metadata.jsonl"] = text.encode()
    index_files["README.md"] = _card(export, [folders[part] for part in export.parts])
    files = by_name({"{part}/{name}.png": None, "{part}/masks/{name}.png": _palette_mask}, folders)
    return Layout(files, index_files)


_CARD = """---
{head}---

# Images of defects with masks

{generated} generated and {real} real images. The column `source` says which is which; `seed` is empty where there is \
none. Masks hold 0 for the background, {labels}. The licence is for the publisher to fill in.
"""
_SYNTHETIC = """
Generated images are **synthetic**: Defect-Gen, a pair of diffusion models, made them together with their masks.
Settings: `{settings}`
"""


def _card(export: Export, folders: list[str]) -> bytes:
    """The dataset card, README.md."""
    sources = Counter(record.source for record in export.records)
    generated, files = sources["generated"], [{"split": name, "path": f"{name}/**"} for name in folders]
    head = {"license": "unknown", "task_categories": ["image-segmentation"]}
    head["tags"] = ["synthetic"] * bool(generated) + ["defects", "industrial-inspection"]
    head["configs"] = [{"config_name": "default", "data_files": files}]
    labels = ", ".join(f"{index} for {name}" for name, index in export.label_map.items())
    words = {"head": yaml.safe_dump(head, sort_keys=False), "generated": generated, "real": sources["real"]}
    text = _CARD.format(**words, labels=labels)
    settings = json.dumps(export.settings) if export.settings else "not recorded"
    return (text + _SYNTHETIC.format(settings=settings) * bool(generated)).encode()


def defect_spectrum(export: Export) -> Layout:
    """The layout of Defect Spectrum's synthetic parts, which this project trains on too."""
    rows = [{"image": f"images/{r.name}.png", "source": r.source, "types": r.types} for r in export.records]
    masks = {"masks/{name}.png": lambda mask: encode_png(colorize(mask)), "masks_converted_dir/{name}.png": encode_png}
    content = {"dataset.json": as_json({"label_map": export.label_map, "images": rows})}
    return Layout(by_name({"images/{name}.png": None} | masks), content)


FORMATS = {form.__name__: form for form in (coco, yolo, mmseg, mvtec, hf, defect_spectrum)}
