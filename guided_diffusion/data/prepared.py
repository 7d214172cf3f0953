"""Prepared sets: images and index masks as scripts/prepare_data.py writes them; folders of generated samples too.

    test/[<type>/]      converted_ground_truth/[<type>/]    dataset.json      the released layout
    images/             masks_converted_dir/                manifest.jsonl    generated samples

An image and its mask are paired by name, never by position. No torch here: processes that read images import it.
"""

import hashlib
import os
import re
import shlex
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

import blobfile as bf
import numpy as np

from .. import GOOD
from ..errors import InputError, unknown_name
from ..file_io import encode_png, is_cloud, remove_temporaries, write_if_changed
from .files import by_stem, check_text, folders_in, is_good, list_folder, natural_key, part_of, stem_of, words_of
from .image_files import Picture, histogram, index_values, open_image, orientations, read_image, to_rgb, turned
from .records import FOLDERS, IMAGES, MASKS, RELEASED, UNFINISHED_FILE, read_manifest, read_records, recorded_settings

SAMPLES = FOLDERS["image"], FOLDERS["index_mask"]
TRAIN = "train"
INDEX_ENDINGS = ("", "_mask")
COLOUR_MASKS = ("_rgb_mask", "_rbg_mask")
Stems = tuple[Mapping[str, str], Mapping[str, str]]  # {stem: path} of images and of masks


@dataclass(frozen=True)
class IndexMask:
    """A file of type indices: 0 and `void` are background, k is the k-th type or, with `numbers`, numbers[k]."""

    path: str
    void: int | None = None
    numbers: tuple[int, ...] = ()

    def values(self, opened: Picture, num_defect: int) -> np.ndarray:
        """uint8 [H, W] of values 0..num_defect, of this file, opened. Raises InputError."""
        mask = index_values(opened, self.path, len(self.numbers) - 1 if self.numbers else num_defect, self.void)
        return np.array(self.numbers, np.uint8)[mask] if self.numbers else mask


@dataclass(frozen=True)
class Sample:
    """An image file and its mask (None: defect-free); prepare/layouts has masks of other kinds, which it converts.

    name: unique in the data set, "<folder>/<stem>" in layouts with type folders, else "<stem>". folder: the type
    folder. part: "train", "val", ..., where the layout says."""

    image: str
    mask: IndexMask | None
    folder: str | None = None
    name: str = ""
    part: str | None = None

    def __post_init__(self) -> None:
        if not self.name:
            stem = stem_of(self.image)
            object.__setattr__(self, "name", f"{self.folder}/{stem}" if self.folder else stem)


class FirstShots:
    """Takes the first `count` images of each type folder; in flat layouts, an image while a type of its has fewer."""

    def __init__(self, count: int):
        self._count, self._taken = count, Counter[str | int]()

    def takes(self, folder: str | None, types: Collection[int]) -> bool:
        """Whether the next image, in natural order, is among them; types: indices in its mask, for flat layouts."""
        kinds = types if folder is None else [folder]
        wanted = any(self._taken[kind] < self._count for kind in kinds)
        self._taken.update(kinds if wanted else ())
        return wanted


def find_samples(root: str) -> list[Sample]:
    """The images with masks of the prepared set or sample folder at `root`, of parts those that train, in natural
    order. Raises InputError where there is none, or a file has no partner."""
    samples, _ = _read(root)
    if not samples:
        raise InputError(f"{root}: holds no images with defects; add some")
    return [sample for sample in samples if sample.part == TRAIN] or samples


def find_good(root: str) -> list[Sample]:
    """The defect-free images of the prepared set at `root`, in natural order. Raises InputError as find_samples."""
    return _read(root)[1]


def read_pair(sample: Sample, num_defect: int) -> tuple[np.ndarray, np.ndarray]:
    """Image uint8 [H, W, 3] and index mask uint8 [H, W] with values 0..num_defect, all 0 for a defect-free image.
    Raises InputError where a file cannot be read, is no index mask, or the two differ in size."""
    if sample.mask is None:
        image = read_image(sample.image)
        return image, np.zeros(image.shape[:2], np.uint8)
    (image, path), (drawn, mask_path) = ((open_image(path), path) for path in (sample.image, sample.mask.path))
    mask = sample.mask.values(drawn, num_defect)
    turn, turn_mask = orientations(image, path, drawn.size, mask_path, tag=drawn.orientation)
    return turned(to_rgb(image, path), turn), turned(mask, turn_mask)


