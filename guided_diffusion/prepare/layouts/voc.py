"""Pascal VOC, and what CVAT and labelme export like it: JPEGImages/ + SegmentationClass/, of indices or colours."""

from collections.abc import Collection
from dataclasses import replace

import blobfile as bf
import numpy as np

from ...data.files import list_folder, part_of, stem_of
from ...data.image_files import MAX_PLAUSIBLE_INDEX, open_image
from ...data.prepared import IndexMask, Sample, pair_files
from ...errors import InputError
from ...file_io import read_bytes
from .mask_values import LOOKED_AT, has_palette
from .model import ColourMask, Dataset, Options, TypeMasks

MASK_FOLDERS = ("SegmentationClass", "SegmentationClassPNG")
VOID = 255  # around objects
# VOC's colour of each index: its bits, three at a time, go to the highest bits of red, green and blue.
PALETTE = [tuple(sum((k >> 3 * j + c & 1) << 7 - j for j in range(3)) for c in range(3)) for k in range(256)]


def read_voc(root: str, options: Options) -> Dataset | None:
    """Types: of labelmap.txt (CVAT) or class_names.txt (labelme). Colours: of labelmap.txt, else VOC's. Parts: of
    ImageSets/Segmentation/. Value 255, or its colour, is void, drawn as background."""
    home = next((name for name in MASK_FOLDERS if list_folder(bf.join(root, name))[0]), None)
    if not home or not bf.isdir(bf.join(root, "JPEGImages")):
        return None
    data, source = Dataset(root, "voc"), bf.join(root, "labelmap.txt")
    colours = _read_labelmap(source)
    names = list(dict.fromkeys(colours.values()))
    if not colours:
        source = bf.join(root, "class_names.txt")
        names = [name for name in _lines(source) if name != "__ignore__"]
    names = [name for name in names if name.lower().strip("_") != "background"]
    folders = bf.join(root, "JPEGImages"), bf.join(root, home)
    pairs = pair_files(*folders, ("",), data.problems, data.unlabelled)
    parts = _read_parts(bf.join(root, "ImageSets", "Segmentation"), data, {stem_of(image) for image, _ in pairs})
    data.samples = [
        Sample(image, TypeMasks((("defect", mask),)), part=parts.get(stem_of(image))) for image, mask in pairs
    ]
    if options.colormap or options.mask_values in ("binary", "inverted"):
        data.open_values = True
        return data
    data.types = dict.fromkeys(names, source) if names else None
    told, most = options.label_map or {}, len(names or options.label_map or range(MAX_PLAUSIBLE_INDEX))
    table = {PALETTE[k]: names[k - 1] if names else k for k in range(1, 1 + most)}
    table = {PALETTE[VOID]: 0} | ({rgb: name if name in names else 0 for rgb, name in colours.items()} or table)
    masks = [mask for _, mask in pairs]
    if colours or any(_kind(mask) == "colour" for mask in masks[:: 1 + len(masks) // LOOKED_AT]):
        data.samples = [replace(one, mask=ColourMask(one.mask.path, table)) for one in data.samples]
        return data
    if masks and all(_kind(mask) == "binary" for mask in masks):
        text = "are masks in black and white here, but 255 is void in Pascal VOC; say --mask_values binary"
        raise InputError(f"{folders[1]}: {text} (scripts/prepare_data.py)")
    if any(told.get(name, index) != index for index, name in enumerate(names, 1)):
        raise InputError(f"{source}: numbers the types of these masks otherwise than the label map; leave that out")
    data.samples = [replace(one, mask=IndexMask(one.mask.path, VOID)) for one in data.samples]
    return data


def _kind(path: str) -> str:
    """What a mask without labelmap holds: "index", "binary" (it may be) or "colour"."""
    picture = open_image(path)
    if picture.pixels.mode.startswith("RGB"):
        return "colour"
    indices = has_palette(picture) or set(np.unique(np.asarray(picture.pixels)).tolist()) - {0, VOID}
    return "index" if indices else "binary"


def _lines(path: str) -> list[str]:
    text = read_bytes(path).decode("utf-8-sig", "replace") if bf.exists(path) else ""
    return [line.strip() for line in text.splitlines() if line.strip()]


def _read_labelmap(path: str) -> dict[tuple[int, ...], str]:
    """{(r, g, b): name} of lines name:r,g,b:parts:actions; {} where there is no such file. Raises InputError."""
    colours: dict[tuple[int, ...], str] = {}
    for line in _lines(path):
        name, *rest = line.rsplit(":", 3)
        levels = rest[0].split(",") if rest else []
        if line.startswith("#"):
            continue
        if len(levels) != 3 or not all(level.strip().isdecimal() and int(level) < 256 for level in levels):
            raise InputError(f"{path}: its line {line!r} should be name:r,g,b:parts:actions; correct it")
        if (first := colours.setdefault(tuple(map(int, levels)), name)) != name:
            raise InputError(f"{path}: {name} and {first} have one colour; correct it")
    return colours


def _read_parts(folder: str, data: Dataset, stems: Collection[str]) -> dict[str, str]:
    """{stem: part} of the lists called after parts; stems: of the images with a mask."""
    parts: dict[str, str] = {}
    for name in list_folder(folder, (".txt",))[0]:
        path, part = bf.join(folder, name), part_of(stem_of(name))
        for stem in map(stem_of, _lines(path) if part else ()):
            if parts.setdefault(stem, part) != part:
                data.problems.append(f"{path}: lists {stem}, as the list of {parts[stem]} does; list it once")
    known = {*stems, *map(stem_of, data.unlabelled)}
    data.problems += [f"{folder}: lists {stem}, which is not there; correct it" for stem in parts if stem not in known]
    if parts and (missing := sum(stem not in parts for stem in stems)):
        data.notes.append(f"{missing} images with a mask stand in no list of {folder}: taken for training")
    return parts
