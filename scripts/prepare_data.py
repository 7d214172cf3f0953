#!/usr/bin/env python3
"""Turn folders of photographs with binary masks, one folder per defect type, into a training data set.

SOURCE holds <Type>/<stem>.jpg + <Type>/<stem>.png, or <Type>/Imgs/... as the magnetic tile data set does. OUT
gets test/<type>/<stem>.png, converted_ground_truth/<type>/<stem>.png (index masks) and dataset.json with the
label map. SOURCE is only read; running it again writes only what is missing or has changed.
"""

import argparse
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import blobfile as bf
import numpy as np
from tqdm import tqdm

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from guided_diffusion.errors import InputError, run_cli, unknown_name
from guided_diffusion.file_io import is_cloud, read_json
from guided_diffusion.image_datasets import check_same_size, open_image, to_rgb
from guided_diffusion.layouts import (
    GOOD,
    by_stem,
    check_label_map,
    complete_pairs,
    is_good,
    list_folder,
    natural_key,
    stem_of,
    write_released,
)

DEFAULT_PART = "train5"
DEFECT_FREE_FOLDERS = (GOOD, "free")


@dataclass(frozen=True)
class BinaryPair:
    """A photograph, the mask that says where its defect is (None if there is no mask), and the type."""

    image: str
    mask: str | None
    type: str


def find_binary_pairs(source: str) -> dict[str, BinaryPair]:
    """All pairs in the type folders of `source`, by image path relative to it, in natural order.

    Raises InputError where there are none, for a mask without image, and for two images of one stem.
    """
    if not bf.isdir(source):
        raise InputError(f"SOURCE {source}: is not a folder; name one that holds a folder per defect type")
    folders = list_folder(source)[1]
    if complete_pairs(folders):
        raise InputError(f"SOURCE {source}: is in a layout that training reads as it is (--data_dir)")
    pairs = {}
    for folder in folders:
        inner = f"{folder}/Imgs" if "Imgs" in list_folder(bf.join(source, folder))[1] else folder
        name = type_of_folder(folder)
        for pair in _pairs_of_folder(bf.join(source, inner), name):
            pairs[f"{inner}/{bf.basename(pair.image)}"] = pair
    if not pairs:
        raise InputError(f"SOURCE {source}: holds no <Type>/<stem>.jpg + <Type>/<stem>.png nor <Type>/Imgs/ of these")
    return pairs


def type_of_folder(folder: str) -> str:
    """Type name of a folder: lower case, without MT_; `good` for folders of defect-free images."""
    name = folder.lower().removeprefix("mt_")
    return GOOD if name in DEFECT_FREE_FOLDERS else name


def _pairs_of_folder(folder: str, name: str) -> Iterator[BinaryPair]:
    files = list_folder(folder)[0]
    masks = by_stem(folder, (file for file in files if file.lower().endswith(".png")))
    images = by_stem(folder, (file for file in files if not file.lower().endswith(".png")))
    if is_good(name):  # needs no masks, so a PNG that goes with no other file is a photograph
        images = {**masks, **images}
        masks = {}
    for stem in masks:
        if stem not in images:
            raise InputError(f"{masks[stem]}: no image ({stem}.jpg) beside this mask; add it or remove the mask")
    for stem in sorted(images, key=natural_key):
        yield BinaryPair(images[stem], masks.get(stem), name)


def select_part(pairs: dict[str, BinaryPair], split: Any, path: str, parts: Sequence[str]) -> list[BinaryPair]:
    """The pairs that `split`, read from `path`, assigns to one of `parts`, with the types it gives them."""
    files = split.get("files") if isinstance(split, dict) else None
    if not isinstance(files, dict) or not all(
        isinstance(entry, dict) and isinstance(entry.get("type"), str) for entry in files.values()
    ):
        raise InputError(f"{path}: should hold 'files': {{image path: {{'type': ..., 'part': ...}}}}")
    known = {str(entry.get("part")) for entry in files.values()}
    for part in parts:
        if part not in known:
            raise InputError(f"--part: {unknown_name('part', part, known)} in {path}")
    chosen = []
    for image, entry in files.items():
        if entry.get("part") in parts:
            if image not in pairs:
                raise InputError(f"{path}: lists {image}, which SOURCE does not hold; correct either")
            chosen.append(replace(pairs[image], type=entry["type"]))
    return sorted(chosen, key=lambda pair: (natural_key(pair.type), natural_key(stem_of(pair.image))))


def choose_pairs(
    source: str, split_path: str | None, parts: Sequence[str] | None
) -> tuple[list[BinaryPair], dict[str, int], list[str] | None]:
    """The pairs to convert, the label map, and the parts taken (None without a split file).

    Without `split_path`, SOURCE/split.json counts where it is there; without any, the types that occur are
    numbered from 1 in order of name. Raises InputError where the split file does not fit the images.
    """
    found = find_binary_pairs(source)
    path = split_path or bf.join(source, "split.json")
    if not bf.exists(path):
        if split_path or parts:
            flag = "--split" if split_path else "--part"
            raise InputError(f"{flag}: there is no split file {path}; name one that is there with --split")
        pairs = list(found.values())
        types = sorted({pair.type for pair in pairs if not is_good(pair.type)}, key=natural_key)
        return pairs, {name: index for index, name in enumerate(types, 1)}, None
    parts = list(parts or [DEFAULT_PART])
    print(f"{path}: taking part {', '.join(parts)}")
    split = read_json(path)
    pairs = select_part(found, split, path, parts)
    label_map = check_label_map(split.get("label_map"), path)
    for pair in pairs:
        if not is_good(pair.type) and pair.type not in label_map:
            raise InputError(f"{path}: {unknown_name('type', pair.type, label_map)} for {pair.image}")
        if "/" in pair.type or pair.type.startswith("."):
            raise InputError(f"{path}: type {pair.type!r} cannot name a folder; rename it")
    return pairs, label_map, parts


