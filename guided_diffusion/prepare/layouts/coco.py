"""COCO annotations (VISION and others): polygons and RLE, several annotations an image, category ids of any kind."""

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import blobfile as bf

from ...data.files import list_folder, part_above, part_folders, part_in, stem_of, walk, words_of
from ...data.prepared import Sample
from ...errors import InputError
from ...file_io import mentions, read_json
from .model import Dataset, Options, Shape, Shapes, is_coordinate, size_told
from .pairs import LABEL_FOLDERS

Content = dict[str, list[dict[str, Any]]]
KEY = (int, str)
ROWS = {  # of COCO's lists: what they need, and of what kinds
    "images": {"id": KEY, "file_name": str},
    "annotations": {"image_id": KEY, "category_id": KEY},
    "categories": {"id": KEY, "name": str},
}
NEUTRAL = ("images", "image", "imgs", "img", "jpegimages", "data", "annotations")  # folders of any subset
NO_OUTLINE = (None, [], [[]])
LOOKED_INTO = 8  # JSON files in a folder, of which one at least is COCO's where any is


def read_coco(root: str, options: Options) -> Dataset | None:
    """The images of all annotation files; without annotations they are defect-free. Types follow the category ids."""
    labels = [bf.join(root, name) for name in list_folder(root)[1] if name.lower() in LABEL_FOLDERS]
    homes = {root: None} | dict.fromkeys(labels) | part_folders(root)
    files = [(path, part or part_in(bf.basename(path))) for home, part in homes.items() for path in _candidates(home)]
    if not files:
        return None
    data, taken = Dataset(root, "coco", types={}), {}  # the file, and the id, that an image is of
    ids: dict[str, tuple[bool, int | str]] = {}  # of the types
    images, by_name = list(walk(root)), defaultdict(list)
    for path in images:
        by_name[words_of(path)[-1]].append(path)
    for file, part in files:
        content = _open(file)
        shapes = _shapes_by_image(file, content, data, ids, options.boxes)
        for image in content["images"]:
            words = words_of(image["file_name"])
            base = root if bf.dirname(file) in labels else bf.dirname(file)
            found, others = _find(words, file, base, part, by_name[words[-1]] if words else ())
            problem = f"{file}: lists {image['file_name'][:200]}"
            if not found:
                where = f" ({others[0]} is of a part or folder that it does not name)" if others else ""
                data.problems.append(f"{problem}, which is not there{where}; add it or correct the list")
            elif len(found) > 1:
                data.problems.append(f"{problem}, which may be {found[0]} or {found[1]}; name its folder there")
            elif (first := taken.setdefault(found[0], (file, image["id"]))) != (file, image["id"]):
                data.problems.append(f"{problem} twice, first in {first[0]}; list it once")
            else:
                drawn = Shapes(file, tuple(shapes[image["id"]]), size_told(image, "height", "width"))
                data.samples.append(Sample(found[0], drawn, part=part or part_above(root, found[0])))
    data.types = {name: data.types[name] for name in sorted(data.types, key=ids.get)}
    shown = set(map(bf.dirname, taken))
    data.unlabelled += (path for path in images if bf.dirname(path) in shown and path not in taken)
    return data


def _candidates(folder: str) -> list[str]:
    """The annotation files in a folder; damaged ones count, so that the reader can say what is wrong."""
    paths = [bf.join(folder, name) for name in list_folder(folder, (".json",))[0]]
    sure = [path for path in paths if path.lower().endswith(".coco.json")]
    some = any(mentions(path, *ROWS) for path in paths[:LOOKED_INTO])
    return sure or [path for path in paths if some and mentions(path, *ROWS)]


def _open(path: str) -> Content:
    """The lists of a COCO file, checked for what is needed. Raises InputError."""
    content = read_json(path)
    for key, fields in ROWS.items():
        rows = content.get(key) if isinstance(content, dict) else None
        if not isinstance(rows, list):
            raise InputError(f"{path}: has no list '{key}', so it is no COCO file; correct or remove it")
        for number, row in enumerate(rows):
            if not isinstance(row, dict) or not all(isinstance(row.get(name), kind) for name, kind in fields.items()):
                raise InputError(f"{path}: {key}[{number}] has no {' or '.join(fields)} of the right kind; correct it")
    return content


