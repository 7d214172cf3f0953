"""YOLO's text files (ultralytics, labelImg, CVAT, our own export): outlines or boxes in shares of width and height."""

import re
from collections.abc import Iterator, Mapping
from typing import Any

import blobfile as bf

from ...config_file import read_yaml
from ...data.files import list_folder, part_of, read_lines, stem_of, walk, words_of
from ...data.prepared import Sample
from ...errors import InputError, brief
from ...file_io import inside, read_bytes
from .model import Dataset, Options, Shape, Shapes

CLASSES = ("classes.txt", "obj.names")  # labelImg's, Label Studio's and CVAT's: a name a line
BEYOND = 0.01  # how far, in shares, a corner may lie outside the image; ultralytics allows the same
NAMES = re.compile(rb"(?:^|^\xef\xbb\xbf|[{,]\s*)['\"]?names['\"]?\s*:", re.MULTILINE)
CVAT = re.compile("obj_(.+)_data", re.IGNORECASE)  # its folder of a subset


def read_yolo(root: str, options: Options) -> Dataset | None:
    """The images that data.yaml names as train, val and test; else those in images/, also of parts, or all. Label files
    lie in labels/ in place of images/, else beside; an empty one means defect-free."""
    described = [bf.join(root, name) for name in list_folder(root, (".yaml", ".yml"))[0]]
    described = [path for path in described if NAMES.search(read_bytes(path))]
    told = [*described, *filter(bf.exists, (bf.join(root, name) for name in CLASSES))]
    content = read_yaml(described[0]) if described else {}
    data, source = Dataset(root, "yolo"), told[0] if told else bf.join(root, CLASSES[0])
    parts = dict(_images(data, content if isinstance(content, dict) else {}, source))
    labels = {home: _label_files(root, home, bool(told)) for home in dict.fromkeys(map(bf.dirname, parts))}
    if not any(labels.values()):
        return None
    if len(described) > 1 or not isinstance(content, dict) or "kpt_shape" in content:
        raise InputError(f"{described[-1]}: describes key points, no classes, or classes a second time; remove it")
    names, boxed = _names(content, source, options), []
    data.types = dict.fromkeys(names.values(), source)
    for image, part in parts.items():
        path = labels[bf.dirname(image)].get(stem_of(image))
        if path is None:
            data.unlabelled.append(image)
            continue
        try:
            shapes = Shapes(path, tuple(_shapes(path, names, boxed)), None, upright=True)
            data.samples.append(Sample(image, shapes, part=part))
        except InputError as error:
            data.problems.append(str(error))
    for home, own in labels.items():
        for stem in own.keys() - map(stem_of, list_folder(home)[0]):
            if not part_of(stem):  # train.txt is a list
                data.problems.append(f"{own[stem]}: no image for this label file in {home}; add it or remove the file")
    known = {bf.dirname(path) for own in labels.values() for path in own.values()}
    above = {bf.dirname(home) for home in known if bf.basename(bf.dirname(home)) == "labels"}
    for home in (bf.join(folder, name) for folder in above for name in list_folder(folder)[1]):
        if home not in known and (files := list_folder(home, (".txt",))[0]):
            data.problems.append(f"{bf.join(home, files[0])}: no images for the label files there; add or remove them")
    data.judge_boxes(boxed, root, options.boxes)
    return data


