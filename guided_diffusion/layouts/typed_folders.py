"""Layouts with binary masks in which folders name the types: MVTec AD, DAGM 2007, and a folder per type."""

from __future__ import annotations

import re

import blobfile as bf

from .files import GOOD, by_stem, is_good, list_folder, natural_key, stem_of
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
    types = {name for name in (*test_types, *truth_types) if not is_good(name)}
    data.label_map = number_types(types, options.label_map, root, data.problems)
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
    data.label_map = number_types(classes, options.label_map, root, data.problems)
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
        open_pair = complete(OPEN_PAIRS, list_folder(inner)[1])
        if is_good(name):
            inner = bf.join(inner, open_pair[0][0]) if open_pair else inner
            data.good += [Sample(path, None, GOOD) for path in _photographs(inner, data.problems)]
        elif open_pair:
            images, masks = (bf.join(inner, part) for part in open_pair[0])
            found += [(name, *pair) for pair in pair_by_name(images, masks, OPEN_ENDINGS, None, data.problems)]
        else:
            found += [(name, *pair) for pair in pairs_beside(inner, data.problems)]
    types = {name for name, _, _ in found}
    data.label_map = number_types(types, options.label_map, root, data.problems)
    data.samples = [
        Sample(image, TypeMasks(((data.label_map[name], mask),)), name)
        for name, image, mask in sorted(found, key=lambda item: natural_key(item[0]))
        if name in data.label_map
    ]
    return data


def read_flat(root: str, options: Options) -> Dataset:
    """Images and masks (x.png + x_mask.png, or x.jpg + x.png) in one folder, the type in the file name."""
    data = Dataset(root, "flat")
    typed = TypedMasks(root, options, data.problems)
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
    files = list_folder(folder)[0]
    stems = {stem_of(name) for name in files}
    owners = {name: _owner(stem_of(name), stems) for name in files}
    marked = [name for name in files if owners[name]]
    plain = [name for name in files if not owners[name]]
    photographs = {stem_of(name) for name in plain if not name.lower().endswith(".png")}
    beside = [name for name in plain if name.lower().endswith(".png") and stem_of(name) in photographs]
    images = by_stem(folder, (name for name in plain if name not in beside), problems)
    masks: dict[str, str] = {}
    for name in (*marked, *beside):
        path, stem = bf.join(folder, name), owners[name] or stem_of(name)
        if stem in masks:
            problems.append(f"{bf.join(folder, images[stem])}: two masks for this image, {masks[stem]} and {path}")
        masks.setdefault(stem, path)
    pairs = []
    lonely_masks = not masks and all(name.lower().endswith(".png") for name in files)
    for stem, image in images.items():
        if stem in masks or (alone and alone in stem.lower()):
            pairs.append((image, masks.get(stem)))
        elif image.lower().endswith(".png") and photographs and not lonely_masks:
            problems.append(f"{image}: no image ({stem}.jpg) beside this mask; add it or remove the mask")
        else:
            problems.append(f"{image}: no mask ({stem}.png or {stem}_mask.png) beside this image; add it")
    return pairs


def _owner(stem: str, stems: set[str]) -> str | None:
    """The stem of the image that the file of this stem is marked as the mask of, if it is."""
    for end in OPEN_ENDINGS[1:]:
        if stem.lower().endswith(end) and stem[: -len(end)] in stems:
            return stem[: -len(end)]
    return None


def _photographs(folder: str, problems: list[str]) -> list[str]:
    """Defect-free images: they need no masks, so a PNG that goes with no other file is a photograph too."""
    files = list_folder(folder)[0]
    others = {stem_of(name) for name in files if not name.lower().endswith(".png")}
    stems = {stem_of(name) for name in files}
    kept = [
        name
        for name in files
        if not (name.lower().endswith(".png") and stem_of(name) in others) and not _owner(stem_of(name), stems)
    ]
    return list(by_stem(folder, kept, problems).values())