def _shapes_by_image(
    path: str, content: Content, data: Dataset, ids: dict[str, tuple[bool, int | str]], boxes: str
) -> dict[Any, list[Shape]]:
    """The shapes of each image by its id; `data` and `ids` are told their types. boxes: see Options."""
    images = [(image["id"], image["file_name"]) for image in content["images"]]
    categories = list(dict.fromkeys((category["id"], category["name"]) for category in content["categories"]))
    for kind, rows in (("images", images), ("categories", categories)):
        twice = [key for key, count in Counter(key for key, _ in rows).items() if count > 1]
        data.problems += [f"{path}: two {kind} have the id {key}; correct it" for key in twice]
    images, names = dict(images), dict(categories)
    used = {annotation["category_id"] for annotation in content["annotations"]} & set(names)
    for key in used:
        data.types.setdefault(names[key], path)
        ids[names[key]] = min((isinstance(key, str), key), ids.get(names[key], (True, "\U0010ffff")))
    shapes: dict[Any, list[Shape]] = {key: [] for key in images}
    boxed: list[str] = []
    for annotation in content["annotations"]:
        where = f"{path}: annotation {annotation.get('id')}"
        owner, category = annotation["image_id"], annotation["category_id"]
        if owner not in images or category not in names:
            data.problems.append(f"{where}: the file does not list its image {owner} or category {category}; add it")
        elif shape := _shape(annotation, names[category]):
            shapes[owner].append(shape)
            if annotation.get("segmentation") in NO_OUTLINE:
                boxed.append(f"{where} on {images[owner]}")
        else:
            data.problems.append(f"{where} on {images[owner]} has no polygon or RLE; draw or remove it")
    data.judge_boxes(boxed, path, boxes)
    return shapes


def _shape(annotation: Mapping[str, Any], name: str) -> Shape | None:
    """An annotation's shape, of its box where it has no outline; None where it has neither, or a broken one."""
    drawn, box, more = annotation.get("segmentation"), annotation.get("bbox"), annotation.get("attributes")
    if isinstance(drawn, dict):
        size, counts = drawn.get("size"), drawn.get("counts")
        valid = isinstance(size, list) and len(size) == 2 and isinstance(counts, (list, str))
        return Shape(name, "rle", {"size": tuple(size), "counts": counts}) if valid else None
    turned = isinstance(more, dict) and more.get("rotation")  # CVAT's: its box is as it was before
    if drawn in NO_OUTLINE and not turned and isinstance(box, list) and len(box) == 4:
        x, y, width, height = box if all(map(is_coordinate, box)) else (0, 0, 0, 0)
        drawn = [x, y, x + width, y, x + width, y + height, x, y + height] if width > 0 and height > 0 else None
    if not isinstance(drawn, list) or not drawn:
        return None
    rings = drawn if isinstance(drawn[0], list) else [drawn]
    for ring in rings:
        if not isinstance(ring, list) or not all(map(is_coordinate, ring)) or len(ring) < 6 or len(ring) % 2:
            return None
    return Shape(name, "rings", tuple(tuple(map(float, ring)) for ring in rings))


def _find(
    words: Sequence[str], file: str, base: str, part: str | None, paths: Iterable[str]
) -> tuple[list[str], list[str]]:
    """Those of `paths` in `base` that a file_name (`words`) in an annotation file may mean; and those in folders that
    neither is called after, which are never taken. The more of its folders a path ends in, the better (the first may be
    another machine's); then, in one called as the file's subset (instances_default.json) or part; then beside it."""
    home, stem = bf.dirname(file), stem_of(file).lower()
    ranked, others = defaultdict(list), []
    for path in paths:
        if not path.startswith(f"{base}/"):
            continue
        folders = words_of(path.removeprefix(base))[:-1]
        told = 0
        while told < min(len(folders), len(words) - 1) and folders[-1 - told] == words[-2 - told]:
            told += 1
        left = [name for name in folders[: len(folders) - told] if name.lower() not in NEUTRAL]
        subset = [name.lower() in (stem, stem.partition("_")[2], stem.rpartition("_")[0]) for name in left]
        own = 2 * all(subset) or all(part is not None and part_in(name) == part for name in left)
        if len(left) > 1 or not own:
            others.append(path)
        else:
            beside = bf.dirname(path) == home and told == len(words) - 1
            ranked[told, own if left else 0, beside].append(path)
    return ranked[max(ranked)] if ranked else [], others
