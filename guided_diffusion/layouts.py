"""Where a data set's images and index masks lie on disk: the one reader (and writer) of dataset layouts.

Layouts known, each with type folders (`<images>/<type>/x.png`) or flat (`<images>/x.png`):

    test/    converted_ground_truth/    the released training layout, and what our own scripts write
    image/   mask/                      Defect Spectrum
    images/  masks_converted_dir/       generated samples, Defect Spectrum's synthetic parts

An image and its mask are paired by name: mask `x.png` or `x_mask.png` belongs to image `x.*`. Colour
renderings (`rgb_mask/`, `rbg_mask/`, `masks/`, files called `*_rgb_mask.*`) are never read as index masks.
"""

import os
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import blobfile as bf
import numpy as np

from .errors import InputError
from .file_io import (
    encode_png,
    ensure_writable,
    read_bytes,
    read_json,
    remove_temporaries,
    write_atomic,
    write_json,
)

FOLDER_PAIRS = (("test", "converted_ground_truth"), ("image", "mask"), ("images", "masks_converted_dir"))
IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp")
COLOUR_MASK_ENDINGS = ("_rgb_mask", "_rbg_mask")
GOOD = "good"  # the type folder of defect-free images, which have no mask
DATASET_FILE = "dataset.json"


@dataclass(frozen=True)
class Sample:
    """An image file, its index mask file, and the type folder both lie in (None in flat layouts)."""

    image: str
    mask: str
    folder: str | None


def find_samples(root: str) -> list[Sample]:
    """Every image of the data set at `root` with its mask, by type folder and name in natural order.

    Type folders called `good` are skipped. Raises InputError where `root` is missing or holds no layout or
    several, or no images; where an image has no mask or two, a mask no image, or two files share a stem.
    """
    image_root, mask_root = _find_folder_pair(root)
    image_types = {name for name in list_folder(image_root)[1] if not is_good(name)}
    mask_types = {name for name in list_folder(mask_root)[1] if not is_good(name)}
    samples = _pair(image_root, mask_root, None)
    for name in sorted(image_types | mask_types, key=natural_key):
        images, masks = bf.join(image_root, name), bf.join(mask_root, name)
        samples += _pair(images if name in image_types else None, masks if name in mask_types else None, name)
    if not samples:
        raise InputError(f"{image_root}: holds no images ({' '.join(IMAGE_SUFFIXES)}) with defects; add some")
    return samples


def find_good(root: str) -> list[str]:
    """The defect-free images of the data set at `root`, in natural order: those in type folders called `good`.

    Raises InputError where `root` is missing or holds no layout or several.
    """
    image_root, _ = _find_folder_pair(root)
    folders = [bf.join(image_root, name) for name in list_folder(image_root)[1] if is_good(name)]
    return [path for folder in folders for path in by_stem(folder, list_folder(folder)[0]).values()]


def read_label_map(root: str) -> dict[str, int] | None:
    """The label map {type name: index from 1} in `<root>/dataset.json`, or None where there is none.

    Raises InputError if the file is there but its label map is not one.
    """
    path = bf.join(root, DATASET_FILE)
    if not bf.exists(path):
        return None
    content = read_json(path)
    if not isinstance(content, dict):
        raise InputError(f"{path}: should hold a JSON object; mend or remove it")
    label_map = content.get("label_map")
    return None if label_map is None else check_label_map(label_map, path)


def check_label_map(label_map: Any, source: str) -> dict[str, int]:
    """`label_map` itself if it maps names to the indices 1..N, each once; else InputError naming `source`."""
    valid = isinstance(label_map, dict) and all(type(index) is int for index in label_map.values())
    if not valid or not label_map or sorted(label_map.values()) != list(range(1, len(label_map) + 1)):
        raise InputError(f"{source}: label_map should number the types 1, 2, ... but is {label_map!r}")
    return label_map


def write_released(
    root: str,
    names: Sequence[str],
    pairs: Iterable[tuple[np.ndarray, np.ndarray | None]],
    label_map: dict[str, int],
    source: dict[str, Any],
) -> int:
    """Write a data set in the released layout, dataset.json last; returns how many files had to be written.

    names: "<type>/<stem>" of each sample. pairs: in the same order, image uint8 [H, W] or [H, W, 3] and index
    mask uint8 [H, W], or None for a defect-free image; taken one at a time. source: where the data came from,
    for dataset.json. What is there already with the same content is left alone, so a run that was cut off
    goes on. Raises InputError, before anything is written, where `root` holds images that belong to another
    data set or cannot be written.
    """
    _check_no_strangers(root, names)
    ensure_writable(root, "OUT")
    remove_temporaries(root)
    for folder in {name.split("/")[0] for name in names}:
        for part in FOLDER_PAIRS[0]:
            remove_temporaries(bf.join(root, part, folder))
    written = 0
    records = []
    for name, (image, mask) in zip(names, pairs, strict=True):
        record: dict[str, Any] = {"image": f"test/{name}.png", "size": list(image.shape[:2])}
        written += _write_if_changed(bf.join(root, record["image"]), encode_png(image))
        if mask is not None:
            record["mask"] = f"converted_ground_truth/{name}.png"
            written += _write_if_changed(bf.join(root, record["mask"]), encode_png(mask))
            counts = {label: int((mask == index).sum()) for label, index in label_map.items()}
            record["types"] = {label: count for label, count in counts.items() if count}
        records.append(record)
    content = {"label_map": label_map, "source": source, "images": records}
    path = bf.join(root, DATASET_FILE)
    if not bf.exists(path) or read_json(path) != content:
        write_json(path, content)
        written += 1
    return written