def read_label_map(root: str) -> dict[str, int] | None:
    """The label map {type: index from 1} in `root`'s dataset.json, else in its samples' manifest. Raises InputError."""
    label_map = read_records(root).get("label_map")
    if label_map is not None:
        return label_map
    settings = recorded_settings(root) if bf.isdir(bf.join(root, SAMPLES[1])) else {}  # else not our manifest.jsonl
    return {name: index for index, name in enumerate(settings.get("class_names", ()), 1)} or None


def match_types(own: Mapping[str, int] | None, class_names: Sequence[str], root: str) -> tuple[tuple[int, ...], str]:
    """By name: which of `class_names` (0: background) each value in the masks of `root` is, whose label map is `own`;
    empty where values stay. And a line for the user where they do not, or one side only numbers its types. Raises
    InputError where `own` names a type that is none of class_names."""
    if not own or list(class_names) == sorted(own, key=own.get):
        return (), ""
    alone = len(own) == len(class_names) == 1 and "defect" in (*own, *class_names)
    if alone or any(all(re.fullmatch(r"defect_\d+", name) for name in names) for names in (own, class_names)):
        pairs = ", ".join(f"{name} is {class_names[k - 1]}" for name, k in own.items() if k <= len(class_names))
        return (), f"label map of {root}: types are matched by number, as one side names none: {pairs}"
    for name in own:
        if name not in class_names:
            remedy = f"leave data.label_map out of the YAML, or scripts/prepare_data.py --rename {name}=NEW"
            raise InputError(f"{root}: its label map has an {unknown_name('type', name, class_names)}; {remedy}")
    numbers = (0, *(class_names.index(name) + 1 for name in sorted(own, key=own.get)))
    changed = ", ".join(f"{name} {k} is {numbers[k]}" for name, k in own.items() if numbers[k] != k)
    return (numbers, f"label map of {root}: types are matched by name: {changed} here") if changed else ((), "")


def renumbered(samples: Sequence[Sample], numbers: tuple[int, ...]) -> list[Sample]:
    """The samples, with index masks whose values mean numbers[value]."""
    own = (replace(one.mask, numbers=numbers) if isinstance(one.mask, IndexMask) else one.mask for one in samples)
    return [replace(one, mask=mask) for one, mask in zip(samples, own, strict=True)]


def _read(root: str) -> tuple[list[Sample], list[Sample]]:
    """Samples with masks, and defect-free ones, each in natural order."""
    pairs = prepared_folders(root)
    if not pairs:
        remedy = f"prepare it first: python scripts/prepare_data.py {shlex.quote(root)} OUT"
        raise InputError(f"{root}: holds no prepared data set and no samples ({listed([RELEASED, SAMPLES])}); {remedy}")
    samples = listed_samples(root) if pairs[0] == SAMPLES else None
    if samples is not None:
        return samples, []
    problems: list[str] = []
    found = pair_folders(*(bf.join(root, name) for name in pairs[0]), INDEX_ENDINGS, problems)
    arrange(root, *found, problems)
    check_problems(problems)
    return found


def listed_samples(root: str) -> list[Sample] | None:
    """Those that the manifest of a sample folder lists: others are of a killed run. None without a manifest."""
    if (rows := read_manifest(root)) is None:
        return None
    return [Sample(bf.join(root, row["image"]), IndexMask(bf.join(root, row["index_mask"]))) for row in rows.values()]


def prepared_folders(root: str) -> list[tuple[str, str]]:
    """The (image, mask) folders that make `root` a set or samples, if any; InputError where a folder in it is one."""
    check_folder(root)
    folders = list_folder(root)[1]
    pairs = complete(folders, (RELEASED, SAMPLES))
    check_single(root, pairs)
    for name in () if pairs else sorted(folders, key=lambda name: name != TRAIN):
        if complete(list_folder(bf.join(root, name))[1], [RELEASED]):
            raise InputError(f"{root}: holds no data set itself; did you mean {bf.join(root, name)}?")
    return pairs


