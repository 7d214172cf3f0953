"""YOLO's text files, as ultralytics and our own export write them: outlines or boxes in shares of width and height."""

import re
from collections.abc import Iterator, Mapping
from typing import Any

import blobfile as bf

from ...config_file import read_yaml
from ...data.files import list_folder, part_of, stem_of
from ...data.prepared import Sample, name_apart
from ...errors import InputError
from ...file_io import inside, read_bytes
from .model import Dataset, Options, Shape, Shapes

CLASSES = "classes.txt"  # labelImg's and Label Studio's: a name a line
BEYOND = 0.01  # how far, in shares, a corner may lie outside the image; ultralytics allows the same
DEPTH = 3  # of the folders in an image folder
NAMES = re.compile(rb"^['\"]?names['\"]?\s*:", re.MULTILINE)


def read_yolo(root: str, options: Options) -> Dataset | None:
    """The images that data.yaml names as train, val and test; else those in images/[<part>/] or <part>/images/. Label
    files lie in labels/ in place of images/; an empty one means defect-free."""
    described = [bf.join(root, name) for name in list_folder(root, (".yaml", ".yml"))[0]]
    described = [path for path in described if NAMES.search(read_bytes(path))]
    source, content = (described[0], _open(described[0])) if described else (bf.join(root, CLASSES), {})
    parts = _images(root, content, source)
    labels = {folder: _label_files(root, folder) for folder in dict.fromkeys(map(bf.dirname, parts))}
    if not any(labels.values()):
        return None
    if len(described) > 1:
        raise InputError(f"{described[1]}: names classes, as {described[0]} does; keep one of them")
    names = _names(content, source, options)
    data = Dataset(root, "yolo", types=dict.fromkeys(names.values(), source))
    found: list[tuple[Sample, str | None]] = []
    boxed: list[str] = []
    for image, part in parts.items():
        path = labels[bf.dirname(image)].get(stem_of(image))
        if path is None:
            data.unlabelled.append(image)
            continue
        try:
            shapes, boxes = _shapes(path, names)
        except InputError as error:
            data.problems.append(str(error))
            continue
        boxed += boxes
        found.append((Sample(image, Shapes(path, shapes, None, upright=True), part=part), part))
    data.samples = name_apart(found)
    for folder, own in labels.items():
        stems = set(map(stem_of, list_folder(folder)[0]))
        text = f"no image for this label file in {folder}; add it or remove the file"
        data.problems += [f"{path}: {text}" for stem, path in own.items() if stem not in stems]
    data.judge_boxes(boxed, root, options.boxes)
    return data


def _open(path: str) -> Mapping[str, Any]:
    content = read_yaml(path)
    if not isinstance(content, dict) or "kpt_shape" in content:
        raise InputError(f"{path}: should describe classes with outlines or boxes, not key points; correct it")
    return content


def _images(root: str, content: Mapping[str, Any], source: str) -> dict[str, str | None]:
    """{image: its part}; content: of `source`, which may name the folders, or text files with a line for each image."""
    told = {part: content[part] for part in ("train", "val", "test") if content.get(part)}
    places = [(None, bf.join(root, "images"))]
    places += [(part_of(name), bf.join(root, name, "images")) for name in list_folder(root)[1] if part_of(name)]
    if told:
        entries = [(part, one) for part, own in told.items() for one in (own if isinstance(own, list) else [own])]
        places = [(part, _find(root, f"{content.get('path') or ''}/{one}", source)) for part, one in entries]
    images: dict[str, str | None] = {}
    for part, place in places:
        if place.endswith(".txt"):
            lines = read_bytes(place).decode("utf-8-sig", "replace").splitlines()
            found = [(part, _find(root, line.strip(), place)) for line in lines if line.strip()]
        else:
            found = _below(place, part, DEPTH)
        for own, image in found:
            images.setdefault(image, own)
    return images


def _find(root: str, told: str, source: str) -> str:
    """The file or folder in `root` that a path means: where it starts differs from one computer to the next."""
    words = [word for word in told.replace("\\", "/").split("/") if word not in ("", ".", "..")]
    for start in range(len(words)):
        path = inside(root, "/".join(words[start:]), source)
        if bf.exists(path):
            return path
    if words:
        raise InputError(f"{source}: names {told!r}, which is not in {root}; add it or correct the path")
    return root


def _below(folder: str, part: str | None, depth: int) -> Iterator[tuple[str | None, str]]:
    files, folders = list_folder(folder)
    yield from ((part, bf.join(folder, name)) for name in files)
    for name in folders if depth else ():
        yield from _below(bf.join(folder, name), part or part_of(name), depth - 1)


def _label_files(root: str, folder: str) -> dict[str, str]:
    """{stem: path} of the label files of the images in a folder: in labels/ in place of the last images/, or beside."""
    words = folder.removeprefix(root).strip("/").split("/")
    if "images" in words:
        words[-1 - words[::-1].index("images")] = "labels"
    home = bf.join(root, *words)
    return {stem_of(name): bf.join(home, name) for name in list_folder(home, (".txt",))[0] if name != CLASSES}


def _names(content: Mapping[str, Any], source: str, options: Options) -> dict[int, str]:
    """The classes' names by their numbers. Raises InputError."""
    names = content.get("names")
    if not content and bf.exists(source):
        names = read_bytes(source).decode("utf-8-sig", "replace").split("\n")
        names = [name.strip() for name in names if name.strip()]
    elif not content:
        if not options.label_map:
            raise InputError(
                f"{bf.dirname(source)}: has no data.yaml that names YOLO's classes; add it, or say --label_map"
            )
        names = sorted(options.label_map, key=options.label_map.get)
    names = dict(enumerate(names)) if isinstance(names, list) else names
    if not isinstance(names, dict) or not all(type(k) is int and type(name) in (int, str) for k, name in names.items()):
        raise InputError(f"{source}: names should be a list of texts, or number: text; quote words such as no")
    if not 0 < len(names) == len(set(map(str, names.values()))):
        raise InputError(f"{source}: names no class, or two alike; correct it")
    return {number: str(names[number]).strip() for number in sorted(names)}


def _shapes(path: str, names: Mapping[int, str]) -> tuple[tuple[Shape, ...], list[str]]:
    """The shapes in a label file, and which of its lines are boxes. Raises InputError."""
    shapes, boxes = [], []
    for number, line in enumerate(read_bytes(path).decode("utf-8", "replace").splitlines(), 1):
        if not line.strip():
            continue
        try:
            index, *ring = map(float, line.split())
        except ValueError:
            index, ring = 0.0, []
        box, near = len(ring) == 4, all(-BEYOND <= share <= 1 + BEYOND for share in ring)
        if len(ring) < 4 or len(ring) % 2 or not near or (box and min(ring[2:]) <= 0):
            text = "is no class with a box or an outline in shares of the image's sides; correct it"
            raise InputError(f"{path}: line {number} {text}")
        if index not in names:
            raise InputError(f"{path}: line {number} is of class {index:g}, which has no name; correct it or the names")
        if box:
            x, y, width, height = ring
            left, top, right, bottom = x - width / 2, y - height / 2, x + width / 2, y + height / 2
            ring = [left, top, right, top, right, bottom, left, bottom]
            boxes.append(f"{path}: line {number}")
        shapes.append(Shape(names[index], "shares", (tuple(ring),)))
    return tuple(shapes), boxes
