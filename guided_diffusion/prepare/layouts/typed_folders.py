"""Layouts with binary masks in which folders name the types: MVTec AD, DAGM 2007, and a folder per type."""

from __future__ import annotations

import re

import blobfile as bf

from ...data.files import GOOD, by_stem, is_good, list_folder, natural_key, stem_of
from .folder_pairs import OPEN_ENDINGS, OPEN_PAIRS, complete, good_of, pair_by_name
from .mask_values import TypedMasks, type_in_name
from .model import Dataset, Options, Sample, TypeMasks, number_types

DEFECT_FREE_FOLDERS = (GOOD, "free")
DAGM_CLASS = re.compile(r"class\d+", re.IGNORECASE)
DAGM_PARTS = ("Train", "Test")


def read_mvtec(root: str, options: Options) -> Dataset:
    """MVTec AD, and what is converted to it: test/<type>/x.png, ground_truth/<type>/x_mask.png, train/good/."""
    data = Dataset(root, "mvtec")
    tests, truths = bf.join(root, "test"), bf.join(root, "ground_truth")
    test_types, truth_types = list_folder(tests)[1], list_folder(truths)[1]
    types = {name: bf.join(truths, name) for name in truth_types} | {name: bf.join(tests, name) for name in test_types}
    types = {name: folder for name, folder in types.items() if not is_good(name)}
    data.label_map = number_types(types, options.label_map, data.problems)
    for name in sorted(types, key=natural_key):
        images = bf.join(tests, name) if name in test_types else None
        masks = bf.join(truths, name) if name in truth_types else None
        for image, mask in pair_by_name(images, masks, OPEN_ENDINGS, name, data.problems):
            if name in data.label_map:
                data.samples.append(Sample(image, TypeMasks(((data.label_map[name], mask),)), name))
    for part in ("train", "test"):
        folder = bf.join(root, part)
        for name in list_folder(folder)[1] if bf.isdir(folder) else ():
            if is_good(name):  # both parts count from 000
                found = good_of(bf.join(folder, name), name, data.problems)
                data.good += [Sample(s.image, None, name, f"{name}/{part}_{stem_of(s.image)}", part) for s in found]
    return data


def read_dagm(root: str, options: Options) -> Dataset:
    """DAGM 2007: one Class<k> folder, or the folder of several; each class has one type of defect, called like it."""
    data = Dataset(root, "dagm")
    own = [name for name in list_folder(root)[1] if DAGM_CLASS.fullmatch(name)]
    classes = {name.lower(): bf.join(root, name) for name in own} or {_class_of(root): root}
    data.label_map = number_types(classes, options.label_map, data.problems)
    for name, folder in classes.items():
        for part in DAGM_PARTS:
            images = bf.join(folder, part)
            if bf.isdir(images) and name in data.label_map:
                _read_dagm_part(images, name, part.lower(), data)
    return data


def _class_of(root: str) -> str:
    name = bf.basename(root.rstrip("/")).lower()
    return name if DAGM_CLASS.fullmatch(name) else "defect"


def _read_dagm_part(folder: str, name: str, part: str, data: Dataset) -> None:
    """Images of one part; those without a mask in Label/ are defect-free."""
    labels = bf.join(folder, "Label")
    images = by_stem(folder, list_folder(folder)[0], data.problems)
    masks = by_stem(labels, list_folder(labels)[0], data.problems) if bf.isdir(labels) else {}
    for stem, image in images.items():
        mask = masks.pop(f"{stem}_label", None)
        if mask is None:
            data.good.append(Sample(image, None, GOOD, f"{GOOD}/{name}_{part}_{stem}", part))
        else:
            numbered = TypeMasks(((data.label_map[name], mask),))
            data.samples.append(Sample(image, numbered, name, f"{name}/{part}_{stem}", part))
    for mask in masks.values():
        data.problems.append(f"{mask}: no image for this mask in {folder}; add it or remove the mask")