def check_apart(folder: str, parameter: str, kinds: Sequence[tuple[str, str]] = (RELEASED, SAMPLES)) -> None:
    """Raise InputError where `folder`, to be written to, is a set or samples, of these kinds, or lies among the images
    or masks of either, which could not be read any more."""
    inner = folder.rstrip("/") if is_cloud(folder) else os.path.abspath(folder)
    if complete(list_folder(inner)[1], kinds):
        raise InputError(f"`{parameter}` {folder}: holds a data set or samples; name another folder")
    while (above := bf.dirname(inner)) not in ("", inner):
        home = [pair for pair in (RELEASED, SAMPLES) if bf.basename(inner) in pair]
        if home and complete(list_folder(above)[1], home):
            raise InputError(f"`{parameter}` {folder}: lies among the images or masks of {above}; name another folder")
        inner = above


def complete(folders: Collection[str], pairs: Iterable[tuple[str, str]]) -> list[tuple[str, str]]:
    """Those of the pairs (image folder, mask folder) of which both are among `folders`."""
    return [pair for pair in pairs if set(pair) <= set(folders)]


def listed(pairs: Iterable[tuple[str, str]]) -> str:
    """Pairs for a message."""
    return ", ".join(f"{images}/ + {masks}/" for images, masks in pairs)


def check_single(root: str, pairs: Sequence[tuple[str, str]]) -> None:
    """Raise InputError where `root` holds several such pairs."""
    if len(pairs) > 1:
        raise InputError(f"{root}: holds more than one data set ({listed(pairs)}); give each its own folder")


def check_folder(root: str) -> None:
    """Raise InputError where `root` is no folder, or a data set that is not finished."""
    check_text(root)
    if not bf.isdir(root):
        problem = "is not a folder" if bf.exists(root) else "does not exist"
        raise InputError(f"{root}: {problem}; name a data folder (docs/data.md has the layouts)")
    if bf.exists(bf.join(root, UNFINISHED_FILE)):
        raise InputError(f"{root}: its preparation did not finish; run scripts/prepare_data.py again, it goes on")


def check_problems(problems: Sequence[str]) -> None:
    """Raise InputError with the first problem, if there is one."""
    if problems:
        more = f" ({len(problems) - 1} more: scripts/check_data.py lists them)" if problems[1:] else ""
        raise InputError(problems[0] + more)


def arrange(root: str, samples: list[Sample], good: list[Sample], problems: list[str]) -> None:
    """Sort each: those in no type folder first, then by folder and name. Two of one name are noted as a problem."""
    for own in (samples, good):
        own[:] = name_apart(root, own)
        own.sort(key=lambda s: (s.folder is not None, natural_key(s.folder or ""), natural_key(s.name)))
        for first, second in pairwise(own):
            if first.name == second.name:
                problems.append(f"{second.image}: has the same type and stem as {first.image}; rename one")


def name_apart(root: str, samples: Sequence[Sample]) -> list[Sample]:
    """The samples; in a name that several have stand the folders in `root` in which their images differ."""
    alike = defaultdict(list)
    for one in samples:
        alike[one.name].append(one)
    named = []
    for own in alike.values():
        homes = [words_of(bf.dirname(one.image).removeprefix(root)) if len(own) > 1 else [] for one in own]
        common = set.intersection(*map(set, homes))
        for one, home in zip(own, homes, strict=True):
            *folders, stem = one.name.split("/")
            apart = [part_of(word) or word for word in home if word not in common]
            named.append(replace(one, name="/".join([*folders, "_".join([*apart, stem])])) if apart else one)
    return named


def pair_folders(
    image_root: str, mask_root: str, endings: Sequence[str], problems: list[str], alone: list[str] | None = None
) -> tuple[list[Sample], list[Sample]]:
    """Samples, and defect-free ones, of an image and a mask folder and of the folders in them: types, or parts (train,
    val). What has no partner is noted as a problem; images without a mask go to `alone` where it is given."""
    found, good = [], []
    for name, (images, masks) in ({None: (image_root, mask_root)} | folders_in(image_root, mask_root)).items():
        if name and is_good(name, None if alone is None else masks):
            good += [Sample(path, None, GOOD) for path in by_stem(images, problems).values()]
            continue
        if name and (part := part_of(name)):
            for known, own in zip((found, good), pair_folders(images, masks, endings, problems, alone), strict=True):
                known += [replace(one, part=part) for one in own]
            continue
        for image, mask in pair_files(images, masks, endings, problems, alone):
            found.append(Sample(image, IndexMask(mask), name))
    return found, good


