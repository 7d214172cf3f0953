"""Layouts of an image folder and a mask folder side by side: index masks, or masks of any kind."""

import os
import re
from collections.abc import Collection, Sequence
from dataclasses import replace
from itertools import product

import blobfile as bf

from ...data import prepared
from ...data.files import by_stem, is_good, list_folder, part_folders, stem_of
from ...data.prepared import INDEX_ENDINGS, SAMPLES, IndexMask, Sample, complete, pair_by_name
from ...data.records import RELEASED
from ...file_io import is_cloud
from .mask_values import DEFAULT
from .model import Dataset, Options, TypeMasks

INDEX_PAIRS = {"released": (RELEASED,), "defect_spectrum": (("image", "mask"),), "synthetic": (SAMPLES,)}
OPEN_PAIRS = (("images", "masks"), ("imgs", "masks"), ("img_dir", "ann_dir"))  # the masks may be anything
PAIRS = INDEX_PAIRS | {"images_masks": OPEN_PAIRS}  # image folder and mask folder
IMAGE_FOLDERS = ("images", "imgs", "image", "img", "rgb")
LABEL_FOLDERS = ("labels", "label", "annotations", "gt", "ground_truth", "mask", "masks")  # where they hold images
OPEN_ENDINGS = ("", "_mask", "_label", "_gt", "_seg", "_GT")
COLOUR_FOLDERS = {"rgb_mask", "rbg_mask"}  # of Defect Spectrum; both spellings occur
PUBLISHED = {  # Defect Spectrum's types, which its folders do not name
    "DS-DAGM": "scratch texture crush color dirty",
    "bottle": "broken_large broken_small contamination",
    "cable": "bent_wire cable_swap combined cut_inner_insulation cut_outer_insulation missing_cable missing_wire"
    " poke_insulation",
    "capsule": "crack poke faulty_imprint scratch squeeze",
    "carpet": "color cut hole metal_contamination thread",
    "grid": "bent broken glue metal_contamination thread",
    "hazelnut": "cut crack hole print",
    "leather": "color cut fold glue poke",
    "metal_nut": "scratch bent color",
    "pill": "color contamination crack faulty_imprint scratch pill_type",
    "screw": "manipulated_front scratch_head scratch_neck thread_side thread_top",
    "tile": "crack glue_strip gray_stroke oil rough",
    "toothbrush": "contamination missing messy",
    "transistor": "bent_lead cut_lead damaged_case misplaced",
    "wood": "color crack scratch hole liquid",
    "zipper": "broken_teeth fabric_border fabric_interior split_teeth squeezed_teeth",
}


def open_pairs(root: str) -> list[tuple[str, str]]:
    """The folders in `root` that hold images and masks of any kind, as names of (image folder, mask folder)."""
    names = {name.lower(): name for name in list_folder(root)[1]}
    pairs = complete(names, OPEN_PAIRS) or complete(names, product(IMAGE_FOLDERS, map(str.lower, _labels(root))))
    return [(names[images], names[masks]) for images, masks in pairs]


def _labels(root: str) -> list[str]:
    """The folders in `root` that are called after masks or labels and hold images."""
    folders = (name for name in list_folder(root)[1] if name.lower() in LABEL_FOLDERS)
    return [name for name in folders if _holds_images(bf.join(root, name))]


def parts_alone(root: str) -> dict[str, str]:
    """part_folders; none where folders that are called otherwise hold images too."""
    parts, homes = part_folders(root), (bf.join(root, name) for name in list_folder(root)[1])
    return {} if any(_holds_images(home) for home in homes if home not in parts) else parts


def _holds_images(folder: str) -> bool:
    files, folders = list_folder(folder)
    return bool(files) or any(list_folder(bf.join(folder, name))[0] for name in folders)


