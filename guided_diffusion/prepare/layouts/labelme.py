"""labelme: a JSON file beside each image, with polygons, rectangles, circles, lines, points and bitmaps."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import Any

import blobfile as bf

from ...data.files import PARTS, by_stem, list_folder, name_of, stem_of
from ...errors import InputError
from ...file_io import read_json
from .model import BACKGROUND, IGNORED, Dataset, Options, Sample, Shape, Shapes, is_coordinate, number_types

POINTS = {"polygon": 3, "rectangle": 2, "circle": 2, "point": 1, "line": 2, "linestrip": 2, "mask": 2}  # at least
SPECIAL = {"_background_": BACKGROUND, "__ignore__": IGNORED}  # labelme's own


@dataclass(frozen=True)
class _Annotated:
    """A labelme file in `folder`; what it says of its image, and its shapes by label."""

    path: str
    folder: str
    image_path: str  # often out of date
    embeds: bool
    size: tuple[int, int] | None
    shapes: tuple[tuple[str, Shape], ...]


def is_labelme(root: str) -> bool:
    """Whether some JSON file in `root`, or in a folder in it, has labelme's shapes. Looks at the first of each."""
    for folder in _folders(root):
        for name in list_folder(folder, (".json",))[0][:3]:
            try:
                content = read_json(bf.join(folder, name))
            except (InputError, OSError):
                continue
            if isinstance(content, dict) and isinstance(content.get("shapes"), list):
                return True
    return False


def _folders(root: str) -> list[str]:
    return [root, *(bf.join(root, name) for name in list_folder(root)[1])]


def read_labelme(root: str, options: Options) -> Dataset:
    """The annotated images in `root` and in the folders in it; a file without shapes is a defect-free image.

    An image belongs to the JSON file of its stem; one that has none, to the file that names it (see _find_image). One
    that lies nowhere is taken from the file that embeds it. Images without a JSON file are left out, with a note.
    """
    data = Dataset(root, "labelme")
    files = _match(root, data)
    labels = {label: file.path for file in files.values() for label, _ in file.shapes if label not in SPECIAL}
    data.label_map = number_types(labels, options.label_map, data.problems)
    indices = {**SPECIAL, **data.label_map}
    stems = Counter(map(stem_of, files))
    for image, file in files.items():
        shapes = tuple(Shape(indices[label], s.kind, s.data) for label, s in file.shapes if label in indices)
        mask = Shapes(file.path, shapes, file.size, upright=True) if any(shape.index > 0 for shape in shapes) else None
        folder = bf.dirname(image)
        inside = bf.basename(folder) if folder.rstrip("/") != root.rstrip("/") else None
        part = inside.lower() if inside and inside.lower() in PARTS else None
        sample = Sample(image, mask, None, name_of(stem_of(image), part or inside, stems), part)
        (data.samples if mask else data.good).append(sample)
    return data


def _match(root: str, data: Dataset) -> dict[str, _Annotated]:
    """The labelme file of each image, by the image's path (the file's own, where it embeds the image)."""
    images = {folder: by_stem(folder, list_folder(folder)[0], data.problems) for folder in _folders(root)}
    left = {path for paths in images.values() for path in paths.values()}
    matched: dict[str, _Annotated] = {}
    strays: list[_Annotated] = []
    for folder in images:
        for name in list_folder(folder, (".json",))[0]:
            file = _open(bf.join(folder, name), folder, data.problems)
            image = images[folder].get(stem_of(name))
            if file and image in left:
                left.remove(image)
                matched[image] = file
            elif file:
                strays.append(file)
    for file in strays:
        beside = images[file.folder]
        if image := _find_image(file, images, left):
            left.discard(image)
            matched[image] = file
        elif taken := beside.get(stem_of(file.path)) or beside.get(stem_of(file.image_path)):
            data.problems.append(f"{file.path}: annotates {taken}, as {matched[taken].path} does; remove one")
        else:
            data.problems.append(f"{file.path}: no image of that name beside it; add it or remove the file")
    if left:
        data.notes.append(f"{len(left)} images in {root} have no JSON file beside them: left out")
    return matched


def _find_image(file: _Annotated, images: dict[str, dict[str, str]], left: set[str]) -> str | None:
    """Which of the images `left` is meant by a file without one beside it.

    The one that its imagePath ends in, the one of that name beside it, the one that it embeds, or the only one of its
    stem anywhere.
    """
    named, stem = stem_of(file.image_path), stem_of(file.path)
    for paths in images.values():
        exact = paths.get(named)
        if exact in left and file.image_path.endswith("/" + "/".join(exact.split("/")[-2:])):
            return exact
    if images[file.folder].get(named) in left:
        return images[file.folder][named]
    if file.embeds:
        return file.path
    elsewhere = [paths[stem] for paths in images.values() if stem in paths]
    return elsewhere[0] if len(elsewhere) == 1 and elsewhere[0] in left else None


def _open(path: str, folder: str, problems: list[str]) -> _Annotated | None:
    """A labelme file, its shapes checked; None, and a problem, where it is none."""
    try:
        content = read_json(path)
    except InputError as error:
        problems.append(str(error))
        return None
    shapes = content.get("shapes") if isinstance(content, dict) else None
    if not isinstance(shapes, list):
        problems.append(f"{path}: has no list 'shapes', so it is no labelme file; correct or remove it")
        return None
    for number, shape in enumerate(shapes):
        if wrong := _wrong(shape):
            problems.append(f"{path}: shapes[{number}] {wrong}; correct it in labelme")
            return None
    size = content.get("imageHeight"), content.get("imageWidth")
    return _Annotated(
        path,
        folder,
        str(content.get("imagePath") or "").replace("\\", "/"),
        bool(content.get("imageData")),
        size if all(isinstance(side, int) for side in size) else None,
        tuple((shape["label"], _shape(shape)) for shape in shapes),
    )


def _wrong(shape: Any) -> str | None:
    """What is wrong with a shape, if anything."""
    if not isinstance(shape, dict) or not isinstance(shape.get("label"), str) or not shape["label"]:
        return "has no label"
    kind, points = shape.get("shape_type") or "polygon", shape.get("points")
    if not isinstance(kind, str) or kind not in POINTS:
        return f"is a {kind!r}, known are {', '.join(POINTS)}"
    if not isinstance(points, list) or not all(_is_point(point) for point in points):
        return "has no list of points [x, y]"
    if len(points) < POINTS[kind]:
        return f"is a {kind} of {len(points)} points, but needs {POINTS[kind]}"
    if kind == "mask" and not isinstance(shape.get("mask"), str):
        return "is a mask without its bitmap"
    return None


def _is_point(point: Any) -> bool:
    return isinstance(point, list) and len(point) == 2 and all(map(is_coordinate, point))


def _shape(shape: dict[str, Any]) -> Shape:
    """A checked shape, not numbered yet."""
    kind = shape.get("shape_type") or "polygon"
    points = tuple((float(x), float(y)) for x, y in shape["points"])
    if kind == "mask":
        return Shape(IGNORED, "bitmap", (*points[0], shape["mask"]))
    return Shape(IGNORED, kind, points)
