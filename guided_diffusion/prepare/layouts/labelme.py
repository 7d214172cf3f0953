"""labelme: a JSON file beside each image, with polygons, rectangles, circles, lines, points and bitmaps."""

from __future__ import annotations

from collections import Counter
from contextlib import suppress
from typing import Any, NamedTuple

import blobfile as bf

from ...data.files import PARTS, by_stem, list_folder, name_of, stem_of
from ...data.prepared import Sample
from ...errors import InputError
from ...file_io import read_json
from .model import BACKGROUND, IGNORED, Dataset, Options, Shape, Shapes, is_coordinate

POINTS = {"polygon": 3, "rectangle": 2, "circle": 2, "point": 1, "line": 2, "linestrip": 2, "mask": 2}  # at least
SPECIAL = {"_background_": BACKGROUND, "__ignore__": IGNORED}  # labelme's own


class _Annotated(NamedTuple):
    """A labelme file; what it says of its image, and its shapes by label, not numbered yet."""

    path: str
    image_path: str  # often out of date
    embeds: bool
    size: tuple[int, int] | None
    shapes: list[tuple[str, Shape]]


def is_labelme(root: str) -> bool:
    """Whether some JSON file in `root`, or in a folder in it, has labelme's shapes. Looks at the first of each."""
    for folder in _folders(root):
        for name in list_folder(folder, (".json",))[0][:3]:
            with suppress(InputError, OSError):
                if _shapes_of(read_json(bf.join(folder, name))) is not None:
                    return True
    return False


def _shapes_of(content: Any) -> list[Any] | None:
    shapes = content.get("shapes") if isinstance(content, dict) else None
    return shapes if isinstance(shapes, list) else None


def _folders(root: str) -> list[str]:
    return [root, *(bf.join(root, name) for name in list_folder(root)[1])]


def read_labelme(root: str, options: Options) -> Dataset:
    """The annotated images in `root` and in the folders in it; a file without shapes is a defect-free image.

    An image belongs to the JSON file of its stem, or to the one that names it (see _find_image); one that lies nowhere
    is taken from the file that embeds it. Images without a JSON file are left out, with a note.
    """
    data = Dataset(root, "labelme")
    files = _match(root, data)
    labels = {label: file.path for file in files.values() for label, _ in file.shapes if label not in SPECIAL}
    indices = SPECIAL | data.number_types(labels, options.label_map)
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
    strays: list[tuple[_Annotated, dict[str, str]]] = []  # with the images beside it
    for folder, beside in images.items():
        for name in list_folder(folder, (".json",))[0]:
            file = _open(bf.join(folder, name), data.problems)
            image = beside.get(stem_of(name))
            if file and image in left:
                left.remove(image)
                matched[image] = file
            elif file:
                strays.append((file, beside))
    for file, beside in strays:
        if image := _find_image(file, beside, images, left):
            left.discard(image)
            matched[image] = file
        elif taken := beside.get(stem_of(file.path)) or beside.get(stem_of(file.image_path)):
            data.problems.append(f"{file.path}: annotates {taken}, as {matched[taken].path} does; remove one")
        else:
            data.problems.append(f"{file.path}: no image of that name beside it; add it or remove the file")
    if left:
        data.notes.append(f"{len(left)} images in {root} have no JSON file beside them: left out")
    return matched


def _find_image(
    file: _Annotated, beside: dict[str, str], images: dict[str, dict[str, str]], left: set[str]
) -> str | None:
    """Which of the images `left` a file without one beside it means: the one that its imagePath ends in, the one of
    that name beside it, the one that it embeds, or the only one of its stem anywhere."""
    named, stem = stem_of(file.image_path), stem_of(file.path)
    for path in (paths[named] for paths in images.values() if paths.get(named) in left):
        if file.image_path.endswith("/" + "/".join(path.split("/")[-2:])):
            return path
    if (image := beside.get(named)) in left:
        return image
    if file.embeds:
        return file.path
    elsewhere = [paths[stem] for paths in images.values() if stem in paths]
    return elsewhere[0] if len(elsewhere) == 1 and elsewhere[0] in left else None


def _open(path: str, problems: list[str]) -> _Annotated | None:
    """A labelme file, its shapes checked; None, and a problem, where it is none."""
    try:
        content = read_json(path)
        if (found := _shapes_of(content)) is None:
            raise InputError(f"{path}: has no list 'shapes', so it is no labelme file; correct or remove it")
        shapes = [_shape(shape, f"{path}: shapes[{number}]") for number, shape in enumerate(found)]
    except InputError as error:
        problems.append(str(error))
        return None
    size = content.get("imageHeight"), content.get("imageWidth")
    size = size if all(isinstance(side, int) for side in size) else None
    image_path = str(content.get("imagePath") or "").replace("\\", "/")
    return _Annotated(path, image_path, bool(content.get("imageData")), size, shapes)


def _shape(shape: Any, where: str) -> tuple[str, Shape]:
    """A shape's label, and itself, not numbered yet. Raises InputError where something is wrong with it."""
    wrong = ""
    shape = shape if isinstance(shape, dict) else {}
    label, kind, points = shape.get("label"), shape.get("shape_type") or "polygon", shape.get("points")
    if not isinstance(label, str) or not label:
        wrong = "has no label"
    elif not isinstance(kind, str) or kind not in POINTS:
        wrong = f"is a {kind!r}, known are {', '.join(POINTS)}"
    elif not isinstance(points, list) or not all(
        isinstance(point, list) and len(point) == 2 and all(map(is_coordinate, point)) for point in points
    ):
        wrong = "has no list of points [x, y]"
    elif len(points) < POINTS[kind]:
        wrong = f"is a {kind} of {len(points)} points, but needs {POINTS[kind]}"
    elif kind == "mask" and not isinstance(shape.get("mask"), str):
        wrong = "is a mask without its bitmap"
    if wrong:
        raise InputError(f"{where} {wrong}; correct it in labelme")
    points = tuple((float(x), float(y)) for x, y in points)
    if kind == "mask":
        return label, Shape(IGNORED, "bitmap", (*points[0], shape["mask"]))
    return label, Shape(IGNORED, kind, points)