def read_type_folders(root: str, options: Options) -> Dataset:
    """A folder per type with photographs and masks: <type>/x.jpg + x.png, <type>/x.png + x_mask.png, the same in
    <type>/Imgs/ (as magnetic tile), or <type>/images/ + <type>/masks/. `good` and `free` are defect-free."""
    data = Dataset(root, "type_folders")
    names = {folder: type_of_folder(folder) for folder in list_folder(root)[1]}
    found: list[tuple[str, str, str]] = []
    for folder, name in names.items():
        inner = bf.join(root, folder)
        if "Imgs" in list_folder(inner)[1]:
            inner = bf.join(inner, "Imgs")
        inside = list_folder(inner)[1]
        open_pair = complete(OPEN_PAIRS, inside)
        if is_good(name):
            images = next((bf.join(inner, images) for images, _ in OPEN_PAIRS if images in inside), inner)
            data.good += [Sample(path, None, GOOD) for path in _apart(images, data.problems)[0].values()]
        elif open_pair:
            images, masks = (bf.join(inner, part) for part in open_pair[0])
            found += [(name, *pair) for pair in pair_by_name(images, masks, OPEN_ENDINGS, None, data.problems)]
        else:
            found += [(name, *pair) for pair in pairs_beside(inner, data.problems)]
    types = {name: image for name, image, _ in found}
    data.label_map = number_types(types, options.label_map, data.problems)
    data.samples = [
        Sample(image, TypeMasks(((data.label_map[name], mask),)), name)
        for name, image, mask in found
        if name in data.label_map
    ]
    return data


def read_flat(root: str, options: Options) -> Dataset:
    """Images and masks (x.png + x_mask.png, or x.jpg + x.png) in one folder, the type in the file name."""
    data = Dataset(root, "flat")
    typed = TypedMasks(options, data.problems)
    for image, mask in pairs_beside(root, data.problems, alone=GOOD):
        name = type_in_name(image, options.type_regex, data.problems)
        if name and is_good(name):
            data.good.append(Sample(image, None))
        elif name and mask is None:
            data.problems.append(f"{image}: no mask beside this image; add it")
        elif name:
            typed.add(image, [(name, mask)], None, None)
    data.samples, data.label_map = typed.samples()
    return data


def type_of_folder(folder: str) -> str:
    """Type name of a folder: lower case, without MT_; `good` for folders of defect-free images."""
    name = folder.lower().removeprefix("mt_")
    return GOOD if name in DEFECT_FREE_FOLDERS else name


def pairs_beside(folder: str, problems: list[str], alone: str | None = None) -> list[tuple[str, str | None]]:
    """(image, mask) for the images of a folder that also holds their masks.

    x_mask.png belongs to x.*; x.png to x.jpg or any other suffix. An image without a mask is a problem, unless `alone`
    is in its name: then its mask is None.
    """
    images, masks, any_photograph = _apart(folder, problems)
    pairs = []
    for stem, image in images.items():
        if stem in masks or (alone and alone in stem.lower()):
            pairs.append((image, masks.pop(stem, None)))
        elif stem.lower().endswith(OPEN_ENDINGS[1:]) or (any_photograph and image.lower().endswith(".png")):
            problems.append(f"{image}: no image for this mask beside it; add it or remove the mask")
        else:
            problems.append(f"{image}: no mask ({stem}.png or {stem}_mask.png) beside this image; add it")
    problems += [f"{mask}: no image for this mask beside it; add it or remove the mask" for mask in masks.values()]
    return pairs


def _apart(folder: str, problems: list[str]) -> tuple[dict[str, str], dict[str, str], bool]:
    """Images and masks in one folder, {the image's stem: path} each, and whether some image is other than PNG."""
    files = list_folder(folder)[0]
    stems = {stem_of(name) for name in files}
    owners = {name: _owner(stem_of(name), stems) for name in files}
    photographs = {stem_of(name) for name in files if not owners[name] and not name.lower().endswith(".png")}
    for name in files:
        if not owners[name] and name.lower().endswith(".png") and stem_of(name) in photographs:
            owners[name] = stem_of(name)
    images = by_stem(folder, (name for name in files if not owners[name]), problems)
    masks: dict[str, str] = {}
    for name in (name for name in files if owners[name]):
        path, stem = bf.join(folder, name), owners[name]
        if masks.setdefault(stem, path) != path:
            problems.append(f"{images.get(stem, stem)}: two masks for this image, {masks[stem]} and {path}; remove one")
    return images, masks, bool(photographs)


def _owner(stem: str, stems: set[str]) -> str | None:
    """The stem of the image that the file of this stem is marked as the mask of, if it is."""
    for end in OPEN_ENDINGS[1:]:
        if stem.lower().endswith(end) and stem[: -len(end)] in stems:
            return stem[: -len(end)]
    return None