def _images(data: Dataset, content: Mapping[str, Any], source: str) -> Iterator[tuple[str, str | None]]:
    """Images and their parts; content: of `source`, which may name folders, or text files with a line for each image.
    An image in several, as where val is train, is of the first. Raises InputError where none is there."""
    told = [(part, content[part]) for part in ("test", "val", "train") if content.get(part)]
    if not told:
        subsets = {name: match[1] for name in list_folder(data.root)[1] if (match := CVAT.fullmatch(name))}
        every = list(walk(data.root))
        for path in [path for path in every if "images" in words_of(path.removeprefix(data.root))] or every:
            folders = words_of(path.removeprefix(data.root))[:-1]
            folders = [subsets[name] if len(subsets) > 1 and name in subsets else name for name in folders]
            yield path, next(filter(None, map(part_of, folders)), None)
    told = [(part, str(one)) for part, own in told for one in (own if isinstance(own, list) else [own])]
    found = [(part, one, _find(data.root, f"{content.get('path') or ''}/{one}", source)) for part, one in told]
    missing = [f"{source}: names {one!r}, which is not in {data.root}" for _, one, place in found if not place]
    if missing and len(missing) == len(found):
        raise InputError(f"{missing[0]}; add it or correct the path")
    data.notes += missing
    for part, _, place in found:
        if place and place.endswith(".txt"):
            for line in filter(None, read_lines(place)):
                if not (path := _find(data.root, line, place)):
                    raise InputError(f"{place}: lists {line}, which is not in {data.root}; add it or correct the list")
                yield path, part
        elif place:
            yield from ((path, part) for path in walk(place))


def _find(root: str, told: str, source: str) -> str | None:
    """The file or folder in `root` that a path means: where it starts differs from one computer to the next."""
    words = [word for word in re.split(r"[\\/]", told) if word.strip(".")]
    paths = (inside(root, "/".join(words[start:]), source, links=True) for start in range(len(words)))
    return next(filter(bf.exists, paths), None) if words else root


def _label_files(root: str, folder: str, beside: bool) -> dict[str, str]:
    """{stem: path} of the label files of the images in a folder: in labels/ in place of the last images/, or beside."""
    words = folder.removeprefix(root).strip("/").split("/")
    if "images" in words:
        words[-1 - words[::-1].index("images")] = "labels"
    elif not beside:
        return {}
    home = bf.join(root, *words)
    return {stem_of(name): bf.join(home, name) for name in list_folder(home, (".txt",))[0] if name != CLASSES[0]}


def _names(content: Mapping[str, Any], source: str, options: Options) -> dict[int, str]:
    """The classes' names by their numbers. Raises InputError."""
    names = content.get("names")
    if not content:
        known = options.label_map or {}
        names = list(filter(None, read_lines(source))) if bf.exists(source) else sorted(known, key=known.get)
    names = dict(enumerate(names)) if isinstance(names, list) else names
    if isinstance(names, dict):  # numbers may be quoted
        names = {int(k) if isinstance(k, str) and k.isdecimal() else k: one for k, one in names.items()}
    plain = isinstance(names, dict) and all(type(k) is int and type(one) in (int, str) for k, one in names.items())
    if not plain or not 0 < len(names) == len(set(map(str, names.values()))):
        text = "should name YOLO's classes, each once, in a list or as number: name; quote words such as no"
        raise InputError(f"{source}: {text}, or say --label_map where there is neither data.yaml nor {CLASSES[0]}")
    if (count := content.get("nc", len(names))) != len(names):
        raise InputError(f"{source}: nc is {brief(count)}, but it names {len(names)} classes; correct either")
    return {number: str(names[number]).strip() for number in sorted(names)}


def _shapes(path: str, names: Mapping[int, str], boxed: list[str]) -> Iterator[Shape]:
    """The shapes in a label file; lines that are boxes are added to `boxed`. Raises InputError."""
    for number, fields in enumerate(map(str.split, read_lines(path)), 1):
        if not fields:
            continue
        try:
            index, *ring = map(float, fields)
        except ValueError:
            ring = []
        near, box = all(-BEYOND <= share <= 1 + BEYOND for share in ring), len(ring) == 4
        if not near or len(ring) < 4 or len(ring) % 2 or (box and min(ring[2:]) <= 0):
            raise InputError(f"{path}: line {number} is no class with a box or outline in shares of the sides; mend it")
        if index not in names:
            raise InputError(f"{path}: line {number} is of class {index:g}, which has no name; correct it or the names")
        if box:
            boxed.append(f"{path}: line {number}")
            (x, y, width, height), corners = ring, ((-1, -1), (1, -1), (1, 1), (-1, 1))
            ring = [value for right, down in corners for value in (x + right * width / 2, y + down * height / 2)]
        yield Shape(names[index], "shares", (tuple(ring),))
