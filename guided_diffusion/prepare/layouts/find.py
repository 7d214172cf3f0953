"""Which layout a folder has, and what is in it: the one door to data sets on disk."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from itertools import pairwise
from typing import Any

import blobfile as bf

from ...data.files import list_folder, natural_key
from ...errors import InputError, unknown_name
from ...file_io import read_json
from .coco import find_coco, read_coco
from .folder_pairs import INDEX_PAIRS, OPEN_PAIRS, check_incomplete, complete, read_index_pair, read_open_pair
from .labelme import is_labelme, read_labelme
from .model import Dataset, Options, Sample
from .typed_folders import DAGM_CLASS, DAGM_PARTS, read_dagm, read_flat, read_mvtec, read_type_folders

DATASET_FILE = "dataset.json"
TRAIN = "train"
UNFINISHED_FILE = "dataset.unfinished.json"  # stands in its place while the data set is being written
READERS = {
    "mvtec": read_mvtec,
    "coco": read_coco,
    "dagm": read_dagm,
    "labelme": read_labelme,
    "type_folders": read_type_folders,
    "flat": read_flat,
}
FORMATS = (*(name for name, _, _ in INDEX_PAIRS), "images_masks", *READERS)


def read_layout(root: str, options: Options | None = None, *, format: str = "auto") -> Dataset:
    """What the data set at `root` holds, in type folders' and names' natural order. Reads names and annotations only.

    options: what the user says; a label map in `<root>/dataset.json` counts where they give none. format: one of
    FORMATS, or "auto". Files that do not fit are in the result's `problems`. Raises InputError where `root` is missing,
    holds no layout or several, or its annotations cannot be read.
    """
    options = options or Options()
    if format not in (*FORMATS, "auto"):
        raise InputError(f"--format: {unknown_name('format', format, FORMATS)}")
    if not bf.isdir(root):
        problem = "is not a folder" if bf.exists(root) else "does not exist"
        raise InputError(f"{root}: {problem}; name a data folder (docs/data.md has the layouts)")
    if bf.exists(bf.join(root, UNFINISHED_FILE)):
        raise InputError(f"{root}: its preparation did not finish; run scripts/prepare_data.py again, it goes on")
    if options.label_map is None and (own := _own_label_map(root)):
        options = replace(options, label_map=own)
    data = _read(root, detect(root) if format == "auto" else format, options)
    for samples in (data.samples, data.good):
        samples.sort(key=_order)
        for first, second in pairwise(samples):
            if first.name == second.name:
                data.problems.append(f"{second.image}: has the same type and stem as {first.image}; rename one")
    data.label_map = data.label_map or None
    if not (data.samples or data.good or data.problems):
        data.problems.append(f"{root}: holds no images of format {data.format}; see docs/data.md")
    return data


def _order(sample: Sample) -> tuple:
    """Those in no type folder first, then by folder and name: the order in which the released layout lists them."""
    return (sample.folder is not None, natural_key(sample.folder or ""), natural_key(sample.name))


def _read(root: str, format: str, options: Options) -> Dataset:
    folders = list_folder(root)[1]
    if format in READERS:
        if format == "mvtec" and not {"test", "ground_truth"} <= set(folders):
            raise InputError(
                f"{root}: holds no test/ and ground_truth/, so it is not MVTec AD; choose another --format"
            )
        return READERS[format](root, options)
    if format == "images_masks":
        pairs = complete(OPEN_PAIRS, folders)
        if not pairs:
            known = ", ".join(f"{images}/ + {masks}/" for images, masks in OPEN_PAIRS)
            raise InputError(f"{root}: holds none of {known}; choose another --format")
        return read_open_pair(root, *pairs[0], options)
    pair = next(pair for pair in INDEX_PAIRS if pair[0] == format)
    if not complete([pair], folders):
        raise InputError(f"{root}: holds no {pair[1]}/ and {pair[2]}/; choose another --format")
    return read_index_pair(root, *pair, options)


def detect(root: str) -> str:
    """The format of the data set at `root`, one of FORMATS. Raises InputError where there is none, or several."""
    folders = list_folder(root)[1]
    index_pairs = complete(INDEX_PAIRS, folders)
    taken = {images for _, images, _ in index_pairs}
    open_pairs = [("images_masks", *pair) for pair in complete(OPEN_PAIRS, folders) if pair[0] not in taken]
    if len(index_pairs + open_pairs) > 1:
        found = ", ".join(f"{images}/ + {masks}/" for _, images, masks in index_pairs + open_pairs)
        raise InputError(f"{root}: holds more than one data set ({found}); give each its own folder")
    if index_pairs:
        return index_pairs[0][0]
    if strong := _strong(root, folders):
        return strong
    check_incomplete(root, folders)
    for name in folders:
        inner = bf.join(root, name)
        inside = list_folder(inner)[1]
        if complete(INDEX_PAIRS, inside) or _strong(inner, inside) in ("mvtec", "coco", "dagm"):
            raise InputError(f"{root}: holds no data set itself; did you mean {inner}?")
    loose = [name for name in ("type_folders", "flat") if READERS[name](root, Options()).samples]
    if len(loose) > 1:
        raise InputError(f"{root}: holds images beside their masks, and folders of such; give each its own folder")
    if loose:
        return loose[0]
    known = ", ".join(f"{images}/ + {masks}/" for _, images, masks in INDEX_PAIRS)
    raise InputError(
        f"{root}: holds no data set (looked for {known}, MVTec AD, COCO, DAGM, labelme, images/ + masks/ and folders "
        "of images beside their masks); see docs/data.md, or name it with scripts/prepare_data.py --format"
    )


def _strong(root: str, folders: list[str]) -> str | None:
    """The format, where folder names or annotation files leave no doubt."""
    if {"test", "ground_truth"} <= set(folders):
        return "mvtec"
    if find_coco(root):
        return "coco"
    labelled = [part for part in DAGM_PARTS if part in folders and "Label" in list_folder(bf.join(root, part))[1]]
    classes = [name for name in folders if DAGM_CLASS.fullmatch(name)]
    if labelled or any(set(DAGM_PARTS) & set(list_folder(bf.join(root, name))[1]) for name in classes):
        return "dagm"
    if complete(OPEN_PAIRS, folders):
        return "images_masks"
    return "labelme" if is_labelme(root) else None


def find_samples(root: str, label_map: Mapping[str, int] | None = None) -> list[Sample]:
    """Every image of the data set at `root` with a mask, by type folder and name in natural order.

    Of a layout with parts (train, val) these are the ones that train. label_map: the indices of types that folders or
    annotations name; None: the data set's own. Raises InputError as read_layout, and where a file does not fit or there
    is no sample.
    """
    data = read_layout(root, Options(label_map))
    data.check()
    if not data.samples:
        raise InputError(f"{root}: holds defect-free images only; add some with defects")
    return _training_part(data.samples, data)


def _training_part(samples: list[Sample], data: Dataset) -> list[Sample]:
    """Those of the samples that are for training: all, unless the layout has a part of that name."""
    if all(sample.part != TRAIN for sample in data.samples):
        return samples
    return [sample for sample in samples if sample.part == TRAIN]


def find_good(root: str) -> list[Sample]:
    """The defect-free images of the data set at `root`, in natural order. Raises InputError as read_layout."""
    data = read_layout(root)
    return _training_part(data.good, data)


def read_label_map(root: str) -> dict[str, int] | None:
    """The label map {type name: index from 1} of the data set at `root`: that of its dataset.json, else what its
    layout tells; None where neither does, or there is no data set.

    Raises InputError if dataset.json is there but its label map is not one.
    """
    own = _own_label_map(root)
    if own or not bf.isdir(root):
        return own
    try:
        return read_layout(root).label_map
    except InputError:
        return None


def _own_label_map(root: str) -> dict[str, int] | None:
    path = bf.join(root, DATASET_FILE)
    if not bf.exists(path):
        return None
    content = read_json(path)
    if not isinstance(content, dict):
        raise InputError(f"{path}: should hold a JSON object; mend or remove it")
    label_map = content.get("label_map")
    return None if label_map is None else check_label_map(label_map, path)


def check_label_map(label_map: Any, source: str) -> dict[str, int]:
    """`label_map` itself if it maps names to the indices 1..N, each once; else InputError naming `source`."""
    valid = isinstance(label_map, dict) and all(type(index) is int for index in label_map.values())
    if not valid or not label_map or sorted(label_map.values()) != list(range(1, len(label_map) + 1)):
        raise InputError(f"{source}: label_map should number the types 1, 2, ... but is {label_map!r}")
    return label_map