def read_pairs(format: str, root: str, options: Options) -> Dataset | None:
    """Images and masks: flat, in type folders, in parts (also <part>/images/), or with a mask folder per type."""
    folders, of_indices = list_folder(root)[1], format in INDEX_PAIRS
    homes = [(None, root, complete(folders, PAIRS[format]) if of_indices else open_pairs(root))]
    if not of_indices and not homes[0][2]:
        homes = [(part, home, open_pairs(home)) for home, part in parts_alone(root).items()]
    data = Dataset(root, format)
    for part, home, pairs in homes:
        prepared.check_single(home, pairs)
        for image_root, mask_root in ((bf.join(home, name) for name in pair) for pair in pairs):
            mask_files, types = list_folder(mask_root)
            if not of_indices and types and not mask_files and not list_folder(image_root)[1]:
                found = _read_folder_per_type(image_root, mask_root, types, data)
            elif format == "synthetic" and (samples := prepared.listed_samples(root)) is not None:
                found = samples, []
            else:
                endings = INDEX_ENDINGS if of_indices else OPEN_ENDINGS
                found = prepared.pair_folders(image_root, mask_root, endings, data.problems, data.unlabelled)
            for known, own in zip((data.samples, data.good), found, strict=True):
                known += [replace(sample, part=part or sample.part) for sample in own]
            unread = (name for name in ([] if of_indices else _labels(home)) if name not in pairs[0])
            data.notes += [f"{bf.join(home, name)}: is not read, but {pairs[0][1]}/ beside it" for name in unread]
    if not any(pairs for *_, pairs in homes):
        return None
    if of_indices and not options.colormap and options.mask_values in ("auto", "index"):
        data.label_map = _published(root, folders)
        if format != "defect_spectrum":
            return data
    for i, sample in enumerate(data.samples):
        if isinstance(sample.mask, IndexMask):
            name = sample.folder
            if not name and options.type_regex and not of_indices:
                name = type_in_name(sample.image, options.type_regex, data.problems)
            data.samples[i] = replace(sample, mask=TypeMasks(((name or DEFAULT, sample.mask.path),)))
            data.open_values = True
    return data


def _published(root: str, folders: Collection[str]) -> dict[str, int] | None:
    """The label map of a Defect Spectrum object: in DS-* or synthetic_*, DS-* itself, or with colour masks beside."""
    *_, home, name = ("/" + (root if is_cloud(root) else os.path.abspath(root))).split("/")
    if home.startswith(("DS-", "synthetic_")) or name.startswith("DS-") or COLOUR_FOLDERS & set(folders):
        return {name: index for index, name in enumerate(PUBLISHED.get(name, "").split(), 1)}
    return None


def _read_folder_per_type(
    image_root: str, mask_root: str, types: Sequence[str], data: Dataset
) -> tuple[list[Sample], list[Sample]]:
    """images/x.png with masks/<type>/x.png for each type that it shows; without any it is defect-free."""
    images = by_stem(image_root, data.problems)
    files: dict[str, list[tuple[str, str]]] = {image: [] for image in images.values()}
    for name in (name for name in types if not is_good(name)):
        folder = bf.join(mask_root, name)
        masks = by_stem(folder, data.problems)
        for image, mask in pair_by_name((images, masks), OPEN_ENDINGS, (image_root, folder), data.problems, alone=[]):
            files[image].append((name, mask))
    good = [Sample(image, None) for image, own in files.items() if not own]
    if good:
        data.notes.append(f"{len(good)} images have no mask in any of {mask_root}/*: taken as defect-free")
    return [Sample(image, TypeMasks(tuple(own))) for image, own in files.items() if own], good


def type_in_name(path: str, regex: str | None, problems: list[str]) -> str | None:
    """The type that a file name tells: `regex`'s first group in the stem, or what is left of it without numbers, as
    Thick-Place of 00987_0047_Thick-Place. None, and a problem, where it tells none."""
    stem = stem_of(path)
    if regex:
        match = re.search(regex, stem)
        name, remedy = match and match[1], f"--type_regex {regex!r} finds none in it"
    else:
        words = [re.sub(r"^\d+|\d+$", "", word).strip("-. ") for word in re.split(r"[_ ]+", stem)]
        name, remedy = "_".join(filter(None, words)), "say where with --type_regex"
    if not name:
        problems.append(f"{path}: its name tells no defect type; {remedy}")
    return name or None
