"""labelme: a JSON file beside each image, with polygons, rectangles, circles, lines, points and bitmaps."""

import json
import re
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

import blobfile as bf

from ...data.files import ALSO_GOOD, by_stem, is_good, list_folder, part_above, stem_of, words_of
from ...data.prepared import Sample
from ...errors import InputError
from ...file_io import mentions, parse_json, read_bytes
from .model import BACKGROUND, Dataset, Options, Shape, Shapes, is_coordinate, size_told
from .pairs import OPEN_ENDINGS

# At least; those of four are turned boxes, by their corners.
POINTS = dict(polygon=3, rectangle=2, circle=2, point=1, line=2, linestrip=2, mask=2)
POINTS |= dict(rotation=4, oriented_rectangle=4, quadrilateral=4)
ERASER, IGNORED = "_background_", "__ignore__"  # labelme's own labels
COMMON = range(0xA1, 0xD8)  # first bytes in GB 2312 of frequent signs
LOOKED_AT = 3  # files in each folder


def read_labelme(root: str, options: Options) -> Dataset | None:
    """The annotated images in `root` and in the folders in it; a file without shapes is of a defect-free image,
    unless its flags say otherwise."""
    folders = [root, *(bf.join(root, name) for name in list_folder(root)[1])]
    paths = {folder: [bf.join(folder, name) for name in list_folder(folder, (".json",))[0]] for folder in folders}
    if not any(_is_labelme(path) for own in paths.values() for path in own[:LOOKED_AT]):
        return None
    data, taken, recoded = Dataset(root, "labelme"), {}, {}
    images = {folder: by_stem(folder, data.problems) for folder in folders}
    for path in (path for own in paths.values() for path in own):
        try:
            content, labels = _read(path)
            shapes = [_shape(one, f"{path}: shapes[{number}]") for number, one in enumerate(content["shapes"])]
            image = _image(content, path, images)
        except InputError as error:
            data.problems.append(str(error))
            continue
        flags = content.get("flags") if isinstance(content.get("flags"), dict) else {}
        if not shapes and any(
            one for name, one in flags.items() if not is_good(name) and name.lower() not in ALSO_GOOD
        ):
            continue  # said to show something, but not where
        if image is None:
            data.problems.append(f"{path}: no image of that name beside it; add it or remove the file")
        elif (first := taken.setdefault(image, path)) != path:
            data.problems.append(f"{path}: is of {image}, as is another file, {first}; add its image or remove it")
        else:
            shapes = tuple(one for one in shapes if one.index != IGNORED)
            drawn = Shapes(path, shapes, size_told(content, "imageHeight", "imageWidth"), upright=True)
            data.samples.append(Sample(image, drawn, part=part_above(root, image)))
            recoded |= {path: labels} if labels is not None else {}
    for own in images.values():
        masks = {stem + end for stem in own for end in OPEN_ENDINGS[1:]}  # some tools leave them beside
        data.unlabelled += (path for stem, path in own.items() if path not in taken and stem not in masks)
    if recoded:
        labels = ", ".join(sorted(set().union(*recoded.values())))
        data.notes.append(f"{len(recoded)} labelme files are not UTF-8: read as Chinese (GBK), with labels {labels}")
    return data


def _is_labelme(path: str) -> bool:
    with suppress(InputError):
        return mentions(path, "shapes") and (mentions(path, "imagePath") or bool(_read(path)))
    return False


def _read(path: str) -> tuple[dict[str, Any], set[str] | None]:
    """The content of a labelme file; and its labels, where it is not UTF-8. Raises InputError."""
    data, labels = as_utf8(read_bytes(path), path)
    content = parse_json(data, path)
    if not isinstance(content, dict) or not isinstance(content.get("shapes"), list):
        raise InputError(f"{path}: has no list 'shapes', so it is no labelme file; correct or remove it")
    return content, labels


def as_utf8(data: bytes, path: str) -> tuple[bytes, set[str] | None]:
    """JSON of labelme in UTF-8 (or 16, 32). Older versions wrote in the system's encoding: of these, Chinese is read,
    and the labels are told too. Raises InputError where they are not Chinese."""
    with suppress(UnicodeDecodeError):
        data.decode(json.detect_encoding(data))
        return data, None
    text = data.decode("gb18030", "replace")
    labels = set(re.findall(r'"label"\s*:\s*"([^"]*)"', text))
    for label in labels:
        signs = [sign.encode("gb2312", "replace")[0] for sign in re.findall("[^\x00-\x7f]", label)]
        if sum(first in COMMON for first in signs) < len(signs) / 2:  # letters of other languages become rare signs
            raise InputError(f"{path}: is not UTF-8 (a label could be {label!r}); save it as UTF-8")
    return text.encode(), labels


def _image(content: Mapping[str, Any], path: str, images: Mapping[str, Mapping[str, str]]) -> str | None:
    """Which of `images`, {folder: {stem: path}}, a labelme file means: that of its stem beside it, the one that its
    imagePath (often out of date) ends in, the one of that name beside it, the one that it embeds (the file itself), or
    the only one of its stem."""
    *_, folder, told = ["", "", *words_of(str(content.get("imagePath") or ""))]
    beside, stem = images[bf.dirname(path)], stem_of(path)
    named = [own[stem_of(told)] for home, own in images.items() if stem_of(told) in own and bf.basename(home) == folder]
    anywhere = [own[stem] for own in images.values() if stem in own]
    found = [beside.get(stem), *named, beside.get(stem_of(told)), path if content.get("imageData") else None]
    return next(filter(None, [*found, *anywhere[: len(anywhere) == 1]]), None)


def _shape(shape: Any, where: str) -> Shape:
    """Raises InputError where something is wrong with a shape."""
    shape = shape if isinstance(shape, dict) else {}
    label, kind, points = shape.get("label"), shape.get("shape_type") or "polygon", shape.get("points")
    if not isinstance(kind, str) or kind not in POINTS:
        raise InputError(f"{where} is a {kind!r}, known are {', '.join(POINTS)}; draw it otherwise in labelme")
    sound = isinstance(points, list) and len(points) >= POINTS[kind] and isinstance(label, str) and label
    sound = sound and all(isinstance(one, list) and len(one) == 2 and all(map(is_coordinate, one)) for one in points)
    if not sound or (kind == "mask" and not isinstance(shape.get("mask"), str)):
        text = f"a label and {POINTS[kind]} points [x, y] or more{', and a bitmap' * (kind == 'mask')}"
        raise InputError(f"{where} is no {kind} with {text}; correct it in labelme")
    index, points = BACKGROUND if label == ERASER else label, tuple((float(x), float(y)) for x, y in points)
    if kind == "mask":
        return Shape(index, "bitmap", (*points[0], shape["mask"]))
    return Shape(index, "polygon" if POINTS[kind] == 4 else kind, points)
