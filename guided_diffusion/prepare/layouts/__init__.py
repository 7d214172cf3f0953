"""Layouts in which labelled images lie on disk: a reader each, and the drawing of their masks as index masks.

`read_layout` says which layout a folder has (docs/data.md shows them) and returns its samples, image and mask paired by
name; drawing.py reads their pixels.
"""

from __future__ import annotations

from dataclasses import replace

import blobfile as bf

from ...data.files import list_folder
from ...data.prepared import arrange, check_folder, read_label_map
from ...errors import InputError, unknown_name
from .coco import find_coco, read_coco
from .folder_pairs import INDEX_PAIRS, OPEN_PAIRS, complete, listed, read_folders
from .labelme import is_labelme, read_labelme
from .model import ColourMask, Dataset, Options, Shapes, TypeMasks
from .typed_folders import is_dagm, read_dagm, read_flat, read_mvtec, read_type_folders

__all__ = ["FORMATS", "ColourMask", "Dataset", "Options", "Shapes", "TypeMasks", "read_layout"]

READERS = {
    "mvtec": read_mvtec,
    "coco": read_coco,
    "dagm": read_dagm,
    "labelme": read_labelme,
    "type_folders": read_type_folders,
    "flat": read_flat,
}
FORMATS = (*(format for format, _, _ in INDEX_PAIRS), "images_masks", *READERS)
MVTEC = ("mvtec", "test", "ground_truth")


def read_layout(root: str, options: Options | None = None, *, format: str = "auto") -> Dataset:
    """What the data set at `root` holds, in type folders' and names' natural order. Reads names and annotations only.

    options: what the user says; a label map in `<root>/dataset.json` counts where they give none. format: one of
    FORMATS, or "auto". Files that do not fit are in the result's `problems`. Raises InputError where `root` is missing,
    holds no layout or several, or its annotations cannot be read.
    """
    options = options or Options()
    if format not in (*FORMATS, "auto"):
        raise InputError(f"--format: {unknown_name('format', format, FORMATS)}")
    check_folder(root)
    if options.label_map is None and (own := read_label_map(root)):
        options = replace(options, label_map=own)
    format = _detect(root) if format == "auto" else format
    pairs = [pair for pair in (*INDEX_PAIRS, *OPEN_PAIRS, MVTEC) if pair[0] == format]
    there = complete(pairs, list_folder(root)[1])
    if pairs and not there:
        raise InputError(f"{root}: holds none of {listed(pairs)}; choose another --format")
    data = READERS[format](root, options) if format in READERS else read_folders(root, *there[0], options)
    for samples in (data.samples, data.good):
        arrange(samples, data.problems)
    data.label_map = dict(data.label_map) if data.label_map else None
    if not (data.samples or data.good or data.problems):
        data.problems.append(f"{root}: holds no images of format {data.format}; see docs/data.md")
    return data


def _detect(root: str) -> str:
    """The format of the data set at `root`. Raises InputError where there is none, or several."""
    folders = list_folder(root)[1]
    pairs = complete(INDEX_PAIRS, folders)
    taken = {images for _, images, _ in pairs}
    pairs += [pair for pair in complete(OPEN_PAIRS, folders) if pair[1] not in taken]
    if len(pairs) > 1:
        raise InputError(f"{root}: holds more than one data set ({listed(pairs)}); give each its own folder")
    if taken:
        return pairs[0][0]
    if sure := _told_by_names(root, folders):
        return sure
    known = listed(INDEX_PAIRS)
    for _, *pair in (*INDEX_PAIRS, *OPEN_PAIRS):
        for one, other in (pair, pair[::-1]):
            if one in folders:
                raise InputError(f"{root}: holds {one}/ but no {other}/ beside it (looked for {known})")
    for name in folders:
        inner = bf.join(root, name)
        inside = list_folder(inner)[1]
        if complete(INDEX_PAIRS, inside) or _told_by_names(inner, inside) in ("mvtec", "coco", "dagm"):
            raise InputError(f"{root}: holds no data set itself; did you mean {inner}?")
    loose = [name for name in ("type_folders", "flat") if READERS[name](root, Options()).samples]
    if len(loose) > 1:
        raise InputError(f"{root}: holds images beside their masks, and folders of such; give each its own folder")
    if loose:
        return loose[0]
    raise InputError(
        f"{root}: holds no data set (looked for {known}, MVTec AD, COCO, DAGM, labelme, images/ + masks/ "
        "and folders of images beside their masks); see docs/data.md, or name it with scripts/prepare_data.py --format"
    )


def _told_by_names(root: str, folders: list[str]) -> str | None:
    """The format, where folder names or annotation files leave no doubt."""
    if complete([MVTEC], folders):
        return "mvtec"
    if find_coco(root):
        return "coco"
    if is_dagm(root, folders):
        return "dagm"
    if complete(OPEN_PAIRS, folders):
        return "images_masks"
    return "labelme" if is_labelme(root) else None
