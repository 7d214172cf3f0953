"""COCO annotations (VISION and others): polygons and RLE, several annotations an image, category ids of any kind."""

from __future__ import annotations

import unicodedata
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any

import blobfile as bf

from ...data.files import PARTS, list_folder, name_of, part_in, stem_of
from ...errors import InputError
from ...file_io import read_bytes, read_json
from .model import Dataset, Options, Sample, Shape, Shapes, is_coordinate, number_types

KEYS = {  # COCO's lists, and what their rows need
    "images": ("id", "file_name"),
    "annotations": ("image_id", "category_id"),
    "categories": ("id", "name"),
}
LOOKED_INTO = 8  # a folder with more JSON files than that is not one of annotation files


@dataclass(frozen=True)
class _File:
    """An annotation file, the part it is for, its checked content, and its categories' names by id."""

    path: str
    part: str | None
    content: dict[str, Any]
    names: dict[Any, str]


def find_coco(root: str) -> list[tuple[str, str | None]]:
    """(annotation file, part) of the data set at `root`: in it, in annotations/, or in train/, val/, ..."""
    parts = [name for name in list_folder(root)[1] if name.lower() in PARTS]
    found = [
        (path, part_in(bf.basename(path)))
        for folder in (root, bf.join(root, "annotations"))
        for path in _annotation_files(folder)
    ]
    return found + [(path, name.lower()) for name in parts for path in _annotation_files(bf.join(root, name))]


def _annotation_files(folder: str) -> list[str]:
    files = list_folder(folder, (".json",))[0] if bf.isdir(folder) else []
    paths = [bf.join(folder, name) for name in files]
    sure = [path for path in paths if path.lower().endswith(".coco.json")]
    if sure or len(paths) > LOOKED_INTO:
        return sure
    return [path for path in paths if _looks_like_coco(path)]


def _looks_like_coco(path: str) -> bool:
    """Whether a file has the names of COCO's lists; damaged ones count, so that the reader can say what is wrong."""
    try:
        data = read_bytes(path)
    except OSError:
        return False
    return all(f'"{key}"'.encode() in data for key in KEYS)


def read_coco(root: str, options: Options) -> Dataset:
    """The images of all annotation files; without annotations they are defect-free. Types follow the category ids."""
    data = Dataset(root, "coco")
    files = [_open(path, part, data.problems) for path, part in find_coco(root)]
    types: dict[str, str] = {}  # and the file that uses it
    for file in files:
        used = {annotation["category_id"] for annotation in file.content["annotations"]}
        for key in sorted(used & set(file.names), key=_id_key):
            types.setdefault(file.names[key], file.path)
    own = {name: index for index, name in enumerate(types, 1)}
    data.label_map = number_types(types, options.label_map or own, data.problems)
    stems = Counter(stem_of(image["file_name"]) for file in files for image in file.content["images"])
    listed: dict[str, str] = {}
    for file in files:
        shapes = _shapes_by_image(file, data)
        find = _finder(root, file)
        for image in file.content["images"]:
            path = find(image["file_name"])
            if path is None:
                data.problems.append(
                    f"{file.path}: lists {image['file_name']}, which is not there; add it or correct the list"
                )
            elif first := listed.get(path):
                where = "" if first == file.path else f" and in {first}"
                data.problems.append(f"{file.path}: lists {path} twice{where}; list it once")
            else:
                listed[path] = file.path
                _add(path, image, file, shapes[image["id"]], stems, data)
    return data


def _id_key(key: int | str) -> tuple[str, int | str]:
    return ("str" if isinstance(key, str) else "", key)


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
    return _File(path, part, content, names)


def _shapes_by_image(file: _File, data: Dataset) -> dict[Any, list[Shape]]:
    """The shapes of each image by its id."""
    images: dict[Any, str] = {}
    for image in file.content["images"]:
        if image["id"] in images:
            data.problems.append(f"{file.path}: two images have the id {image['id']}; correct it")
        images[image["id"]] = image["file_name"]
    shapes: dict[Any, list[Shape]] = {key: [] for key in images}
    for annotation in file.content["annotations"]:
        where = f"{file.path}: annotation {annotation.get('id')}"
        owner, category = annotation["image_id"], annotation["category_id"]
        if owner not in images:
            data.problems.append(f"{where} is of image {owner}, which the file does not list; correct it")
        elif category not in file.names:
            data.problems.append(f"{where} is of category {category}, which the file does not list; correct it")
        elif file.names[category] in data.label_map:
            shape = _shape(annotation.get("segmentation"), data.label_map[file.names[category]])
            if shape is None:
                data.problems.append(f"{where} on {images[owner]} has no polygon or RLE; draw or remove it")
            else:
                shapes[owner].append(shape)
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


def _add(
    path: str, image: dict[str, Any], file: _File, shapes: list[Shape], stems: Counter[str], data: Dataset
) -> None:
    folders = [folder for folder in _words(image["file_name"])[:-1] if folder != file.part]
    prefix = "_".join([file.part, *folders] if file.part else folders)
    height, width = image.get("height"), image.get("width")
    size = (height, width) if isinstance(height, int) and isinstance(width, int) else None
    mask = Shapes(file.path, tuple(shapes), size) if shapes else None
    sample = Sample(path, mask, None, name_of(stem_of(path), prefix, stems), file.part)
    (data.samples if mask else data.good).append(sample)


def _words(file_name: str) -> list[str]:
    """The folders and the file that a file_name of any system names; where they start is not kept."""
    words = unicodedata.normalize("NFC", file_name).replace("\\", "/").split("/")
    return [word for word in words if word not in ("", ".", "..")]


def _finder(root: str, file: _File) -> Callable[[str], str | None]:
    """A function from file_name to the image's path, or None: beside the annotations, or in the images' folder.

    Folders of another part are not looked at: their files may have the same names.
    """
    folder = bf.dirname(file.path)
    bases = [folder] if bf.basename(folder) != "annotations" else [folder, root]
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
        for given in (words, words[-1:]):
            for home in homes:
                if given and (path := images_in(bf.join(home, *given[:-1])).get(given[-1])):
                    return path
        return None

    return find