def read_binary_pair(pair: BinaryPair, label: int, mask_threshold: int) -> tuple[np.ndarray, np.ndarray | None]:
    """Image uint8 [H, W] (grey files) or [H, W, 3], and index mask uint8 [H, W], None for defect-free images.

    The index mask holds `label` where the mask's brightest channel, 0..255, is above the threshold, else 0.
    Raises InputError for unreadable files and for a mask of another size than its image.
    """
    image = open_image(pair.image)
    pixels = np.array(image) if image.mode == "L" else to_rgb(image, pair.image)
    if pair.mask is None or is_good(pair.type):
        return pixels, None
    mask = to_rgb(open_image(pair.mask), pair.mask).max(axis=2)
    check_same_size(pair.image, image, pair.mask, mask.shape[1], mask.shape[0])
    return pixels, np.where(mask > mask_threshold, label, 0).astype(np.uint8)


def check_pairs(pairs: Sequence[BinaryPair], mask_threshold: int) -> int:
    """Read every pair once, so that whatever is wrong shows before anything is written.

    Returns how many defect images have an empty mask. Raises InputError for a type of which all are empty.
    """
    empty: Counter[str] = Counter()
    for pair in tqdm(pairs, desc="checking", unit="image", disable=None):
        if pair.mask is None and not is_good(pair.type):
            raise InputError(f"{pair.image}: no mask ({stem_of(pair.image)}.png) beside this image; add it")
        mask = read_binary_pair(pair, 1, mask_threshold)[1]
        empty[pair.type] += mask is not None and not mask.any()
    for name, count in empty.items():
        if count and count == sum(pair.type == name for pair in pairs):
            example = next(pair.mask for pair in pairs if pair.type == name)
            raise InputError(
                f"{example}: like all masks of {name}, nowhere above --mask_threshold {mask_threshold}; "
                "0/1 masks need --mask_threshold 0"
            )
    return empty.total()


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", metavar="SOURCE", help="folder that holds one folder per defect type")
    parser.add_argument("out", metavar="OUT", help="folder for the data set")
    parser.add_argument("--split", metavar="FILE", help="JSON of parts and types (default SOURCE/split.json)")
    parser.add_argument(
        "--part", metavar="NAME", nargs="+", help=f"parts of the split to take (default {DEFAULT_PART})"
    )
    parser.add_argument(
        "--mask_threshold", type=int, default=127, help="defective is a mask value above this (default 127)"
    )
    parser.add_argument("--keep_good", action="store_true", help="take defect-free images too, without masks")
    args = parser.parse_args(argv)
    if not 0 <= args.mask_threshold <= 254:
        raise InputError(f"--mask_threshold: {args.mask_threshold} is not in 0..254")
    _check_apart(args.source, args.out)

    pairs, label_map, parts = choose_pairs(args.source, args.split, args.part)
    good = sum(is_good(pair.type) for pair in pairs)
    if not args.keep_good:
        pairs = [pair for pair in pairs if not is_good(pair.type)]
    if not pairs:
        raise InputError(f"SOURCE {args.source}: all {good} images are defect-free; --keep_good takes them")
    names = [f"{pair.type}/{stem_of(pair.image)}" for pair in pairs]
    if twice := [name for name, count in Counter(names).items() if count > 1]:
        raise InputError(f"SOURCE {args.source}: two images would become {twice[0]}.png; rename one")
    empty = check_pairs(pairs, args.mask_threshold)

    progress = tqdm(pairs, desc="writing", unit="image", disable=None)
    contents = (read_binary_pair(pair, label_map.get(pair.type, 0), args.mask_threshold) for pair in progress)
    source = {
        "prepared_from": bf.basename(args.source.rstrip("/")),
        "parts": parts,
        "mask_threshold": args.mask_threshold,
    }
    written = write_released(args.out, names, contents, label_map, source)

    counts = ", ".join(f"{name} {count}" for name, count in Counter(pair.type for pair in pairs).items())
    print(f"{args.out}: {len(pairs)} images ({counts}), {written or 'no'} files written")
    print("label map: " + ", ".join(f"{name} {index}" for name, index in label_map.items()))
    if good and not args.keep_good:
        print(f"left out: {good} defect-free images (--keep_good takes them)")
    if empty:
        print(f"note: {empty} defect images have an empty mask")


def _check_apart(source: str, out: str) -> None:
    """Refuse to write into the source."""
    if is_cloud(source) != is_cloud(out):
        return
    inside, outside = (path if is_cloud(path) else str(Path(path).resolve()) for path in (out, source))
    if f"{inside.rstrip('/')}/".startswith(f"{outside.rstrip('/')}/"):
        raise InputError(f"OUT {out}: lies in SOURCE, which is never written to; name a folder outside it")


if __name__ == "__main__":
    run_cli(main)
