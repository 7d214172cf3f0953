"""Layouts in which labelled images lie on disk: a reader each, and the drawing of their masks as index masks.

`read_layout` says which layout a folder has (docs/data.md shows them) and returns its samples, image and mask paired by
name; drawing.py reads their pixels. A new layout is a function read(root, options) in NAMED: a Dataset, its masks
naming types, or None where the folder holds nothing of the kind.
"""

import re
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from functools import partial

import blobfile as bf

from ... import GOOD
from ...data import prepared
from ...data.files import ALSO_GOOD, list_folder, part_above, part_of, stem_of, walk
from ...data.prepared import TRAIN, IndexMask, Sample, check_problems, complete, listed, read_label_map
from ...data.records import DATASET_FILE
from ...errors import InputError, unknown_name
from .coco import read_coco
from .labelme import read_labelme
from .mask_values import are_binary, check_good, tell_values
from .model import Dataset, Options, TypeMasks
from .names import check_names, tidy
from .pairs import COLOUR_FOLDERS, INDEX_PAIRS, LABEL_FOLDERS, OPEN_ENDINGS, PAIRS, open_pairs, read_pairs
from .tables import EXPORT_FILE, exported_label_map, read_hf, read_severstal
from .typed_folders import read_dagm, read_flat, read_kolektor, read_mvtec, read_type_folders
from .voc import read_voc
from .yolo import read_yolo

NAMED: dict[str, Callable[[str, Options], Dataset | None]]  # the first that fits counts
NAMED = {format: partial(read_pairs, format) for format in INDEX_PAIRS}
NAMED |= {"mvtec": read_mvtec, "coco": read_coco, "dagm": read_dagm, "severstal": read_severstal, "hf": read_hf}
NAMED |= {"voc": read_voc, "kolektor": read_kolektor, "images_masks": partial(read_pairs, "images_masks")}
NAMED |= {"yolo": read_yolo, "labelme": read_labelme}
LOOSE = {"type_folders": read_type_folders, "flat": read_flat}  # which any folder of images may look like
FORMATS = (*NAMED, *LOOSE)
DRAWN = re.compile("|".join((*COLOUR_FOLDERS, *LABEL_FOLDERS, "segmentation(class|object).*")))  # not photographs
LISTS = ("ImageSets/Segmentation", "ImageSets/Main", "ImageSets", "splits", "split", "")  # homes of train.txt and such
OWN_FILES = ("split.json", DATASET_FILE, EXPORT_FILE)


def read_layout(root: str, options: Options | None = None, *, format: str = "auto", workers: int = 1) -> Dataset:
    """What the data set at `root` holds, in natural order, by names, annotations and the values of mask files. Files
    that do not fit are in the result's `problems`. format: one of FORMATS, or "auto". Raises InputError where `root`
    holds no layout or several, or annotations cannot be read."""
    options = options or Options()
    if format not in (*FORMATS, "auto"):
        raise InputError(f"--format: {unknown_name('format', format, FORMATS)}")
    prepared.check_folder(root)
    root = root.rstrip("/") or root
    given, own = options.label_map, read_label_map(root) or exported_label_map(root)
    options = replace(options, label_map=given or own)
    sure = format in INDEX_PAIRS and options.mask_values == "auto" and not options.colormap  # the user's word counts
    named = replace(options, mask_values="index") if sure else options
    data = _detect(root, options) if format == "auto" else (NAMED | LOOSE)[format](root, named)
    if data is None:
        raise InputError(f"{root}: holds nothing of format {format}, see docs/data.md; choose another --format")
    unlabelled, data.unlabelled = data.unlabelled, []
    for path in unlabelled:
        if bf.basename(bf.dirname(path)).lower() in (GOOD, *ALSO_GOOD):
            data.good.append(Sample(path, None, part=part_above(root, path)))
        else:
            data.unlabelled.append(path)
    for folder in LISTS:
        if not any(one.part for one in data.samples):
            data.take_lists(bf.join(root, folder) if folder else root, sure=folder.startswith("ImageSets"))
    data.unread, masks_of_good = _other_images(data)
    check_good(data, masks_of_good, options.void, workers=workers)
    if data.unread:
        text = f"{len(data.unread)} images lie where {data.format} is not read, such as {data.unread[0]}"
        data.notes.append(f"{text}: move them, or prepare their folder by itself")
    data.samples = prepared.name_apart(root, data.samples)
    tell_values(data, options, workers=workers)
    tidy(data, options)
    data.number_types(options.label_map)
    if given and any(isinstance(sample.mask, IndexMask) for sample in data.samples):
        numbers, note = prepared.match_types(own, sorted(given, key=given.get), root)
        data.samples = prepared.renumbered(data.samples, numbers)
        data.notes += [note] if note else []
    check_names(data, options)
    prepared.arrange(root, data.samples, data.good, data.problems)
    if not (data.samples or data.problems) and data.unlabelled:
        data.problems.append(f"{data.unlabelled[0]}: has no mask or label, as none here has; see docs/data.md")
    elif not (data.samples or data.good or data.problems):
        data.problems.append(f"{root}: holds no images of format {data.format}; see docs/data.md")
    return data