def list_folder(folder: str) -> tuple[list[str], list[str]]:
    """Names of the image files and of the folders in `folder`, hidden ones left out, in natural order."""
    try:
        entries = [entry for entry in bf.scandir(folder) if not entry.name.startswith(".")]
    except OSError as error:
        raise InputError(f"{folder}: cannot be listed ({error.strerror or error})") from error
    files = [entry.name for entry in entries if entry.is_file and entry.name.lower().endswith(IMAGE_SUFFIXES)]
    folders = [entry.name for entry in entries if entry.is_dir]
    return sorted(files, key=natural_key), sorted(folders, key=natural_key)


def natural_key(name: str) -> list[tuple[int, int, str]]:
    """Sort key under which img2 comes before img10."""
    parts = re.split(r"(\d+)", name)
    return [(0, int(part), part) if part.isdecimal() else (1, 0, part) for part in parts if part]


def is_good(folder: str) -> bool:
    """Whether a type folder of this name holds defect-free images."""
    return folder.lower() == GOOD


def stem_of(path: str) -> str:
    """File name without folder and suffix."""
    return os.path.splitext(bf.basename(path))[0]


def by_stem(folder: str, files: Iterable[str]) -> dict[str, str]:
    """{stem: path} of the files in `folder`. Raises InputError where two of them share a stem."""
    paths: dict[str, str] = {}
    for name in files:
        first = paths.setdefault(stem_of(name), bf.join(folder, name))
        if bf.basename(first) != name:
            path = bf.join(folder, name)
            raise InputError(f"{path}: shares its stem with {bf.basename(first)}; rename or remove one")
    return paths


def _find_folder_pair(root: str) -> tuple[str, str]:
    """The image folder and the mask folder below `root`."""
    known = ", ".join(f"{images}/ + {masks}/" for images, masks in FOLDER_PAIRS)
    if not bf.isdir(root):
        problem = "is not a folder" if bf.exists(root) else "does not exist"
        raise InputError(f"{root}: {problem}; name a data folder with {known}")
    folders = list_folder(root)[1]
    complete = complete_pairs(folders)
    if len(complete) > 1:
        found = ", ".join(f"{images}/ + {masks}/" for images, masks in complete)
        raise InputError(f"{root}: holds more than one data set ({found}); give each its own folder")
    if complete:
        images, masks = complete[0]
        return bf.join(root, images), bf.join(root, masks)
    for pair in FOLDER_PAIRS:
        for there, absent in (pair, pair[::-1]):
            if there in folders:
                raise InputError(f"{root}: holds {there}/ but no {absent}/ beside it (looked for {known})")
    for name in folders:
        if complete_pairs(list_folder(bf.join(root, name))[1]):
            raise InputError(f"{root}: holds no data set itself; did you mean {bf.join(root, name)}?")
    raise InputError(
        f"{root}: holds no data set (looked for {known}); scripts/prepare_data.py makes one from type folders"
    )


def complete_pairs(folders: Sequence[str]) -> list[tuple[str, str]]:
    """Those of FOLDER_PAIRS of which both the image and the mask folder are among `folders`."""
    return [pair for pair in FOLDER_PAIRS if set(pair) <= set(folders)]


def _pair(image_folder: str | None, mask_folder: str | None, folder: str | None) -> list[Sample]:
    """Samples of one image folder and its mask folder; None stands for a folder that is not there."""
    images = by_stem(image_folder, list_folder(image_folder)[0]) if image_folder else {}
    mask_files = list_folder(mask_folder)[0] if mask_folder else []
    index_files = [name for name in mask_files if not stem_of(name).lower().endswith(COLOUR_MASK_ENDINGS)]
    masks = by_stem(mask_folder, index_files) if mask_folder else {}
    samples = []
    for stem, image in images.items():
        found = [masks.pop(stem)] if stem in masks else []
        # x_mask belongs to image x, unless an image is itself called x_mask.
        if (longer := f"{stem}_mask") in masks and longer not in images:
            found.append(masks.pop(longer))
        if not found:
            where = mask_folder or f"its mask folder, which has no {folder}/"
            raise InputError(f"{image}: no mask for this image ({stem}.png or {stem}_mask.png) in {where}")
        if len(found) > 1:
            raise InputError(f"{image}: two masks for this image, {found[0]} and {found[1]}; remove one")
        samples.append(Sample(image, found[0], folder))
    for mask in masks.values():
        where = image_folder or f"the image folder, which has no {folder}/"
        raise InputError(f"{mask}: no image for this mask in {where}; add it or remove the mask")
    return samples


def _check_no_strangers(root: str, names: Sequence[str]) -> None:
    """Refuse to mix a data set into a folder that already holds other images."""
    if bf.exists(root) and not bf.isdir(root):
        raise InputError(f"{root}: is a file; name a folder for the data set")
    expected = {f"{name}.png" for name in names}
    for part in FOLDER_PAIRS[0]:
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


def _write_if_changed(path: str, data: bytes) -> bool:
    """Write `data` unless the file holds it already; returns whether it was written."""
    if bf.exists(path) and read_bytes(path) == data:
        return False
    write_atomic(path, data)
    return True
