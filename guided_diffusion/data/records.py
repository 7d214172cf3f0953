"""What folders say of themselves, checked at the door: dataset.json of a prepared set, manifest.jsonl of samples.

What they say is data: the files that they name lie in the folder, those of samples even where links lead. A row of the
manifest makes a sample exist; its files are called after its index.
"""

import re
from collections import Counter
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

import blobfile as bf

from .. import MAX_TYPES
from ..errors import InputError, brief
from ..file_io import inside, parse_json, read_bytes, read_json
from .files import check_no_links

RELEASED = IMAGES, MASKS = "test", "converted_ground_truth"
DATASET_FILE = "dataset.json"
UNFINISHED_FILE = "dataset.unfinished.json"  # stands in its place while the data set is being written
SECTIONS = {"source": dict, "split": dict, "images": list}
RECORD = {"size": list, "types": dict, "scale": list}  # what is told of an image; its path alone must be
RECORD |= dict.fromkeys(("image", "mask", "source", "group", "image_sha256", "mask_sha256"), str)
MANIFEST = "manifest.jsonl"
FOLDERS = {"image": "images", "mask": "masks", "index_mask": "masks_converted_dir"}  # by the key of a row
MAX_SAMPLES = 10**7  # as many as are believed
MAX_SIDE = 2**16
_DEFECT = re.compile(r"defects/(?!\.+/)[\w.-]+/(\d+\.png)")


def read_records(root: str, file: str = DATASET_FILE) -> dict[str, Any]:
    """The content of dataset.json or UNFINISHED_FILE, {} where it is not there. Raises InputError."""
    path = bf.join(root, file)
    if not bf.exists(path):
        return {}
    content = read_json(path)
    if not isinstance(content, dict):
        raise InputError(f"{path}: should hold a JSON object; mend or remove it")
    for key, kind in SECTIONS.items():
        if not isinstance(content.get(key, kind()), kind):
            raise InputError(f"{path}: its {key} should be a {kind.__name__}, not {brief(content[key])}; mend it")
    if content.get("label_map") is not None:
        check_label_map(content["label_map"], path)
    for number, record in enumerate(content.get("images", [])):
        where = f"{path}: images[{number}]"
        if not isinstance(record, dict) or "image" not in record:
            raise InputError(f"{where}: names no image; mend it")
        if wrong := [key for key, kind in RECORD.items() if not isinstance(record.get(key, kind()), kind)]:
            raise InputError(f"{where}: its {wrong[0]} cannot be {brief(record[wrong[0]])}; mend it")
        scale = record.get("scale", [1, 1])
        if len(scale) != 2 or not all(isinstance(factor, int | float) and factor > 0 for factor in scale):
            raise InputError(f"{where}: its scale cannot be {brief(scale)}; mend it")
        for key, homes in (("image", (IMAGES, FOLDERS["image"])), ("mask", (MASKS, FOLDERS["index_mask"]))):
            if key not in record:
                continue
            inside(root, record[key], where, links=True)
            if record[key].split("/")[0] not in homes or "/" not in record[key]:
                raise InputError(f"{where}: its {key} {brief(record[key])} lies outside {homes[0]}/; mend it")
    images = Counter(record["image"] for record in content.get("images", []))
    if twice := [image for image, count in images.items() if count > 1]:
        raise InputError(f"{path}: lists {brief(twice[0])} twice; mend it")
    return content


def check_label_map(label_map: Any, source: str) -> dict[str, int]:
    """`label_map` itself if it maps names to the indices 1..N, each once; else InputError naming `source`."""
    valid = isinstance(label_map, dict) and all(type(index) is int for index in label_map.values())
    if valid and len(label_map) > MAX_TYPES:
        raise InputError(f"{source}: its label_map has {len(label_map)} types, but {MAX_TYPES} are the most")
    if not valid or not label_map or sorted(label_map.values()) != list(range(1, len(label_map) + 1)):
        raise InputError(f"{source}: label_map should number the types 1, 2, ... but is {brief(label_map)}")
    return label_map


