"""COCO annotations (VISION and others): polygons and RLE, several annotations an image, category ids of any kind."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

import blobfile as bf

from ..errors import InputError
from ..file_io import read_json
from .files import list_folder, stem_of
from .folder_pairs import PARTS
from .model import Dataset, Options, Sample, Shape, Shapes, number_types

NAMES = ("_annotations.coco.json", "annotations.json", "coco.json")
KEYS = ("images", "annotations", "categories")


def find_coco(root: str) -> list[tuple[str, str | None]]:
    """(annotation file, part) of the data set at `root`: in it, in train/, val/, ..., or in annotations/."""
    found = [(path, None) for path in _annotation_files(root)]
    for name in list_folder(root)[1]:
        if name.lower() in PARTS:
            found += [(path, name.lower()) for path in _annotation_files(bf.join(root, name))]
    folder = bf.join(root, "annotations")
    for name in list_folder(folder, (".json",))[0] if bf.isdir(folder) else ():
        if is_coco(bf.join(folder, name)):
            found.append((bf.join(folder, name), next((part for part in PARTS if part in name.lower()), None)))
    return found


def _annotation_files(folder: str) -> list[str]:
    files = list_folder(folder, (".json",))[0]
    return [bf.join(folder, name) for name in files if name.lower() in NAMES or name.lower().endswith(".coco.json")]


def is_coco(path: str) -> bool:
    """Whether a JSON file has COCO's lists."""
    try:
        content = read_json(path)
    except InputError:
        return False
    return isinstance(content, dict) and all(isinstance(content.get(key), list) for key in KEYS)


def read_coco(root: str, options: Options) -> Dataset:
    """The images of all annotation files; without annotations they are defect-free. Types follow the category ids."""
    data = Dataset(root, "coco")
    parts = [(path, part, _content(path)) for path, part in find_coco(root)]
    names: dict[Any, str] = {}  # by id, over all files
    for path, _, content in parts:
        for category in content["categories"]:
            known = names.setdefault(category["id"], str(category["name"]))
            if known != str(category["name"]):
                data.problems.append(f"{path}: category {category['id']} is {category['name']}, elsewhere {known}")
    used = {annotation["category_id"] for _, _, content in parts for annotation in content["annotations"]}
    ordered = [names[key] for key in sorted(names, key=lambda key: (str(type(key)), key)) if key in used]
    own = {name: index for index, name in enumerate(dict.fromkeys(ordered), 1)}
    data.label_map = number_types(own, options.label_map or own, root, data.problems)
    stems = Counter(stem_of(image["file_name"]) for _, _, content in parts for image in content["images"])
    for path, part, content in parts:
        _read_part(path, part, content, names, stems, data)
    return data


def _content(path: str) -> dict[str, Any]:
    """A COCO file's content, its lists checked for the keys that are needed. Raises InputError."""
    content = read_json(path)
    needed = {
        "images": ("id", "file_name"),
        "annotations": ("image_id", "category_id"),
        "categories": ("id", "name"),
    }
    for key, fields in needed.items():
        rows = content.get(key) if isinstance(content, dict) else None
        if not isinstance(rows, list):
            raise InputError(f"{path}: has no list '{key}', so it is no COCO file; correct or remove it")
        for number, row in enumerate(rows):
            if not isinstance(row, dict) or any(field not in row for field in fields):
                raise InputError(f"{path}: {key}[{number}] lacks {' or '.join(fields)}; correct it")
            plain = all(isinstance(row.get(field, 0), (int, str)) for field in ("id", "image_id", "category_id"))
            if not plain or not isinstance(row.get("file_name", ""), str):
                raise InputError(f"{path}: {key}[{number}] has an id or file_name of the wrong kind; correct it")
    return content


def _read_part(
    path: str, part: str | None, content: dict[str, Any], names: dict[Any, str], stems: Counter[str], data: Dataset
) -> None:
    by_id: dict[Any, dict[str, Any]] = {}
    for image in content["images"]:
        if by_id.setdefault(image["id"], image) is not image:
            data.problems.append(f"{path}: two images have the id {image['id']}; correct it")
    shapes: dict[Any, list[Shape]] = {key: [] for key in by_id}
    for annotation in content["annotations"]:
        where = f"{path}: annotation {annotation.get('id')}"
        owner, category = annotation["image_id"], annotation["category_id"]
        if owner not in by_id:
            data.problems.append(f"{where} is of image {owner}, which the file does not list; correct it")
        elif category not in names:
            data.problems.append(f"{where} is of category {category}, which the file does not list; correct it")
        elif names[category] in data.label_map:
            shape = _shape(annotation, data.label_map[names[category]])
            if shape is None:
                data.problems.append(f"{where} on {by_id[owner]['file_name']} has no polygon or RLE; draw or remove it")
            else:
                shapes[owner].append(shape)
    files = _files_by_name(path, part)
    paths: dict[str, list[Shape]] = {}
    sizes: dict[str, tuple[int, int] | None] = {}
    for key, image in by_id.items():
        file = files(image["file_name"])
        if file is None:
            data.problems.append(f"{path}: lists {image['file_name']}, which is not there; add it or correct the list")
            continue
        paths.setdefault(file, []).extend(shapes[key])  # one file may be listed twice
        height, width = image.get("height"), image.get("width")
        sizes[file] = (height, width) if isinstance(height, int) and isinstance(width, int) else None
    for file, own in paths.items():
        name = f"{part}_{stem_of(file)}" if part and stems[stem_of(file)] > 1 else ""
        mask = Shapes(path, tuple(own), sizes[file]) if own else None
        (data.samples if own else data.good).append(Sample(file, mask, None, name, part))


def _shape(annotation: dict[str, Any], index: int) -> Shape | None:
    """An annotation's shape; None where it has none, or a broken one."""
    drawn = annotation.get("segmentation")
    if isinstance(drawn, dict):
        size, counts = drawn.get("size"), drawn.get("counts")
        valid = isinstance(size, list) and len(size) == 2 and isinstance(counts, (list, str))
        return Shape(index, "rle", {"size": tuple(size), "counts": counts}) if valid else None
    if not isinstance(drawn, list) or not drawn:
        return None
    rings = [drawn] if all(isinstance(value, (int, float)) for value in drawn) else drawn
    for ring in rings:
        numbers = isinstance(ring, list) and all(isinstance(value, (int, float)) for value in ring)
        if not numbers or len(ring) < 6 or len(ring) % 2:
            return None
    return Shape(index, "rings", tuple(tuple(map(float, ring)) for ring in rings))


def _files_by_name(path: str, part: str | None) -> Callable[[str], str | None]:
    """A function from file_name to the image's path, or None: beside the annotations, or in the images' folder.

    Folders of another part are not looked at: their files may have the same names.
    """
    folder = bf.dirname(path)
    homes = [folder, bf.join(folder, "images")]
    if bf.basename(folder) == "annotations":
        above = bf.dirname(folder)
        homes += [above, bf.join(above, "images")]
        for home in [home for home in (above, bf.join(above, "images")) if part and bf.isdir(home)]:
            homes += [bf.join(home, name) for name in list_folder(home)[1] if part in name.lower()]
    homes = [home for home in homes if bf.isdir(home)]

    def find(name: str) -> str | None:
        candidates = [bf.join(home, given) for given in dict.fromkeys((name, bf.basename(name))) for home in homes]
        return next((candidate for candidate in candidates if bf.exists(candidate)), None)

    return find
