"""Pascal VOC, and what CVAT and labelme export like it: JPEGImages/ + SegmentationClass/, of indices or colours."""

from dataclasses import replace

import blobfile as bf

from ...data.files import list_folder, read_lines
from ...data.image_files import MAX_PLAUSIBLE_INDEX
from ...data.prepared import pair_files
from ...errors import InputError
from .mask_values import DEFAULT
from .model import ColourMask, Dataset, Options

MASK_FOLDERS = ("SegmentationClass", "SegmentationClassPNG")
LABELS = ("labelmap.txt", "class_names.txt")  # of CVAT, with colours; of labelme, in the order of indices
VOID = 255  # around objects
# VOC's colour of each index: its bits, three at a time, go to the highest bits of red, green and blue.
PALETTE = [tuple(sum((k >> 3 * j + c & 1) << 7 - j for j in range(3)) for c in range(3)) for k in range(256)]


def read_voc(root: str, options: Options) -> Dataset | None:
    """Types and colours are those of LABELS, else VOC's; VOID is background."""
    home = next((name for name in MASK_FOLDERS if list_folder(bf.join(root, name))[0]), None)
    if not home or not bf.isdir(bf.join(root, "JPEGImages")):
        return None
    data, folders = Dataset(root, "voc"), (bf.join(root, "JPEGImages"), bf.join(root, home))
    data.add(DEFAULT, pair_files(*folders, ("",), data.problems, data.unlabelled))
    if options.colormap or options.mask_values in ("binary", "inverted"):
        data.open_values = True
        return data
    data.notes.append(f"{VOID}, or its colour, is void in Pascal VOC: drawn as background")
    source = next(filter(bf.exists, (bf.join(root, name) for name in LABELS)), "")
    lines = [line for line in read_lines(source) if line and line[0] != "#"] if source else []
    colours = dict(_colour(line, source) for line in lines) if source.endswith(LABELS[0]) else {}
    if colours and len(colours) < len(lines):
        raise InputError(f"{source}: gives one colour to several labels; correct it")
    names = list(dict.fromkeys(colours.values())) if colours else [name for name in lines if name != "__ignore__"]
    names = [name for name in names if name.lower().strip("_") != "background"]
    data.types = dict.fromkeys(names, source) if names else None
    if colours:
        table = {PALETTE[VOID]: 0} | {rgb: name if name in names else 0 for rgb, name in colours.items()}
        data.samples = [replace(one, mask=ColourMask(one.mask.path, table)) for one in data.samples]
        return data
    known = options.label_map or {}
    if any(known.get(name, index) != index for index, name in enumerate(names, 1)):
        raise InputError(f"{source}: numbers the types of these masks otherwise than the label map; leave that out")
    indices = range(1, 1 + len(names or known or range(MAX_PLAUSIBLE_INDEX)))
    data.colours = {PALETTE[VOID]: 0} | {PALETTE[k]: names[k - 1] if names else k for k in indices}
    data.open_values, data.rule = True, replace(data.rule, void=VOID)
    return data


def _colour(line: str, source: str) -> tuple[tuple[int, ...], str]:
    """((r, g, b), name) of a line name:r,g,b:parts:actions. Raises InputError."""
    name, *rest = line.rsplit(":", 3)
    levels = rest[0].split(",") if rest else []
    if len(levels) != 3 or not all(level.strip().isdecimal() and int(level) < 256 for level in levels):
        raise InputError(f"{source}: its line {line!r} should be name:r,g,b:parts:actions; correct it")
    return tuple(map(int, levels)), name
