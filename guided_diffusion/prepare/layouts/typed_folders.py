"""Layouts with binary masks in which folders or file names tell the types: MVTec AD, DAGM 2007, a folder per type."""

from __future__ import annotations

import re
from collections.abc import Sequence

import blobfile as bf

from ...data.files import GOOD, by_stem, is_good, list_folder, natural_key, stem_of
from ...data.prepared import Sample, good_of, pair_by_name
from .folder_pairs import OPEN_ENDINGS, OPEN_PAIRS, complete, type_in_name
from .mask_values import number_masks
from .model import Dataset, Options

DEFECT_FREE_FOLDERS = (GOOD, "free")
DAGM_CLASS = re.compile(r"class\d+", re.IGNORECASE)
DAGM_PARTS = ("Train", "Test")


def read_mvtec(root: str, options: Options) -> Dataset:
    """MVTec AD, and what is converted to it: test/<type>/x.png, ground_truth/<type>/x_mask.png, train/good/."""
    data = Dataset(root, "mvtec")
    folders = {
        part: {name: bf.join(root, part, name) for name in list_folder(bf.join(root, part))[1]}
        for part in ("ground_truth", "test", "train")
        if bf.isdir(bf.join(root, part))
    }
    images, masks = folders["test"], folders["ground_truth"]
    types = {name: folder for name, folder in (masks | images).items() if not is_good(name)}
    found = [
        (Sample(image, None, name), [(name, mask)])
        for name in sorted(types, key=natural_key)
        for image, mask in pair_by_name(images.get(name), masks.get(name), OPEN_ENDINGS, name, data.problems)
    ]
    data.add_typed(found, options.label_map, types)
    for part in ("train", "test"):
        for name in filter(is_good, folders.get(part, ())):  # both parts count from 000
            good = good_of(folders[part][name], name, data.problems)
            data.good += [Sample(s.image, None, name, f"{name}/{part}_{stem_of(s.image)}", part) for s in good]
    return data


def is_dagm(root: str, folders: Sequence[str]) -> bool:
    """Whether a folder of these folders is a class of DAGM 2007, or holds classes."""
    if any(part in folders and "Label" in list_folder(bf.join(root, part))[1] for part in DAGM_PARTS):
        return True
    classes = [name for name in folders if DAGM_CLASS.fullmatch(name)]
    return any(set(DAGM_PARTS) & set(list_folder(bf.join(root, name))[1]) for name in classes)


def read_dagm(root: str, options: Options) -> Dataset:
    """DAGM 2007: one Class<k> folder, or the folder of several; each class has one type of defect, called like it.

    Images without a mask in Label/ are defect-free.
    """
    data = Dataset(root, "dagm")
    classes = {name.lower(): bf.join(root, name) for name in list_folder(root)[1] if DAGM_CLASS.fullmatch(name)}
    if not classes:
        own = bf.basename(root.rstrip("/")).lower()
        classes = {own if DAGM_CLASS.fullmatch(own) else "defect": root}
    found = []
    for name, part in ((name, part) for name in classes for part in DAGM_PARTS):
        folder, part, good = bf.join(classes[name], part), part.lower(), []
        for image, mask in pair_by_name(folder, bf.join(folder, "Label"), ("_label",), None, data.problems, good):
            found.append((Sample(image, None, name, f"{name}/{part}_{stem_of(image)}", part), [(name, mask)]))
        data.good += [Sample(path, None, GOOD, f"{GOOD}/{name}_{part}_{stem_of(path)}", part) for path in good]
    data.add_typed(found, options.label_map, classes)
    return data


def read_type_folders(root: str, options: Options) -> Dataset:
    """A folder per type with photographs and masks: <type>/x.jpg + x.png, <type>/x.png + x_mask.png, the same in
    <type>/Imgs/ (as magnetic tile), or <type>/images/ + <type>/masks/. `good` and `free` are defect-free."""
    data = Dataset(root, "type_folders")
    found = []
    for folder in list_folder(root)[1]:
        name = folder.lower().removeprefix("mt_")
        inner = bf.join(root, folder)
        if "Imgs" in list_folder(inner)[1]:
            inner = bf.join(inner, "Imgs")
        inside = list_folder(inner)[1]
        if name in DEFECT_FREE_FOLDERS:
            images = next((bf.join(inner, images) for _, images, _ in OPEN_PAIRS if images in inside), inner)
            data.good += [Sample(path, None, GOOD) for path in _apart(images, data.problems)[0].values()]
            continue
        if pairs := complete(OPEN_PAIRS, inside):
            images, masks = (bf.join(inner, part) for part in pairs[0][1:])
            own = pair_by_name(images, masks, OPEN_ENDINGS, None, data.problems)
        else:
            own = _pairs_beside(inner, data.problems)
        found += [(Sample(image, None, name), [(name, mask)]) for image, mask in own]
    data.add_typed(found, options.label_map)
    return data


def read_flat(root: str, options: Options) -> Dataset:
    """Images and masks (x.png + x_mask.png, or x.jpg + x.png) in one folder, the type in the file name."""
    data = Dataset(root, "flat")
    found = []
    for image, mask in _pairs_beside(root, data.problems, alone=GOOD):
        name = type_in_name(image, options.type_regex, data.problems)
        if name and is_good(name):
            data.good.append(Sample(image, None))
        elif name and mask is None:
            data.problems.append(f"{image}: no mask beside this image; add it")
        elif name:
            found.append((Sample(image, None), [(name, mask)]))
    number_masks(found, options, data)
    return data


def _pairs_beside(folder: str, problems: list[str], alone: str | None = None) -> list[tuple[str, str | None]]:
    """(image, mask) for the images of a folder that also holds their masks; an image without is a problem, unless
    `alone` is in its name: then its mask is None."""
    images, masks, any_photograph = _apart(folder, problems)
    pairs = []
    for stem, image in images.items():
        if stem in masks or (alone and alone in stem.lower()):
            pairs.append((image, masks.pop(stem, None)))
        elif stem.lower().endswith(OPEN_ENDINGS[1:]) or (any_photograph and image.lower().endswith(".png")):
            masks[image] = image
        else:
            problems.append(f"{image}: no mask ({stem}.png or {stem}_mask.png) beside this image; add it")
    problems += [f"{mask}: no image for this mask beside it; add it or remove the mask" for mask in masks.values()]
    return pairs


def _apart(folder: str, problems: list[str]) -> tuple[dict[str, str], dict[str, str], bool]:
    """Images and masks in one folder, {the image's stem: path} each, and whether some image is other than PNG.

    x_mask.png is the mask of x.*; x.png of x.jpg or any other suffix.
    """
    files = list_folder(folder)[0]
    stems = {stem_of(name) for name in files}

    def owner(name: str) -> str | None:
        stem = stem_of(name)
        owners = (stem[: -len(end)] for end in OPEN_ENDINGS[1:] if stem.lower().endswith(end))
        return next((owner for owner in owners if owner in stems), None)

    owners = {name: owner(name) for name in files}
    photographs = {stem_of(name) for name in files if not owners[name] and not name.lower().endswith(".png")}
    for name in files:
        if not owners[name] and name.lower().endswith(".png") and stem_of(name) in photographs:
            owners[name] = stem_of(name)
    images = by_stem(folder, (name for name in files if not owners[name]), problems)
    masks: dict[str, str] = {}
    for name, stem in ((name, stem) for name, stem in owners.items() if stem):
        path = bf.join(folder, name)
        if masks.setdefault(stem, path) != path:
            problems.append(f"{images.get(stem, stem)}: two masks for this image, {masks[stem]} and {path}; remove one")
    return images, masks, bool(photographs)