def pair_files(
    image_folder: str, mask_folder: str, endings: Sequence[str], problems: list[str], alone: list[str] | None = None
) -> list[tuple[str, str]]:
    """pair_by_name of the files in two folders."""
    stems = by_stem(image_folder, problems), by_stem(mask_folder, problems)
    return pair_by_name(stems, endings, (image_folder, mask_folder), problems, alone)


def pair_by_name(
    stems: Stems, endings: Sequence[str], folders: tuple[str, str], problems: list[str], alone: list[str] | None = None
) -> list[tuple[str, str]]:
    """(image, mask) for each image, of stems in `folders`. Mask x or x + ending belongs to image x, unless an image is
    itself called that. What has no partner, or two, is noted as a problem; images without a mask go to `alone` where it
    is given."""
    images, masks = stems
    left = {stem: path for stem, path in masks.items() if not stem.lower().endswith(COLOUR_MASKS)}
    pairs = []
    for stem, image in images.items():
        names = [stem + end for end in endings if not end or stem + end not in images]
        found = [left.pop(name) for name in names if name in left]
        if len(found) == 1:
            pairs.append((image, found[0]))
        elif found:
            problems.append(f"{image}: two masks for this image, {found[0]} and {found[1]}; remove one")
        elif alone is not None and stem.endswith(tuple(filter(None, endings))):
            text = f"is called like a mask, but no image or mask in {folders[1]} belongs to it; add that, or rename it"
            problems.append(f"{image}: {text}")
        elif alone is not None:
            alone.append(image)
        else:
            problems.append(f"{image}: no mask for this image ({stem}.png or {stem}_mask.png) in {folders[1]}; add it")
    known = f"its name, or that without {', '.join(filter(None, endings))}"
    problems += [f"{mask}: no image for this mask in {folders[0]} ({known}); add it" for mask in left.values()]
    return pairs


def write_pair(
    root: str, name: str, image: np.ndarray, mask: np.ndarray | None, label_map: Mapping[str, int]
) -> tuple[dict[str, Any], int]:
    """Write one sample's files where their content changes: its record for dataset.json, and how many were written."""
    record: dict[str, Any] = {"image": f"{IMAGES}/{name}.png", "size": list(image.shape[:2])}
    written = 0
    for key, folder, picture in (("image", IMAGES, image), ("mask", MASKS, mask)):
        if picture is not None:
            data = encode_png(picture)
            record[key] = f"{folder}/{name}.png"
            record[f"{key}_sha256"] = hashlib.sha256(data).hexdigest()
            written += write_if_changed(bf.join(root, record[key]), data)
    if mask is not None:
        counts = histogram(mask)
        record["types"] = {label: int(counts[index]) for label, index in label_map.items() if counts[index]}
    return record, written


def clear_temporaries(root: str, names: Iterable[str]) -> None:
    """Delete what a killed run left half-written."""
    folders = {bf.dirname(name) for name in names}
    for path in (root, *(bf.join(root, part, folder) for part in RELEASED for folder in folders)):
        remove_temporaries(path)


def check_no_strangers(root: str, expected: set[str]) -> None:
    """Raise InputError where `root` holds images that are not `expected` ("<type>/<file>" or "<file>")."""
    if bf.exists(root) and not bf.isdir(root):
        raise InputError(f"{root}: is a file; name a folder for the data set")
    for part in RELEASED:
        top = bf.join(root, part)
        files, folders = list_folder(top)
        below = [f"{folder}/{name}" for folder in folders for name in list_folder(bf.join(top, folder))[0]]
        if strangers := [name for name in files + below if name not in expected]:
            file = f"{part}/{strangers[0]}"
            raise InputError(f"{root}: already holds files of another data set, such as {file}; name another folder")
