"""labelme: a JSON file beside each image, with polygons, rectangles, circles, lines, points and bitmaps."""

from __future__ import annotations

import math
from typing import Any

import blobfile as bf

from ..errors import InputError
from ..file_io import read_json
from .files import by_stem, list_folder, stem_of
from .model import BACKGROUND, IGNORED, Dataset, Options, Sample, Shape, Shapes, number_types

POINTS = {"polygon": 3, "rectangle": 2, "circle": 2, "point": 1, "line": 2, "linestrip": 2, "mask": 2}  # at least
SPECIAL = {"_background_": BACKGROUND, "__ignore__": IGNORED}  # labelme's own


def is_labelme(root: str) -> bool:
    """Whether some JSON file in `root`, or in a folder in it, has labelme's shapes. Looks at the first of each."""
    for folder in (root, *(bf.join(root, name) for name in list_folder(root)[1])):
        files = list_folder(folder, (".json",))[0]
        for name in files[:3]:
            try:
                content = read_json(bf.join(folder, name))
            except (InputError, OSError):
                continue
            if isinstance(content, dict) and isinstance(content.get("shapes"), list):
                return True
    return False


def read_labelme(root: str, options: Options) -> Dataset:
    """The annotated images in `root` and in the folders in it; a file without shapes is a defect-free image.

    An image belongs to the JSON file of its stem, else to the one whose imagePath names it; one that lies nowhere is
    taken from the file, if it embeds it. Images without a JSON file are left out, with a note.
    """
    data = Dataset(root, "labelme")
    found: list[tuple[str, str, str | None, dict[str, Any]]] = []
    for folder_name in (None, *list_folder(root)[1]):
        folder = bf.join(root, folder_name) if folder_name else root
        images = by_stem(folder, list_folder(folder)[0], data.problems)
        left = dict(images)
        for name in list_folder(folder, (".json",))[0]:
            path = bf.join(folder, name)
            content = _content(path, data)
            if content is None:
                continue
            image = images.get(stem_of(name)) or images.get(_image_stem(content))
            if image is None and content.get("imageData"):
                image = path
            if image is None:
                data.problems.append(f"{path}: no image of that name beside it; add it or remove the file")
                continue
            if left.pop(stem_of(image), None) is None and image != path:
                data.problems.append(f"{image}: annotated twice, the second time in {path}; remove one")
                continue
            found.append((image, path, folder_name, content))
        if left and len(left) < len(images):
            data.notes.append(f"{len(left)} images in {folder} have no JSON file beside them: left out")
    labels = {shape["label"] for _, _, _, content in found for shape in content["shapes"]} - set(SPECIAL)
    data.label_map = number_types(labels, options.label_map, root, data.problems)
    for image, path, folder, content in found:
        indices = {**SPECIAL, **data.label_map}
        shapes = tuple(
            _shape(shape, indices[shape["label"]]) for shape in content["shapes"] if shape["label"] in indices
        )
        sizes = content.get("imageHeight"), content.get("imageWidth")
        size = sizes if all(isinstance(side, int) for side in sizes) else None
        mask = Shapes(path, shapes, size) if any(shape.index > 0 for shape in shapes) else None
        (data.samples if mask else data.good).append(Sample(image, mask, folder))
    return data


def _image_stem(content: dict[str, Any]) -> str:
    return stem_of(str(content.get("imagePath") or "").replace("\\", "/"))


def _content(path: str, data: Dataset) -> dict[str, Any] | None:
    """A labelme file's content, its shapes checked; None, and a problem, where it is none."""
    try:
        content = read_json(path)
    except InputError as error:
        data.problems.append(str(error))
        return None
    shapes = content.get("shapes") if isinstance(content, dict) else None
    if not isinstance(shapes, list):
        data.problems.append(f"{path}: has no list 'shapes', so it is no labelme file; correct or remove it")
        return None
    for number, shape in enumerate(shapes):
        if wrong := _wrong(shape):
            data.problems.append(f"{path}: shapes[{number}] {wrong}; correct it in labelme")
            return None
    return content


def _wrong(shape: Any) -> str | None:
    """What is wrong with a shape, if anything."""
    if not isinstance(shape, dict) or not isinstance(shape.get("label"), str) or not shape["label"]:
        return "has no label"
    kind, points = shape.get("shape_type") or "polygon", shape.get("points")
    if kind not in POINTS:
        return f"is a {kind!r}, known are {', '.join(POINTS)}"
    if not isinstance(points, list) or not all(_is_point(point) for point in points):
        return "has no list of points [x, y]"
    if len(points) < POINTS[kind]:
        return f"is a {kind} of {len(points)} points, but needs {POINTS[kind]}"
    if kind == "mask" and not isinstance(shape.get("mask"), str):
        return "is a mask without its bitmap"
    return None


def _is_point(point: Any) -> bool:
    return (
        isinstance(point, list)
        and len(point) == 2
        and all(isinstance(value, (int, float)) and math.isfinite(value) for value in point)
    )


def _shape(shape: dict[str, Any], index: int) -> Shape:
    kind = shape.get("shape_type") or "polygon"
    points = tuple((float(x), float(y)) for x, y in shape["points"])
    if kind == "mask":
        return Shape(index, "bitmap", (*points[0], shape["mask"]))
    return Shape(index, kind, points)
