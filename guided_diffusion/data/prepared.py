"""Writing a data set in the released layout: test/, converted_ground_truth/ and, last, dataset.json."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import blobfile as bf
import numpy as np

from ..errors import InputError
from ..file_io import encode_png, ensure_writable, read_json, remove_temporaries, write_if_changed, write_json
from ..prepare.layouts.find import DATASET_FILE, UNFINISHED_FILE
from .files import list_folder

IMAGES, MASKS = "test", "converted_ground_truth"


def write_released(
    root: str,
    names: Sequence[str],
    pairs: Iterable[tuple[np.ndarray, np.ndarray | None]],
    label_map: dict[str, int],
    source: dict[str, Any],
) -> int:
    """Write a data set in the released layout, dataset.json last; returns how many files had to be written.

    names: "<type>/<stem>" or "<stem>" of each sample. pairs: in the same order, image uint8 [H, W] or [H, W, 3] and
    index mask uint8 [H, W], or None for a defect-free image; taken one at a time. source: where the data came from,
    for dataset.json. What is there already with the same content is left alone, so a run that was cut off
    goes on. Raises InputError, before anything is written, where `root` holds images that belong to another
    data set or cannot be written.
    """
    check_no_strangers(root, {f"{name}.png" for name in names})
    ensure_writable(root, "OUT")
    clear_temporaries(root, names)
    written = 0
    records = []
    for name, (image, mask) in zip(names, pairs, strict=True):
        record, new = write_pair(root, name, image, mask, label_map)
        records.append(record)
        written += new
    content = {"label_map": label_map, "source": source, "images": records}
    path = bf.join(root, DATASET_FILE)
    if not bf.exists(path) or read_json(path) != content:
        write_json(path, content)
        written += 1
    return written


def write_pair(
    root: str, name: str, image: np.ndarray, mask: np.ndarray | None, label_map: Mapping[str, int]
) -> tuple[dict[str, Any], int]:
    """Write one sample's files unless they are there with the same content: its record for dataset.json, and how many
    were written."""
    record: dict[str, Any] = {"image": f"{IMAGES}/{name}.png", "size": list(image.shape[:2])}
    written = _write(root, record, "image", encode_png(image))
    if mask is not None:
        record["mask"] = f"{MASKS}/{name}.png"
        written += _write(root, record, "mask", encode_png(mask))
        counts = np.bincount(mask.ravel(), minlength=256)
        record["types"] = {label: int(counts[index]) for label, index in label_map.items() if counts[index]}
    return record, written


def _write(root: str, record: dict[str, Any], key: str, data: bytes) -> bool:
    """Write `data` to the record's file and note its hash; returns whether the file did not hold it already."""
    record[f"{key}_sha256"] = hashlib.sha256(data).hexdigest()
    return write_if_changed(bf.join(root, record[key]), data)


def clear_temporaries(root: str, names: Iterable[str]) -> None:
    """Delete what a killed run left half-written."""
    remove_temporaries(root)
    for folder in {bf.dirname(name) for name in names}:
        for part in (IMAGES, MASKS):
            remove_temporaries(bf.join(root, part, folder) if folder else bf.join(root, part))


def check_no_strangers(root: str, expected: set[str]) -> None:
    """Raise InputError where `root` holds images that are not `expected` ("<type>/<file>" or "<file>")."""
    if bf.exists(root) and not bf.isdir(root):
        raise InputError(f"{root}: is a file; name a folder for the data set")
    for part in (IMAGES, MASKS):
        top = bf.join(root, part)
        if not bf.isdir(top):
            continue
        files, folders = list_folder(top)
        below = [f"{folder}/{name}" for folder in folders for name in list_folder(bf.join(top, folder))[0]]
        strangers = [name for name in files + below if name not in expected]
        if strangers:
            raise InputError(
                f"{root}: already holds files of another data set, {len(strangers)} in {part}/ such as "
                f"{strangers[0]}; name another folder or remove this one"
            )


def read_records(root: str) -> tuple[dict[str, Any], bool]:
    """dataset.json of a data set, or what an unfinished run left of it ({} for neither), and whether it is finished."""
    for file, finished in ((UNFINISHED_FILE, False), (DATASET_FILE, True)):
        path = bf.join(root, file)
        if bf.exists(path):
            content = read_json(path)
            if not isinstance(content, dict) or not isinstance(content.get("images", []), list):
                raise InputError(f"{path}: is not one of ours; mend or remove it")
            return content, finished
    return {}, True
