"""COCO annotations (VISION and others): polygons and RLE, several annotations an image, category ids of any kind."""

import unicodedata
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from functools import cache
from typing import Any

import blobfile as bf

from ...data.files import list_folder, part_in, part_of, stem_of
from ...data.prepared import Sample, name_apart
from ...errors import InputError
from ...file_io import read_bytes, read_json
from .model import Dataset, Options, Shape, Shapes, is_coordinate

KEYS = {  # COCO's lists, and what their rows need
    "images": ("id", "file_name"),
    "annotations": ("image_id", "category_id"),
    "categories": ("id", "name"),
}
Images = Callable[[str], dict[str, str]]  # the images in a folder, {name: path}
LOOKED_INTO = 8  # JSON files in a folder, of which one at least is COCO's where any is


def read_coco(root: str, options: Options) -> Dataset | None:
    """The images of all annotation files; without annotations they are defect-free. Types follow the category ids."""
    folders = {root: None, bf.join(root, "annotations"): None}
    folders |= {bf.join(root, name): part_of(name) for name in list_folder(root)[1] if part_of(name)}
    files = [(path, part or part_in(bf.basename(path))) for home, part in folders.items() for path in _candidates(home)]
    if not files:
        return None
    data = Dataset(root, "coco", types={})
    found: list[tuple[Sample, str | None]] = []
    first: dict[str, str] = {}  # file that lists each image
    images = cache(_list_images)
    for file, part in files:
        content = _open(file)
        shapes = _shapes_by_image(file, content, data, options.boxes)
        own, homes, foreign = _homes(root, file, part)
        for image in content["images"]:
            words = _words(image["file_name"])
            path, *others = _find(words, own, homes, images) or [None]
            problem = f"{file}: lists {image['file_name'][:200]}"
            if path is None:
                far = [path for home in foreign if words and (path := images(home).get(words[-1]))]
                where = f" ({far[0]} is of another part or subset)" if far else ""
                data.problems.append(f"{problem}, which is not there{where}; add it or correct the list")
            elif others:
                data.problems.append(f"{problem}, which may be {path} or {others[0]}; name its folder there")
            elif path in first:
                where = "" if first[path] == file else f" and in {first[path]}"
                data.problems.append(f"{file}: lists {path} twice{where}; list it once")
            else:
                first[path] = file
                size = image.get("height"), image.get("width")
                size = size if all(isinstance(side, int) for side in size) else None
                home = part or (bf.basename(bf.dirname(path)) if bf.dirname(path) in own else None)
                words = [home, *(folder for folder in words[:-1] if folder != home)]
                sample = Sample(path, Shapes(file, tuple(shapes[image["id"]]), size), part=part)
                found.append((sample, "_".join(filter(None, words))))
    data.samples = name_apart(found)
    for folder in dict.fromkeys(map(bf.dirname, first)):
        data.unlabelled += [path for path in images(folder).values() if path not in first]
    return data


def _candidates(folder: str) -> list[str]:
    """The annotation files in a folder; damaged ones count, so that the reader can say what is wrong."""
    paths = [bf.join(folder, name) for name in list_folder(folder, (".json",))[0]]
    sure = [path for path in paths if path.lower().endswith(".coco.json")]
    return sure or (list(filter(_is_coco, paths)) if any(map(_is_coco, paths[:LOOKED_INTO])) else [])


def _is_coco(path: str) -> bool:
    with suppress(OSError):
        data = read_bytes(path)
        return all(f'"{key}"'.encode() in data for key in KEYS)
    return False


def _open(path: str) -> dict[str, list[dict[str, Any]]]:
    """The lists of a COCO file, checked for what is needed. Raises InputError."""
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
    return content


