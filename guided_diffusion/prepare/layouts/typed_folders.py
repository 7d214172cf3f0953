"""Layouts with binary masks in which folders or file names tell the types: MVTec AD, DAGM 2007, a folder per type."""

import re

import blobfile as bf

from ... import GOOD
from ...data.files import ALSO_GOOD, by_stem, folders_in, is_good, list_folder, part_folders, stem_of
from ...data.prepared import Sample, Stems, pair_by_name, pair_files
from .mask_values import DEFAULT
from .model import Dataset, Options, TypeMasks
from .pairs import IMAGE_FOLDERS, OPEN_ENDINGS, open_pairs, parts_alone, type_in_name

DEFECT_FREE_FOLDERS = (GOOD, "free")
DAGM_CLASS = re.compile(r"class\d+", re.IGNORECASE)
DAGM_PARTS = ("Train", "Test")
KOLEKTOR_ITEM = re.compile(r"kos\d+", re.IGNORECASE)


def read_mvtec(root: str, options: Options) -> Dataset | None:
    """MVTec AD, and what is converted to it: test/<type>/x.png, ground_truth/<type>/x_mask.png, train/good/. MVTec LOCO
    has several masks in ground_truth/<type>/x/."""
    if not {"test", "ground_truth"} <= set(list_folder(root)[1]):
        return None
    data = Dataset(root, "mvtec")
    images, masks = bf.join(root, "test"), bf.join(root, "ground_truth")
    found = {name: folders for name, folders in folders_in(images, masks).items() if not is_good(name, folders[1])}
    data.types = {name: folders[0] for name, folders in found.items()}
    for name, (shown, drawn) in found.items():
        homes = {home: bf.join(drawn, home) for home in list_folder(drawn)[1] if list_folder(bf.join(drawn, home))[0]}
        stems = by_stem(shown, data.problems), by_stem(drawn, data.problems) | homes
        for image, mask in pair_by_name(stems, OPEN_ENDINGS, (shown, drawn), data.problems, data.unlabelled):
            files = by_stem(mask, data.problems).values() if mask in homes.values() else [mask]
            data.samples.append(Sample(image, TypeMasks(tuple((name, file) for file in files)), name))
    for home, part in part_folders(root).items():
        for name in (name for name in list_folder(home)[1] if is_good(name, bf.join(masks, name))):
            for path in by_stem(bf.join(home, name), data.problems).values():  # both parts count from 000
                data.good.append(Sample(path, None, GOOD, f"{GOOD}/{part}_{stem_of(path)}", part))
    return data


def read_dagm(root: str, options: Options) -> Dataset | None:
    """DAGM 2007: one Class<k> folder, or several; each is a type. Images without a mask in Label/ are defect-free."""
    classes = {name.lower(): bf.join(root, name) for name in list_folder(root)[1] if DAGM_CLASS.fullmatch(name)}
    if not classes:
        own = bf.basename(root).lower()
        classes = {own if DAGM_CLASS.fullmatch(own) else "defect": root}
    homes = [(name, part, bf.join(home, part)) for name, home in classes.items() for part in DAGM_PARTS]
    if not any(bf.isdir(bf.join(home, "Label")) for _, _, home in homes):
        return None
    data = Dataset(root, "dagm", types=classes)
    for name, part, home in homes:
        part, alone = part.lower(), []
        for image, mask in pair_files(home, bf.join(home, "Label"), ("_label",), data.problems, alone):
            drawn = TypeMasks(((name, mask),))
            data.samples.append(Sample(image, drawn, name, f"{name}/{part}_{stem_of(image)}", part))
        data.good += [Sample(path, None, GOOD, f"{GOOD}/{name}_{part}_{stem_of(path)}", part) for path in alone]
    return data


def read_kolektor(root: str, options: Options) -> Dataset | None:
    """Images and masks beside each other in folders that tell no type, but an item, kosNN/Part0.jpg + Part0_label.bmp
    (KolektorSDD), or a part, train/x.png + x_GT.png (KolektorSDD2 and others). Black masks mean defect-free."""
    data = Dataset(root, "kolektor", open_values=True, black_is_good=True)
    items = list_folder(root)[1]
    of_items = all(map(KOLEKTOR_ITEM.fullmatch, items))
    homes = dict.fromkeys(bf.join(root, name) for name in items) if of_items else parts_alone(root)
    for home, part in homes.items():
        for image, mask in _beside(home, data.problems, data.unlabelled):
            name = type_in_name(image, options.type_regex, data.problems) if options.type_regex else DEFAULT
            data.add(name, [(image, mask)], part=part)
    return data if data.samples else None


def read_type_folders(root: str, options: Options) -> Dataset | None:
    """A folder per type with photographs and masks: <type>/x.jpg + x.png, <type>/x.png + x_mask.png, the same in
    <type>/Imgs/ (as magnetic tile), or <type>/images/ + <type>/masks/. `good` and `free` are defect-free."""
    data = Dataset(root, "type_folders")
    for folder in list_folder(root)[1]:
        name = folder.lower().removeprefix("mt_")
        home = bf.join(root, folder)
        if "Imgs" in list_folder(home)[1]:
            home = bf.join(home, "Imgs")
        found = open_pairs(home)
        if name in DEFECT_FREE_FOLDERS or (name in ALSO_GOOD and not found and not _apart(home, [])[1]):
            inside = [bf.join(home, images) for images in IMAGE_FOLDERS if images in list_folder(home)[1]]
            images = _apart([*inside, home][0], data.problems)[0]
            data.good += [Sample(path, None, GOOD) for path in images.values()]
        elif found:
            folders = (bf.join(home, part) for part in found[0])
            data.add(name, pair_files(*folders, OPEN_ENDINGS, data.problems, data.unlabelled), name)
        else:
            data.add(name, _beside(home, data.problems, data.unlabelled), name)
    return data if data.samples else None


def read_flat(root: str, options: Options) -> Dataset | None:
    """Images and masks (x.png + x_mask.png, or x.jpg + x.png) in one folder, the type in the file name."""
    data = Dataset(root, "flat", open_values=True)
    alone: list[str] = []
    pairs = _beside(root, data.problems, alone)
    if not pairs:
        return None
    renamed = (options.rename or {}).get("*")
    for image, mask in [*pairs, *((image, None) for image in alone)]:
        name = type_in_name(image, options.type_regex, data.problems if mask and not renamed else []) or renamed
        if name and is_good(name):
            data.good.append(Sample(image, None))
        elif mask is None:
            data.unlabelled.append(image)
        elif name:
            data.add(name, [(image, mask)])
    return data


def _beside(folder: str, problems: list[str], alone: list[str]) -> list[tuple[str, str]]:
    """pair_by_name of images and masks that lie in one folder."""
    return pair_by_name(_apart(folder, problems), OPEN_ENDINGS, (folder, folder), problems, alone)


def _apart(folder: str, problems: list[str]) -> Stems:
    """Images and masks in one folder: x_mask.png is the mask of x.*, and x.png of x.jpg or so."""
    stems = {name: stem_of(name) for name in list_folder(folder)[0]}
    marked = {stem + end for stem in stems.values() for end in OPEN_ENDINGS[1:]}
    others = {stem for name, stem in stems.items() if stem not in marked and not name.lower().endswith(".png")}
    masks = {name: stem in marked or (name.lower().endswith(".png") and stem in others) for name, stem in stems.items()}
    images, drawn = ([name for name in stems if masks[name] == kind] for kind in (False, True))
    return by_stem(folder, problems, images), by_stem(folder, problems, drawn)
