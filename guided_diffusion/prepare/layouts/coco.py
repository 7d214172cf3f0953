"""COCO annotations (VISION and others): polygons and RLE, several annotations an image, category ids of any kind."""

from __future__ import annotations

import unicodedata
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from functools import cache
from typing import Any, NamedTuple

import blobfile as bf

from ...data.files import PARTS, list_folder, name_of, part_in, stem_of
from ...data.prepared import Sample
from ...errors import InputError
from ...file_io import read_bytes, read_json
from .model import Dataset, Options, Shape, Shapes, is_coordinate

KEYS = {  # COCO's lists, and what their rows need
    "images": ("id", "file_name"),
    "annotations": ("image_id", "category_id"),
    "categories": ("id", "name"),
}
LOOKED_INTO = 8  # a folder with more JSON files than that is not one of annotation files


class _File(NamedTuple):
    """An annotation file, the part it is for, its checked lists, and its categories' names by id."""

    path: str
    part: str | None
    images: list[dict[str, Any]]
    annotations: list[dict[str, Any]]
    names: dict[Any, str]


def find_coco(root: str) -> list[tuple[str, str | None]]:
    """(annotation file, part) of the data set at `root`: in it, in annotations/, or in train/, val/, ..."""
    homes = {root: None, bf.join(root, "annotations"): None}
    homes |= {bf.join(root, name): name.lower() for name in list_folder(root)[1] if name.lower() in PARTS}
    return [(path, part or part_in(bf.basename(path))) for home, part in homes.items() for path in _candidates(home)]


def _candidates(folder: str) -> list[str]:
    """The annotation files in a folder; damaged ones count, so that the reader can say what is wrong."""
    paths = [bf.join(folder, name) for name in list_folder(folder, (".json",))[0]] if bf.isdir(folder) else []
    sure = [path for path in paths if path.lower().endswith(".coco.json")]
    if sure or len(paths) > LOOKED_INTO:
        return sure
    found = []
    for path in paths:
        with suppress(OSError):
            data = read_bytes(path)
            found += [path] * all(f'"{key}"'.encode() in data for key in KEYS)
    return found


def read_coco(root: str, options: Options) -> Dataset:
    """The images of all annotation files; without annotations they are defect-free. Types follow the category ids."""
    data = Dataset(root, "coco")
    files = [_open(path, part, data.problems) for path, part in find_coco(root)]
    types: dict[str, str] = {}  # and the file that uses it
    for file in files:
        used = {annotation["category_id"] for annotation in file.annotations} & set(file.names)
        for key in sorted(used, key=lambda key: (isinstance(key, str), key)):
            types.setdefault(file.names[key], file.path)
    data.number_types(types, options.label_map or {name: index for index, name in enumerate(types, 1)})
    stems = Counter(stem_of(image["file_name"]) for file in files for image in file.images)
    listed: dict[str, str] = {}
    for file in files:
        shapes = _shapes_by_image(file, data)
        find = _finder(root, file)
        for image in file.images:
            path = find(image["file_name"])
            if path is None:
                problem = f"lists {image['file_name']}, which is not there; add it or correct the list"
                data.problems.append(f"{file.path}: {problem}")
                continue
            if first := listed.get(path):
                where = "" if first == file.path else f" and in {first}"
                data.problems.append(f"{file.path}: lists {path} twice{where}; list it once")
                continue
            listed[path] = file.path
            folders = [file.part, *(folder for folder in _words(image["file_name"])[:-1] if folder != file.part)]
            name = name_of(stem_of(path), "_".join(filter(None, folders)), stems)
            size = image.get("height"), image.get("width")
            size = size if all(isinstance(side, int) for side in size) else None
            drawn = shapes[image["id"]]
            mask = Shapes(file.path, tuple(drawn), size) if drawn else None
            (data.samples if mask else data.good).append(Sample(path, mask, None, name, file.part))
    return data