def read_manifest(folder: str) -> dict[int, dict[str, Any]] | None:
    """The rows of the samples in `folder`, by index in ascending order; None where there is no manifest. Do not change
    them. Raises InputError naming the first line that is not as generation/sample_io.py writes it."""
    path = bf.join(folder, MANIFEST)
    return dict(_read(folder, path, read_bytes(path))) if bf.exists(path) else None


@lru_cache(2)  # commands ask several times, and 100,000 rows take 5 s
def _read(folder: str, path: str, data: bytes) -> dict[int, dict[str, Any]]:
    rows: dict[int, dict[str, Any]] = {}
    for number, line in enumerate(data.split(b"\n"), start=1):
        if not line.strip():
            continue
        where = f"{path}: line {number}"
        try:
            row = parse_json(line, where)
            fault = _fault(row)
        except InputError as error:
            fault = str(error).removeprefix(f"{where}: ").partition(";")[0]
        if not fault and row["index"] in rows:
            fault = f"its index {row['index']} stands in an earlier line too"
        if not fault and rows and row["settings"] != next(iter(rows.values()))["settings"]:
            fault = "its settings are not those of the first line"
        if fault:
            raise InputError(f"{where} does not describe a sample ({fault}); remove it, or name another folder")
        rows[row["index"]] = row
    check_no_links(folder, (file for row in rows.values() for file in files_of(row)))
    return dict(sorted(rows.items()))


def recorded_settings(folder: str) -> dict[str, Any]:
    """The settings of the samples in a folder; {} where there are none. Raises InputError as read_manifest."""
    return next(iter((read_manifest(folder) or {}).values()), {}).get("settings", {})


def files_of(row: Mapping[str, Any]) -> list[str]:
    """The files of a sample, by paths from its folder."""
    return [*(row[key] for key in FOLDERS if key in row), *row.get("defects", {}).values()]


def _fault(row: Any) -> str | None:
    """What is wrong with a row of a manifest."""
    if not isinstance(row, dict) or not _whole(index := row.get("index"), 0, MAX_SAMPLES - 1):
        return f"its index is no number from 0 to {MAX_SAMPLES - 1}"
    file = f"{index:06d}.png"
    for key, name in FOLDERS.items():
        if row.get(key, f"{name}/{file}" if key == "mask" else None) != f"{name}/{file}":
            return f"its {key} is not {name}/{file}"
    defects = row.get("defects", {})
    paths = defects.values() if isinstance(defects, dict) else [defects]
    if not all(isinstance(path, str) and (found := _DEFECT.fullmatch(path)) and found[1] == file for path in paths):
        return f"its defects are not defects/<type>/{file}"
    settings, types = row.get("settings"), row.get("types")
    if not isinstance(settings, dict):
        return "it has no settings"
    names = settings.get("class_names")
    if names is not None and not (_texts(names) and 0 < len(set(names)) == len(names) <= MAX_TYPES):
        return f"its settings' class_names are not up to {MAX_TYPES} names, each once"
    if not isinstance(types, dict) or not all(_whole(pixels, 1, MAX_SIDE**2) for pixels in types.values()):
        return "its types are not numbers of pixels"
    if names is not None and not {*types, *defects} <= set(names):
        return "it has types that are not among its class_names"
    condition = row.get("condition") or {}
    if not isinstance(condition, dict) or not (condition.get("types") is None or _texts(condition["types"])):
        return "its condition names no types"
    if not isinstance(settings.get("precision", ""), str) or not isinstance(row.get("seed"), int | None):
        return "its seed is no number, or its precision no name"
    match settings.get("crops", {"crop_from": [], "crop_defect": 0}), settings.get("whole_size", []):
        case {"crop_from": [] | [_, _] as size, "crop_defect": int() | float() as share}, [] | [_, _] as whole:
            if 0 <= share <= 1 and all(_whole(side, 1, MAX_SIDE) for side in (*size, *whole)):
                return None
    return "its settings' crops or whole_size are no sizes and shares"


def _whole(value: Any, least: int, most: int) -> bool:
    return type(value) is int and least <= value <= most


def _texts(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(text, str) for text in value)
