"""dataset.json of a prepared set: its label map, where it came from, and a record of each image, checked at the door.

What it says is data: the files that it names lie in the set's own folders.
"""

from collections import Counter
from typing import Any

import blobfile as bf

from .. import MAX_TYPES
from ..errors import InputError, brief
from ..file_io import inside, read_json
from .manifest import FOLDERS

RELEASED = IMAGES, MASKS = "test", "converted_ground_truth"
DATASET_FILE = "dataset.json"
UNFINISHED_FILE = "dataset.unfinished.json"  # stands in its place while the data set is being written
SECTIONS = {"source": dict, "split": dict, "images": list}
RECORD = {  # what is told of an image; its path alone must be
    **dict.fromkeys(("image", "mask", "source", "image_sha256", "mask_sha256"), str),
    **{"group": str, "size": list, "types": dict, "scale": list},
}


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