def _open(path: str, part: str | None, problems: list[str]) -> _File:
    """A COCO file, its lists checked for what is needed. Raises InputError."""
    content = read_json(path)
    for key, fields in KEYS.items():
        rows = content.get(key) if isinstance(content, dict) else None
        if not isinstance(rows, list):
            raise InputError(f"{path}: has no list '{key}', so it is no COCO file; correct or remove it")
        for number, row in enumerate(rows):
            if not isinstance(row, dict) or any(field not in row for field in fields):
                raise InputError(f"{path}: {key}[{number}] lacks {' or '.join(fields)}; correct it")
            plain = all(isinstance(row.get(field, 0), (int, str)) for field in ("id", "image_id", "category_id"))
            if not plain or not all(isinstance(row.get(field, ""), str) for field in ("file_name", "name")):
                raise InputError(f"{path}: {key}[{number}] has an id or name of the wrong kind; correct it")
    names: dict[Any, str] = {}
    for category in content["categories"]:
        if names.setdefault(category["id"], category["name"]) != category["name"]:
            problems.append(f"{path}: two categories have the id {category['id']}; correct it")
    return _File(path, part, content["images"], content["annotations"], names)


def _shapes_by_image(file: _File, data: Dataset) -> dict[Any, list[Shape]]:
    """The shapes of each image by its id."""
    images = {image["id"]: image["file_name"] for image in file.images}
    ids = Counter(image["id"] for image in file.images)
    data.problems += [f"{file.path}: two images have the id {key}; correct it" for key in ids if ids[key] > 1]
    shapes: dict[Any, list[Shape]] = {key: [] for key in images}
    for annotation in file.annotations:
        where = f"{file.path}: annotation {annotation.get('id')}"
        owner, category = annotation["image_id"], annotation["category_id"]
        if owner not in images:
            data.problems.append(f"{where} is of image {owner}, which the file does not list; correct it")
        elif category not in file.names:
            data.problems.append(f"{where} is of category {category}, which the file does not list; correct it")
        elif index := data.label_map.get(file.names[category]):
            if shape := _shape(annotation.get("segmentation"), index):
                shapes[owner].append(shape)
            else:
                data.problems.append(f"{where} on {images[owner]} has no polygon or RLE; draw or remove it")
    return shapes


def _shape(drawn: Any, index: int) -> Shape | None:
    """An annotation's shape; None where it has none, or a broken one."""
    if isinstance(drawn, dict):
        size, counts = drawn.get("size"), drawn.get("counts")
        valid = isinstance(size, list) and len(size) == 2 and isinstance(counts, (list, str))
        return Shape(index, "rle", {"size": tuple(size), "counts": counts}) if valid else None
    if not isinstance(drawn, list) or not drawn:
        return None
    rings = drawn if isinstance(drawn[0], list) else [drawn]
    for ring in rings:
        if not isinstance(ring, list) or not all(map(is_coordinate, ring)) or len(ring) < 6 or len(ring) % 2:
            return None
    return Shape(index, "rings", tuple(tuple(map(float, ring)) for ring in rings))


def _words(file_name: str) -> list[str]:
    """The folders and the file that a file_name of any system names; where they start is not kept."""
    words = unicodedata.normalize("NFC", file_name).replace("\\", "/").split("/")
    return [word for word in words if word not in ("", ".", "..")]


def _finder(root: str, file: _File) -> Callable[[str], str | None]:
    """A function from file_name to the image's path, or None: beside the annotations, or in the images' folder.

    Folders of another part are not looked at: their files may have the same names.
    """
    folder = bf.dirname(file.path)
    bases = [folder, root] if bf.basename(folder) == "annotations" else [folder]
    homes = [home for base in bases for home in (base, bf.join(base, "images")) if bf.isdir(home)]
    if file.part:
        own = [bf.join(home, name) for home in homes for name in list_folder(home)[1] if part_in(name) == file.part]
        homes = own + homes

    @cache
    def images_in(folder: str) -> dict[str, str]:
        names = list_folder(folder)[0] if bf.isdir(folder) else []
        return {unicodedata.normalize("NFC", name): bf.join(folder, name) for name in names}

    def find(file_name: str) -> str | None:
        words = _words(file_name)
        places = [(home, given) for given in (words, words[-1:]) for home in homes if given]
        found = (images_in(bf.join(home, *given[:-1])).get(given[-1]) for home, given in places)
        return next(filter(None, found), None)

    return find
