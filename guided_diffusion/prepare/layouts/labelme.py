"""labelme: a JSON file beside each image, with polygons, rectangles, circles, lines, points and bitmaps."""

import json
import re
from collections import Counter
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

import blobfile as bf

from ...data.files import by_stem, list_folder, part_of, stem_of
from ...data.prepared import Sample, name_apart
from ...errors import InputError
from ...file_io import parse_json, read_bytes
from .model import BACKGROUND, IGNORED, Dataset, Options, Shape, Shapes, is_coordinate

POINTS = {  # at least; `rotation` is X-AnyLabeling's turned box, by its corners
    "polygon": 3, "rectangle": 2, "circle": 2, "point": 1, "line": 2, "linestrip": 2, "mask": 2, "rotation": 4,
}  # fmt: skip
SPECIAL = {"_background_": BACKGROUND, "__ignore__": IGNORED}  # labelme's own
ENCODINGS = {  # of systems not set to UTF-8, and what labels look like that are meant in them
    "gb2312": "[\x00-\x7f\u4e00-\u9fff\uff00-\uffef]+",
    "latin-1": "(?=.*[A-Za-z])(?!.*[^\x00-\x7f]{3})[\x00-\x7fÀ-ÖØ-öø-ÿ]+",  # accents among other letters
    "cp1251": "([\x00-\x7f]*[А-ЯЁа-яё][а-яё]{2,})+[\x00-\x7f]*",  # words, only the first letter a capital
}
LOOKED_AT = 3  # files in each folder


def read_labelme(root: str, options: Options) -> Dataset | None:
    """The annotated images in `root` and in the folders in it; a file without shapes is a defect-free image.

    An image belongs to the JSON file of its stem, or to another that means it (see _shapes_and_image); one that lies
    nowhere is taken from the file that embeds it. Images without a JSON file are unlabelled.
    """
    folders = [root, *(bf.join(root, name) for name in list_folder(root)[1])]
    paths = {folder: [bf.join(folder, name) for name in list_folder(folder, (".json",))[0]] for folder in folders}
    if not any(_is_labelme(path) for own in paths.values() for path in own[:LOOKED_AT]):
        return None
    data = Dataset(root, "labelme")
    images = {folder: by_stem(folder, data.problems) for folder in folders}
    left = {path for own in images.values() for path in own.values()}
    files, encodings = [], Counter()
    for folder, path in ((folder, path) for folder, own in paths.items() for path in own):
        try:
            content, encoding = _read(path)
            files.append((stem_of(path) not in images[folder], *_shapes_and_image(content, path, folder, images)))
            encodings[encoding] += 1
        except InputError as error:
            data.problems.append(str(error))
    found: list[tuple[Sample, str | None]] = []
    for _, drawn, meant in sorted(files, key=lambda file: file[0]):  # an image's own file first
        image = next((path for path in meant if path in left or path == drawn.path), None)
        if image is None:
            text = "no image of that name beside it, or one that another file annotates; add it or remove the file"
            data.problems.append(f"{drawn.path}: {text}")
            continue
        left.discard(image)
        inside = bf.basename(bf.dirname(image)) if bf.dirname(image) != root else None
        part = part_of(inside or "")
        found.append((Sample(image, drawn, part=part), part or inside))
    data.samples = name_apart(found)
    data.unlabelled += sorted(left)
    data.notes += [f"{count} labelme files are not UTF-8: read as {name}" for name, count in encodings.items() if name]
    return data


def _is_labelme(path: str) -> bool:
    """Whether a file is labelme's; one that is damaged counts, so that the reader can say what is wrong."""
    with suppress(OSError, InputError):
        data = read_bytes(path).replace(b"\0", b"")  # of UTF-16
        return b'"shapes"' in data and (b'"imagePath"' in data or bool(_read(path)))
    return False


def _read(path: str) -> tuple[dict[str, Any], str]:
    """The content of a labelme file, and its encoding, "" where that is as it should be. Raises InputError."""
    data, encoding = as_utf8(read_bytes(path), path)
    content = parse_json(data, path)
    if not isinstance(content, dict) or not isinstance(content.get("shapes"), list):
        raise InputError(f"{path}: has no list 'shapes', so it is no labelme file; correct or remove it")
    return content, encoding


def as_utf8(data: bytes, path: str) -> tuple[bytes, str]:
    """JSON of labelme in UTF-8 (or 16, 32), as older versions wrote in the system's encoding; and which it was, "" for
    UTF. Raises InputError where its labels do not tell."""
    with suppress(UnicodeDecodeError):
        data.decode(json.detect_encoding(data))
        return data, ""
    readings, labels = {}, set()
    for encoding, plausible in ENCODINGS.items():
        with suppress(UnicodeDecodeError, InputError):
            text = data.decode(encoding).encode()
            content = parse_json(text, path)
            shapes = content.get("shapes") if isinstance(content, dict) else None
            own = {str(one.get("label")) for one in shapes or () if isinstance(one, dict)}
            own = {label for label in own if not label.isascii()}
            if all(re.fullmatch(plausible, label) for label in own):
                readings[encoding] = text
            labels |= own
    if not readings or (labels and len(readings) > 1):
        shown = f" (a label could be {' or '.join(map(repr, sorted(labels)[:3]))})" if labels else ""
        raise InputError(f"{path}: is not UTF-8, and its encoding cannot be told{shown}; save it as UTF-8")
    encoding = next(iter(readings))
    return readings[encoding], encoding


def _shapes_and_image(
    content: Mapping[str, Any], path: str, folder: str, images: Mapping[str, Mapping[str, str]]
) -> tuple[Shapes, list[str]]:
    """The shapes in a labelme file in `folder`, and which of the images, {folder: {stem: path}}, it may mean, the
    likeliest first: that of its stem beside it, the one that its imagePath (often out of date) ends in, the one of that
    name beside it, the one that it embeds (the file itself), or the only one of its stem. Raises InputError."""
    shapes = tuple(_shape(shape, f"{path}: shapes[{number}]") for number, shape in enumerate(content["shapes"]))
    size = content.get("imageHeight"), content.get("imageWidth")
    drawn = Shapes(path, shapes, size if all(isinstance(side, int) for side in size) else None, upright=True)
    stem, told = stem_of(path), str(content.get("imagePath") or "").replace("\\", "/")
    named = [own[stem_of(told)] for own in images.values() if stem_of(told) in own]
    ending = [image for image in named if told.endswith("/" + "/".join(image.split("/")[-2:]))]
    anywhere = [own[stem] for own in images.values() if stem in own]
    last = [path] if content.get("imageData") else anywhere if len(anywhere) == 1 else []
    beside = images[folder].get
    return drawn, [*filter(None, (beside(stem), *ending, beside(stem_of(told)))), *last]


def _shape(shape: Any, where: str) -> Shape:
    """Raises InputError where something is wrong with a shape."""
    shape = shape if isinstance(shape, dict) else {}
    label, kind, points = shape.get("label"), shape.get("shape_type") or "polygon", shape.get("points")
    wrong = ""
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
    kind = "polygon" if kind == "rotation" else kind
    if kind == "mask":
        kind, points = "bitmap", (*points[0], shape["mask"])
    return Shape(SPECIAL.get(label, label), kind, points)
