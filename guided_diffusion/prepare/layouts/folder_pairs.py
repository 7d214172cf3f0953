"""Layouts of an image folder and a mask folder side by side: index masks, or masks of any kind."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import blobfile as bf

from ...data.files import PARTS, by_stem, is_good, list_folder, name_of, natural_key, stem_of
from ...errors import InputError
from .defect_spectrum import label_map_of
from .mask_values import TypedMasks, type_in_name
from .model import Dataset, IndexMask, Options, Sample

# Format, image folder, folder of index masks.
INDEX_PAIRS = (
    ("released", "test", "converted_ground_truth"),
    ("defect_spectrum", "image", "mask"),
    ("synthetic", "images", "masks_converted_dir"),
)
# Image folder and folder of masks that may be anything.
OPEN_PAIRS = (("images", "masks"), ("imgs", "masks"), ("img_dir", "ann_dir"))
COLOUR_MASK_ENDINGS = ("_rgb_mask", "_rbg_mask")
INDEX_ENDINGS = ("", "_mask")
OPEN_ENDINGS = ("", "_mask", "_label", "_gt", "_seg")


def complete(pairs: Sequence[tuple[str, ...]], folders: Sequence[str]) -> list[tuple[str, ...]]:
    """Those of INDEX_PAIRS or OPEN_PAIRS of which both folders are among `folders`."""
    return [pair for pair in pairs if set(pair[-2:]) <= set(folders)]


def read_index_pair(root: str, name: str, images: str, masks: str, options: Options) -> Dataset:
    """Images with index masks: flat, in type folders, or in parts (train, val). `good` holds defect-free images."""
    data = Dataset(root, name)
    label_map = options.label_map or label_map_of(root, list_folder(root)[1])
    data.label_map = dict(label_map) if label_map else None
    found = _read_folders(bf.join(root, images), bf.join(root, masks), INDEX_ENDINGS, data)
    if options.colormap or options.mask_values in ("binary", "colour"):  # not what this layout holds, says the user
        typed = TypedMasks(options, data.problems)
        for image, mask, folder, part in found:
            typed.add(image, [(folder or "defect", mask)], folder, part)
        data.samples, data.label_map = typed.samples()
        return data
    stems = Counter(stem_of(image) for image, *_ in found)
    for image, mask, folder, part in found:
        name = name_of(stem_of(image), part, stems) if part else ""
        data.samples.append(Sample(image, IndexMask(mask), folder, name, part))
    if not data.samples and not data.problems:
        data.problems.append(f"{bf.join(root, images)}: holds no images with defects; add some")
    return data


def read_open_pair(root: str, images: str, masks: str, options: Options) -> Dataset:
    """Images with masks of any kind: flat, in type folders, in parts (train, val), or flat images and a mask folder
    per type."""
    data = Dataset(root, "images_masks")
    image_root, mask_root = bf.join(root, images), bf.join(root, masks)
    mask_files, mask_folders = list_folder(mask_root)
    typed = TypedMasks(options, data.problems)
    if mask_folders and not mask_files and not list_folder(image_root)[1]:
        _read_folder_per_type(image_root, mask_root, mask_folders, data, typed)
        return data
    for image, mask, folder, part in _read_folders(image_root, mask_root, OPEN_ENDINGS, data):
        named = folder or (type_in_name(image, options.type_regex, data.problems) if options.type_regex else None)
        typed.add(image, [(named or "defect", mask)], folder, part)
    data.samples, data.label_map = typed.samples()
    return data


def _read_folders(
    image_root: str, mask_root: str, endings: Sequence[str], data: Dataset
) -> list[tuple[str, str, str | None, str | None]]:
    """(image, mask, type folder, part) of the pairs in the two folders and in the folders in them; notes the good."""
    found = []
    for folder, images, masks in _folders(image_root, mask_root):
        if folder and is_good(folder):
            data.good += good_of(images, folder, data.problems)
            continue
        part = folder.lower() if folder and folder.lower() in PARTS else None
        for image, mask in pair_by_name(images, masks, endings, folder, data.problems):
            found.append((image, mask, None if part else folder, part))
    return found


def _read_folder_per_type(
    image_root: str, mask_root: str, types: Sequence[str], data: Dataset, typed: TypedMasks
) -> None:
    """images/x.png with masks/<type>/x.png for each type that it shows; without any it is defect-free."""
    images = by_stem(image_root, list_folder(image_root)[0], data.problems)
    found: dict[str, list[tuple[str, str]]] = {stem: [] for stem in images}
    for name in (name for name in types if not is_good(name)):
        folder = bf.join(mask_root, name)
        masks = by_stem(folder, list_folder(folder)[0], data.problems)
        for stem, mask in masks.items():
            owner = next((s for end in OPEN_ENDINGS if (s := stem.removesuffix(end)) in images), None)
            if owner is None:
                data.problems.append(f"{mask}: no image for this mask in {image_root}; add it or remove the mask")
            else:
                found[owner].append((name, mask))
    for stem, image in images.items():
        if found[stem]:
            typed.add(image, found[stem], None, None)
    data.samples, data.label_map = typed.samples()
    data.good = [Sample(image, None) for stem, image in images.items() if not found[stem]]
    if data.good:
        data.notes.append(f"{len(data.good)} images have no mask in any of {mask_root}/*: taken as defect-free")


def good_of(folder: str | None, name: str | None, problems: list[str]) -> list[Sample]:
    """The defect-free images in a folder, as samples of the type folder `name`."""
    files = by_stem(folder, list_folder(folder)[0], problems) if folder else {}
    return [Sample(path, None, name) for path in files.values()]


def pair_by_name(
    image_folder: str | None, mask_folder: str | None, endings: Sequence[str], folder: str | None, problems: list[str]
) -> list[tuple[str, str]]:
    """(image, mask) for each image of one folder; None stands for a folder that is not there.

    Mask x or x + ending belongs to image x, unless an image is itself called that. What has no partner, or two, is
    noted as a problem.
    """
    images = by_stem(image_folder, list_folder(image_folder)[0], problems) if image_folder else {}
    files = list_folder(mask_folder)[0] if mask_folder else []
    files = [name for name in files if not stem_of(name).lower().endswith(COLOUR_MASK_ENDINGS)]
    masks = by_stem(mask_folder, files, problems) if mask_folder else {}
    pairs = []
    for stem, image in images.items():
        names = [stem + end for end in endings if not end or stem + end not in images]
        found = [masks.pop(name) for name in names if name in masks]
        if not found:
            where = mask_folder or f"its mask folder, which has no {folder}/"
            problems.append(f"{image}: no mask for this image ({stem}.png or {stem}_mask.png) in {where}; add it")
        elif len(found) > 1:
            problems.append(f"{image}: two masks for this image, {found[0]} and {found[1]}; remove one")
        else:
            pairs.append((image, found[0]))
    for mask in masks.values():
        where = image_folder or f"the image folder, which has no {folder}/"
        problems.append(f"{mask}: no image for this mask in {where}; add it or remove the mask")
    return pairs


def _folders(image_root: str, mask_root: str) -> list[tuple[str | None, str | None, str | None]]:
    """(name, image folder, mask folder): the two roots themselves, then what lies in either, in natural order."""
    image_names, mask_names = list_folder(image_root)[1], list_folder(mask_root)[1]
    folders: list[tuple[str | None, str | None, str | None]] = [(None, image_root, mask_root)]
    for name in sorted({*image_names, *mask_names}, key=natural_key):
        images = bf.join(image_root, name) if name in image_names else None
        folders.append((name, images, bf.join(mask_root, name) if name in mask_names else None))
    return folders


def check_incomplete(root: str, folders: Sequence[str]) -> None:
    """Raise InputError where `root` holds one folder of a pair but not the other."""
    known = ", ".join(f"{images}/ + {masks}/" for _, images, masks in INDEX_PAIRS)
    for pair in (*(pair[1:] for pair in INDEX_PAIRS), *OPEN_PAIRS):
        for there, absent in (pair, pair[::-1]):
            if there in folders:
                raise InputError(f"{root}: holds {there}/ but no {absent}/ beside it (looked for {known})")
