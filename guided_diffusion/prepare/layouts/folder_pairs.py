"""Layouts of an image folder and a mask folder side by side: index masks, or masks of any kind."""

from __future__ import annotations

import os
import re
from collections.abc import Collection, Iterable, Sequence

import blobfile as bf

from ...data.files import by_stem, is_good, list_folder, stem_of
from ...data.prepared import INDEX_ENDINGS, RELEASED, SAMPLES, Sample, pair_folders
from .mask_values import number_masks
from .model import Dataset, Options

# Format, image folder, folder of index masks.
INDEX_PAIRS = (("released", *RELEASED), ("defect_spectrum", "image", "mask"), ("synthetic", *SAMPLES))
# The same of masks that may be anything.
OPEN_PAIRS = tuple(("images_masks", *pair) for pair in (("images", "masks"), ("imgs", "masks"), ("img_dir", "ann_dir")))
OPEN_ENDINGS = ("", "_mask", "_label", "_gt", "_seg")
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


def complete(pairs: Iterable[tuple[str, str, str]], folders: Sequence[str]) -> list[tuple[str, str, str]]:
    """Those of the pairs of which both folders are among `folders`."""
    return [pair for pair in pairs if set(pair[1:]) <= set(folders)]


def listed(pairs: Iterable[tuple[str, str, str]]) -> str:
    """Pairs for a message."""
    return ", ".join(f"{images}/ + {masks}/" for _, images, masks in pairs)


def read_folders(root: str, format: str, images: str, masks: str, options: Options) -> Dataset:
    """Images and masks: flat, in type folders, in parts (train, val), or flat images and a mask folder per type."""
    data = Dataset(root, format)
    image_root, mask_root = bf.join(root, images), bf.join(root, masks)
    of_indices = format != "images_masks"
    mask_files, mask_folders = list_folder(mask_root)
    if not of_indices and mask_folders and not mask_files and not list_folder(image_root)[1]:
        number_masks(_read_folder_per_type(image_root, mask_root, mask_folders, data), options, data)
        return data
    endings = INDEX_ENDINGS if of_indices else OPEN_ENDINGS
    samples, data.good = pair_folders(image_root, mask_root, endings, data.problems)
    if of_indices and not options.colormap and options.mask_values not in ("binary", "colour"):
        data.samples = samples
        data.label_map = options.label_map or _published(root, list_folder(root)[1])
        if not samples and not data.problems:
            data.problems.append(f"{image_root}: holds no images with defects; add some")
        return data
    found = []
    for sample in samples:
        name = sample.folder
        if not name and options.type_regex and not of_indices:
            name = type_in_name(sample.image, options.type_regex, data.problems)
        found.append((sample, [(name or "defect", sample.mask.path)]))
    number_masks(found, options, data)
    return data


def _published(root: str, folders: Collection[str]) -> dict[str, int] | None:
    """The label map of a Defect Spectrum object by its name: in DS-* or synthetic_*, DS-* itself, or with colour masks
    among its `folders`."""
    path = root.rstrip("/") if "://" in root else os.path.abspath(root)
    home, name = (os.path.basename(part) for part in (os.path.dirname(path), path))
    if home.startswith(("DS-", "synthetic_")) or name.startswith("DS-") or COLOUR_FOLDERS & set(folders):
        return {name: index for index, name in enumerate(PUBLISHED.get(name, "").split(), 1)}
    return None


def _read_folder_per_type(
    image_root: str, mask_root: str, types: Sequence[str], data: Dataset
) -> list[tuple[Sample, list[tuple[str, str]]]]:
    """images/x.png with masks/<type>/x.png for each type that it shows; without any it is defect-free."""
    images = by_stem(image_root, list_folder(image_root)[0], data.problems)
    found: dict[str, list[tuple[str, str]]] = {stem: [] for stem in images}
    for name in (name for name in types if not is_good(name)):
        folder = bf.join(mask_root, name)
        for stem, mask in by_stem(folder, list_folder(folder)[0], data.problems).items():
            owner = next((s for end in OPEN_ENDINGS if (s := stem.removesuffix(end)) in images), None)
            if owner is None:
                data.problems.append(f"{mask}: no image for this mask in {image_root}; add it or remove the mask")
            else:
                found[owner].append((name, mask))
    data.good = [Sample(image, None) for stem, image in images.items() if not found[stem]]
    if data.good:
        data.notes.append(f"{len(data.good)} images have no mask in any of {mask_root}/*: taken as defect-free")
    return [(Sample(image, None), found[stem]) for stem, image in images.items() if found[stem]]


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