def _other_images(data: Dataset) -> tuple[list[str], list[str]]:
    """Images that are neither samples nor their masks: those that are hardly masks, and masks of defect-free images."""
    if data.format == "synthetic":
        return [], []
    used = {*data.unlabelled, *(one.image for one in data.samples + data.good)}
    for one in data.samples:
        used.update((path for _, path in one.mask.files) if isinstance(one.mask, TypeMasks) else (one.mask.path,))
    beside = {(bf.dirname(path), stem_of(path)) for path in used}
    good = {(bf.dirname(one.image), stem_of(one.image)) for one in data.good}
    unread, of_good = [], []
    for path in walk(data.root, depth=8):
        folders = {*path.removeprefix(data.root).lower().split("/")[:-1]}
        stems = {(bf.dirname(path), stem_of(path).removesuffix(end)) for end in OPEN_ENDINGS}
        if path not in used and (folders & {GOOD, *ALSO_GOOD} or stems & good):
            of_good.append(path)
        elif path not in used and not stems & beside and not any(map(DRAWN.fullmatch, folders)):
            unread.append(path)
    return unread, of_good


def _detect(root: str, options: Options) -> Dataset:
    """The data set at `root`. Raises InputError where there is none, or several."""
    folders = list_folder(root)[1]
    pairs = complete(folders, sum(INDEX_PAIRS.values(), ()))
    taken = [images for images, _ in pairs]
    pairs += [pair for pair in open_pairs(root) if pair[0] not in taken]
    prepared.check_single(root, pairs)
    if data := next(filter(None, (read(root, options) for read in NAMED.values())), None):
        for format in NAMED if data.format not in INDEX_PAIRS else ():
            with suppress(InputError):
                if format not in (data.format, *INDEX_PAIRS) and NAMED[format](root, options):
                    data.notes.append(f"{root}: read as {data.format}; it could be {format}, too: --format {format}")
        return data
    loose = [data for read in LOOSE.values() if (data := read(root, options))]
    for name in sorted(folders, key=lambda name: not name.startswith(TRAIN)):
        inner, readers = bf.join(root, name), NAMED | (LOOSE if part_of(name) else {})
        found = next(filter(None, (read(inner, options) for read in readers.values())), None)
        if found and not (loose and are_binary(found)):  # else its folder may be a type
            if not found.samples:
                check_problems(found.problems)
            raise InputError(f"{root}: holds no data set itself, but its folders do; did you mean {inner}?")
    pairs = [*sum(PAIRS.values(), ()), ("test", "ground_truth"), ("JPEGImages", "SegmentationClass")]
    flat_parts = "train" in folders and list_folder(bf.join(root, "test"))[0]  # images in test/ lack no ground_truth/
    for one in folders if not flat_parts else ():
        if others := dict.fromkeys(other for pair in pairs if one in pair for other in pair if other != one):
            raise InputError(f"{root}: holds {one}/ but no {'/ or '.join(others)}/ beside it{_unread(root)}")
    if len(loose) == 1:
        if len(folders) == 1 and loose[0].format == "type_folders" and not options.label_map and not options.rename:
            text = f"holds one folder, which would be the only type; did you mean {bf.join(root, folders[0])}?"
            loose[0].doubts.append(f"{root}: {text} --types_as_found takes it as it is")
        return loose[0]
    if loose:
        raise InputError(f"{root}: holds images beside their masks, and folders of such; give each its own folder")
    known = f"{listed(sum(INDEX_PAIRS.values(), ()))} and {', '.join(FORMATS[len(INDEX_PAIRS) :])}"
    raise InputError(f"{root}: holds no data set{_unread(root)} (looked for {known}; see docs/data.md)")


def _unread(root: str) -> str:
    """What to add of a file that may hold annotations of another format."""
    path = next((path for path in walk(root, (".xml", ".json")) if bf.basename(path) not in OWN_FILES), None)
    return f"; {path} is of no format that is read here: export it as COCO, or convert it" if path else ""