def _shapes_by_image(
    path: str, content: Mapping[str, list[dict[str, Any]]], data: Dataset, boxes: str
) -> dict[Any, list[Shape]]:
    """The shapes of each image by its id; `data` is told the types that they show, in the order of the ids. boxes: what
    becomes of those without outline, see Options."""
    images = {image["id"]: image["file_name"] for image in content["images"]}
    categories = list(dict.fromkeys((category["id"], category["name"]) for category in content["categories"]))
    names = dict(categories)
    ids = {"images": [image["id"] for image in content["images"]], "categories": [key for key, _ in categories]}
    for kind, keys in ids.items():
        twice = [key for key, count in Counter(keys).items() if count > 1]
        data.problems += [f"{path}: two {kind} have the id {key}; correct it" for key in twice]
    used = {annotation["category_id"] for annotation in content["annotations"]} & set(names)
    for key in sorted(used, key=lambda key: (isinstance(key, str), key)):
        data.types.setdefault(names[key], path)
    shapes: dict[Any, list[Shape]] = {key: [] for key in images}
    boxed: list[str] = []
    for annotation in content["annotations"]:
        where = f"{path}: annotation {annotation.get('id')}"
        owner, category = annotation["image_id"], annotation["category_id"]
        if owner not in images:
            data.problems.append(f"{where} is of image {owner}, which the file does not list; correct it")
        elif category not in names:
            data.problems.append(f"{where} is of category {category}, which the file does not list; correct it")
        elif shape := _shape(annotation.get("segmentation"), names[category]):
            shapes[owner].append(shape)
        elif shape := _box(annotation, names[category]):
            shapes[owner].append(shape)
            boxed.append(f"{where} on {images[owner]}")
        else:
            data.problems.append(f"{where} on {images[owner]} has no polygon or RLE; draw or remove it")
    data.judge_boxes(boxed, path, boxes)
    return shapes


def _box(annotation: Mapping[str, Any], name: str) -> Shape | None:
    """The box of an annotation without outline, as a shape; None where it has none, or one that is turned."""
    box, more = annotation.get("bbox"), annotation.get("attributes")
    drawn = annotation.get("segmentation") not in (None, [], [[]])
    turned = isinstance(more, dict) and more.get("rotation")  # CVAT's: the box as it was before
    if drawn or turned or not isinstance(box, list) or len(box) != 4 or not all(map(is_coordinate, box)):
        return None
    x, y, width, height = map(float, box)
    ring = (x, y, x + width, y, x + width, y + height, x, y + height)
    return Shape(name, "rings", (ring,)) if width > 0 and height > 0 else None


def _shape(drawn: Any, name: str) -> Shape | None:
    """An annotation's shape; None where it has none, or a broken one."""
    if isinstance(drawn, dict):
        size, counts = drawn.get("size"), drawn.get("counts")
        valid = isinstance(size, list) and len(size) == 2 and isinstance(counts, (list, str))
        return Shape(name, "rle", {"size": tuple(size), "counts": counts}) if valid else None
    if not isinstance(drawn, list) or not drawn:
        return None
    rings = drawn if isinstance(drawn[0], list) else [drawn]
    for ring in rings:
        if not isinstance(ring, list) or not all(map(is_coordinate, ring)) or len(ring) < 6 or len(ring) % 2:
            return None
    return Shape(name, "rings", tuple(tuple(map(float, ring)) for ring in rings))


def _words(file_name: str) -> list[str]:
    """The folders and the file that a file_name of any system names; where they start is not kept."""
    words = unicodedata.normalize("NFC", file_name).replace("\\", "/").split("/")
    return [word for word in words if word not in ("", ".", "..")]


def _homes(root: str, file: str, part: str | None) -> tuple[list[str], list[str], list[str]]:
    """Where the images of an annotation file may lie: in folders called as its subset or part (instances_default.json
    means images/default/); and beside it or in the images' folder. Third: the other folders there, never to be taken
    from, as their files may have the same names."""
    folder, stem = bf.dirname(file), stem_of(file).lower()
    bases = [folder, root] if bf.basename(folder) == "annotations" else [folder]
    homes = [home for base in bases for home in (base, bf.join(base, "images"))]
    inside = [(name, bf.join(home, name)) for home in homes for name in list_folder(home)[1]]
    own = [path for name, path in inside if name.lower() in (stem, stem.partition("_")[2], stem.rpartition("_")[0])]
    own = own or [path for name, path in inside if part and part_in(name) == part]
    return own, homes, [path for _, path in inside if path not in own]


def _find(words: Sequence[str], own: Sequence[str], homes: Sequence[str], images: Images) -> list[str]:
    """The images that a file_name means: those in `own` homes first, then the one beside the annotation file, homes[0],
    then any; several where it does not tell which. Its first folders may be another machine's, so that they count less.
    Only what is listed is found, nothing outside."""
    for start in range(len(words)):
        *inner, name = words[start:]
        for some in (own, homes[: start == 0], homes):
            found = (images(bf.join(home, *inner)).get(name) for home in some)
            if paths := list(dict.fromkeys(filter(None, found))):
                return paths
    return []


def _list_images(folder: str) -> dict[str, str]:
    """{name: path} of the images in a folder, the accents in names composed."""
    return {unicodedata.normalize("NFC", name): bf.join(folder, name) for name in list_folder(folder)[0]}
