"""Layouts in which a table says what the images show: run lengths in a CSV (Severstal), Hugging Face's imagefolder."""

import csv
from typing import Any

import blobfile as bf

from ...data.files import PARTS, by_stem, list_folder, read_rows, stem_of
from ...data.prepared import IndexMask, Sample, check_label_map, name_apart
from ...errors import InputError
from ...file_io import inside, parse_json, read_bytes, read_json
from .model import Dataset, Options, Shape, Shapes

RUNS = "EncodedPixels"
RUN_COLUMNS = ({"ImageId", "ClassId", RUNS}, {"ImageId_ClassId", RUNS})  # the second is the older form
RUN_IMAGES = ("train_images", "train", "images", "")
METADATA, FILES = "metadata.jsonl", ("file_name", "mask_file_name")
EXPORT_FILE = "export.json"  # of defect-gen export
NAMED_BY_EXPORT = ("coco", "yolo", "mmseg", "hf")  # whose files hold the types by index or by their own names
HF_PARTS = {"validation": "val"}  # as `datasets` and we call it


def read_severstal(root: str, options: Options) -> Dataset | None:
    """A row per image and type, its runs "start length start length ..." counted from 1 down the columns; images
    without runs are defect-free. Type 3 is called class3."""
    tables = {name: rows for name in list_folder(root, (".csv",))[0] if (rows := _run_rows(bf.join(root, name)))}
    tables = {name: rows for name, rows in tables.items() if name == "train.csv"} or tables
    if not tables:
        return None
    path = bf.join(root, next(iter(tables)))
    if len(tables) > 1:
        raise InputError(f"{path}: stands beside {len(tables) - 1} other such tables; leave one, or call it train.csv")
    data = Dataset(root, "severstal")
    homes = (bf.join(root, name) if name else root for name in RUN_IMAGES)
    images = next(filter(None, (by_stem(home, data.problems) for home in homes)), {})
    shapes: dict[str, list[Shape]] = {image: [] for image in images.values()}
    head, *rows = next(iter(tables.values()))
    for number, row in enumerate(rows, 2):
        cells = dict(zip(head, row, strict=False))
        file, type_ = cells.get("ImageId", ""), cells.get("ClassId", "")
        if "ImageId_ClassId" in head:
            file, _, type_ = cells["ImageId_ClassId"].rpartition("_")
        image, runs = images.get(stem_of(file)), cells.get(RUNS, "").split()
        plain = all(one.isdecimal() and len(one) <= 12 for one in runs) and len(runs) % 2 == 0
        if len(row) != len(head) or not file or not type_ or not plain:
            data.problems.append(f"{path}: row {number} is not {', '.join(head)} with pairs of runs; correct it")
        elif image is None:
            data.problems.append(f"{path}: row {number} is of {file}, which is not there; add it or remove the row")
        elif runs:
            name = f"class{int(type_)}" if type_.isdecimal() else type_
            shapes[image].append(Shape(name, "runs", tuple(map(int, runs))))
    data.samples = [Sample(image, Shapes(path, tuple(own), None)) for image, own in shapes.items()]
    return data


def _run_rows(path: str) -> list[list[str]]:
    """The rows of a table of run lengths; none where it is another table."""
    head = read_bytes(path)[:256].decode("utf-8-sig", "replace").partition("\n")[0]
    if RUNS not in head or stem_of(path) == "sample_submission":
        return []
    csv.field_size_limit(2**31 - 1)  # a large mask has more than its usual 128 KiB
    rows = read_rows(path)
    return rows if set(rows[0]) in RUN_COLUMNS else []


def read_hf(root: str, options: Options) -> Dataset | None:
    """metadata.jsonl with `file_name` and `mask_file_name` of index masks beside the images, in SOURCE or in its parts.
    Which index is which type, a label map must tell; `types` only says which there are."""
    homes = {root: None} | {bf.join(root, name): name.lower() for name in list_folder(root)[1] if name.lower() in PARTS}
    tables = [(home, part) for home, part in homes.items() if bf.exists(bf.join(home, METADATA))]
    rows = [(home, part, where, row) for home, part in tables for where, row in _rows(bf.join(home, METADATA))]
    if not any("mask_file_name" in row for *_, row in rows):
        return None
    data, found = Dataset(root, "hf", types={}), {}
    for home, part, where, row in rows:
        image, mask = (inside(home, row[key], f"{where}: {key}", links=True) if row.get(key) else "" for key in FILES)
        if not image or image in found or not all(bf.exists(path) for path in (image, mask) if path):
            data.problems.append(f"{where}: names no image, one that it lists twice, or a file that is not there")
        elif not mask:
            data.unlabelled.append(image)
        else:
            part = HF_PARTS.get(part, part)
            found[image] = Sample(image, IndexMask(mask), part=part), part
        types = row.get("types")
        for name in types if isinstance(types, list) and all(isinstance(name, str) for name in types) else ():
            data.types.setdefault(name, where)
    data.samples = name_apart(list(found.values()))
    for home in dict.fromkeys(map(bf.dirname, found)):
        data.unlabelled += [path for path in by_stem(home, data.problems).values() if path not in found]
    if data.types and not options.label_map:
        where, names = next(iter(data.types.values())), ",".join(data.types)
        data.problems.append(f"{where}: names types, but not which index is which; say so, as in --label_map {names}")
    return data


def _rows(path: str) -> list[tuple[str, dict[str, Any]]]:
    """The lines of a metadata.jsonl, each with how to name it in a message."""
    lines = [(f"{path}: line {number}", line) for number, line in enumerate(read_bytes(path).splitlines(), 1)]
    rows = [(where, parse_json(line, where)) for where, line in lines if line.strip()]
    return [(where, row if isinstance(row, dict) else {}) for where, row in rows]


def exported_label_map(root: str) -> dict[str, int] | None:
    """The label map that our own export at `root` notes, where its masks follow it. Raises InputError."""
    path = bf.join(root, EXPORT_FILE)
    content = read_json(path) if bf.exists(path) else None
    if not isinstance(content, dict) or content.get("format") not in NAMED_BY_EXPORT:
        return None
    return check_label_map(content.get("label_map"), path)
