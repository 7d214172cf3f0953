"""Layouts in which a table says what the images show: run lengths in a CSV (Severstal), Hugging Face's imagefolder."""

import blobfile as bf
import numpy as np

from ...data.files import by_stem, list_folder, part_folders, read_rows, stem_of
from ...data.prepared import IndexMask, Sample
from ...data.records import check_label_map
from ...errors import InputError
from ...file_io import inside, parse_json, read_bytes, read_json
from .model import Dataset, Options, Shape, Shapes

RUN_COLUMNS = "ImageId,ClassId,EncodedPixels", "ImageId_ClassId,EncodedPixels"  # the second is the older form
RUN_IMAGES = ("train_images", "train", "images", "")
METADATA, FILES = "metadata.jsonl", ("file_name", "mask_file_name")
EXPORT_FILE = "export.json"  # of defect-gen export
CLASSES = "_classes.csv"  # of Roboflow: rows number,name
NAMED_BY_EXPORT = ("coco", "yolo", "mmseg", "hf")  # formats in which the types keep their indices or names


def read_severstal(root: str, options: Options) -> Dataset | None:
    """train.csv, a row per image and type, its runs "start length start length ..." counted from 1 down the columns;
    images without runs are defect-free. Type 3 is called class3."""
    path = bf.join(root, "train.csv")
    if not bf.exists(path) or b"EncodedPixels" not in read_bytes(path).partition(b"\n")[0]:
        return None
    head, *rows = read_rows(path)
    if not any({*columns.split(",")} <= {*head} for columns in RUN_COLUMNS):
        raise InputError(f"{path}: has the columns {','.join(head)}, not {' or '.join(RUN_COLUMNS)}; correct them")
    data = Dataset(root, "severstal")
    homes = (bf.join(root, name) if name else root for name in RUN_IMAGES)
    images = next(filter(None, (by_stem(home, data.problems) for home in homes)), {})
    shapes: dict[str, list[Shape]] = {image: [] for image in images.values()}
    for number, row in enumerate(rows, 2):
        cells = dict(zip(head, row, strict=False)) if len(row) == len(head) else {}
        file, _, type_ = cells.get("ImageId_ClassId", "").rpartition("_")
        file, type_ = cells.get("ImageId", file), cells.get("ClassId", type_)
        runs = cells.get("EncodedPixels", "").split()
        if not file or not type_ or len(runs) % 2 or not all(run.isdecimal() and len(run) <= 12 for run in runs):
            data.problems.append(f"{path}: row {number} is not {','.join(head)} with pairs of runs; correct it")
        elif stem_of(file) not in images:
            data.problems.append(f"{path}: row {number} is of {file[:80]!r}, which is not there; add it or remove it")
        elif runs:
            type_ = type_.removesuffix(".0")  # as pandas writes it
            name = f"class{type_}" if type_.isdecimal() else type_
            edges = np.array(runs, np.int64).reshape(-1, 2).cumsum(axis=1)  # first pixel, and the one beyond the last
            counts = np.diff(edges.ravel(), prepend=1).tolist()
            shapes[images[stem_of(file)]].append(Shape(name, "rle", {"size": (), "counts": counts}))
    data.samples = [Sample(image, Shapes(path, tuple(own), None)) for image, own in shapes.items()]
    return data


def read_hf(root: str, options: Options) -> Dataset | None:
    """metadata.jsonl with `file_name` and `mask_file_name` of index masks beside the images, in SOURCE or in its parts.
    Which index is which type, a label map must tell; `types` only says which there are."""
    homes, rows = {root: None} | part_folders(root), []  # folder, line, content
    for home, path in ((home, bf.join(home, METADATA)) for home in homes):
        lines = read_bytes(path).splitlines() if bf.exists(path) else ()
        told = ((f"{path}: line {k}", line) for k, line in enumerate(lines, 1) if line.strip())
        rows += [(home, where, parse_json(line, where)) for where, line in told]
    rows = [row for row in rows if isinstance(row[2], dict)]
    if not any(FILES[1] in row for *_, row in rows):
        return None
    data, found = Dataset(root, "hf", types={}), {}  # by image
    for home, where, row in rows:
        image, mask = (inside(home, row[key], f"{where}: {key}", links=True) if row.get(key) else "" for key in FILES)
        if not image or image in found or not all(bf.exists(path) for path in (image, mask) if path):
            data.problems.append(f"{where}: names no image, one that it lists twice, or a file that is not there")
        elif mask:
            found[image] = Sample(image, IndexMask(mask), part=homes[home])
        types = row.get("types")
        data.types |= dict.fromkeys(filter(None, map(str, types if isinstance(types, list) else ())), where)
    data.samples = list(found.values())
    masks = {sample.mask.path for sample in data.samples}  # some lie beside
    for home in dict.fromkeys(map(bf.dirname, found)):
        paths = (bf.join(home, name) for name in list_folder(home)[0])
        data.unlabelled += [path for path in paths if path not in found and path not in masks]
    if data.types and not options.label_map:
        where, names = next(iter(data.types.values())), ",".join(data.types)
        data.problems.append(f"{where}: names types, but not which index is which; say so, as in --label_map {names}")
    return data


def exported_label_map(root: str) -> dict[str, int] | None:
    """The label map that an export at `root` notes, ours or that of Roboflow's masks, where these follow it. Raises
    InputError."""
    path = bf.join(root, EXPORT_FILE)
    content = read_json(path) if bf.exists(path) else None
    if isinstance(content, dict) and content.get("format") in NAMED_BY_EXPORT:
        return check_label_map(content.get("label_map"), path)
    known: dict[str, int] | None = None
    for path in filter(bf.exists, (bf.join(home, CLASSES) for home in (root, *part_folders(root)))):
        head, *rows = read_rows(path) or [[]]
        if head == ["Pixel Value", "Class"]:
            numbers = {row[-1]: int(row[0]) for row in rows if row[0].isdecimal() and int(row[0])}
            if known not in (None, numbers):
                raise InputError(f"{path}: numbers the types otherwise than another part; prepare each by itself")
            known = check_label_map(numbers, path)
    return known
