"""What the values of mask files are: indices, black and white, or colours. Looks at a few files; readers check all."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial

import numpy as np
from PIL import Image

from ...data.files import natural_key
from ...data.image_files import MAX_PLAUSIBLE_INDEX, open_image
from ...data.prepared import IndexMask, Sample
from ...errors import InputError, unknown_name
from .model import ColourMask, Dataset, Options

LOOKED_AT = 24  # files, evenly spread
FEW_LEVELS = 16  # more grey levels than that are soft edges, not types
NEAR = 32  # grey levels from black or white that compression explains


def number_masks(found: Sequence[tuple[Sample, list[tuple[str, str]]]], options: Options, data: Dataset) -> None:
    """Give `data` the samples found, with their mask files [(type name, path), ...] in the order of drawing, and its
    label map. Where the kind of the masks cannot be told or their colours have no names, that is a problem."""
    if not found:
        return
    paths = [path for _, masks in found for _, path in masks]
    make, data.label_map = IndexMask, options.label_map
    try:
        several = len(paths) > len(found)
        kind = "binary" if several else _kind(paths, options, len({name for _, masks in found for name, _ in masks}))
        if kind == "colour":
            colours, data.label_map = _colour_table(paths, options)
            make = partial(ColourMask, colours=colours)
    except InputError as error:
        data.problems.append(str(error))
        data.label_map = None
        return
    if kind == "binary":
        data.add_typed(found, options.label_map)
    else:
        data.samples = [replace(sample, mask=make(path)) for sample, ((_, path),) in found]


def _kind(paths: Sequence[str], options: Options, num_named: int) -> str:
    """What the masks are: "index", "binary" or "colour". num_named: how many types folders or file names tell. Raises
    InputError where it cannot be told."""
    if options.mask_values != "auto" or options.colormap:
        return options.mask_values if options.mask_values != "auto" else "colour"
    files, levels = _look_at(paths, undecided={0, 1} if num_named > 1 else {0})
    if "colour" in files:
        return "colour"
    if files == {"photograph"}:
        raise InputError(f"{paths[0]}: looks like a photograph rather than a mask; is it swapped with its image?")
    top = max(levels, default=0)
    if (num_named > 1 and top == 1) or (top == 255 and levels <= {0, 255}):
        return "binary"
    if "palette" in files or ("jpeg" not in files and top <= MAX_PLAUSIBLE_INDEX):
        return "index"
    if "jpeg" in files and top <= MAX_PLAUSIBLE_INDEX:
        raise InputError(f"{paths[0]}: is a JPEG, and all levels are low: type indices? Save masks as PNG")
    both_ends = 255 in levels and any(255 - NEAR <= level < 255 for level in levels)
    near_ends = all(level <= NEAR or level >= 255 - NEAR for level in levels)
    if "jpeg" in files or (near_ends and both_ends) or len(levels) > FEW_LEVELS:
        return "binary"
    raise InputError(
        f"{paths[0]}: these masks hold the grey levels {', '.join(map(str, sorted(levels)))}: types, or soft edges? "
        "Say --mask_values binary, or name them as in --colormap crack=128 hole=255 (scripts/prepare_data.py)"
    )


def _look_at(paths: Sequence[str], undecided: set[int]) -> tuple[set[str], set[int]]:
    """What LOOKED_AT of the files are, "photograph", "colour", "palette", "jpeg", "grey", and their levels or indices;
    more of them while all levels are `undecided`. Raises InputError for coloured JPEG files."""
    kinds: set[str] = set()
    levels: set[int] = set()
    for number, path in enumerate(_spread(paths)):
        if "colour" in kinds or (number >= LOOKED_AT and not levels <= undecided):
            break
        try:
            image = open_image(path)
        except InputError:
            continue  # told when it is read
        if looks_like_photograph(image):
            kinds.add("photograph")
        elif _is_colourful(image):
            if image.format == "JPEG":
                raise InputError(f"{path}: is a JPEG, whose compression alters the colours; save masks as PNG")
            kinds.add("colour")
        else:
            palette = has_palette(image)
            kinds.add("palette" if palette else "jpeg" if image.format == "JPEG" else "grey")
            levels |= set(np.unique(np.asarray(image) if palette else grey_levels(image)).tolist())
    return kinds, levels


def grey_levels(image: Image.Image) -> np.ndarray:
    """The brightest channel of a mask file, uint8 [H, W]; 16-bit levels up to 255 stay, larger ones are scaled."""
    if image.mode == "I" or image.mode.startswith("I;16"):
        values = np.asarray(image).astype(np.int64)
        return (values if values.max() <= 255 else np.round(values / 257)).clip(0, 255).astype(np.uint8)
    if image.mode in ("1", "L"):
        return np.asarray(image.convert("L"))
    return np.asarray(image.convert("RGB")).max(axis=2)


def _is_colourful(image: Image.Image) -> bool:
    """Whether the channels of an RGB file differ by more than compression explains."""
    return image.mode.startswith("RGB") and np.ptp(np.asarray(image.convert("RGB")), axis=2).max() > NEAR


def looks_like_photograph(image: Image.Image) -> bool:
    """Whether more than a quarter of a mask file is neither near black nor near white, in many levels."""
    if has_palette(image):
        return False
    counts = np.bincount(grey_levels(image).ravel(), minlength=256)
    middle = counts[NEAR + 1 : 255 - NEAR]
    return bool(middle.sum() > counts.sum() / 4 and np.count_nonzero(middle) > FEW_LEVELS)


def has_palette(image: Image.Image) -> bool:
    """Whether a file's values are places in a palette that is more than the grey levels."""
    return image.mode == "P" and image.getpalette() != [level for level in range(256) for _ in range(3)]


def _colour_table(paths: Sequence[str], options: Options) -> tuple[dict[tuple[int, int, int], int], dict[str, int]]:
    """{(r, g, b): type index} of the colour map, in whose order types are numbered, and the label map.

    Raises InputError where nobody names the colours, or one is none of the types.
    """
    if not options.colormap:
        raise InputError(_say_colours(paths))
    names = [name for name in options.colormap if name != "background"]
    label_map = dict(options.label_map or {name: index for index, name in enumerate(names, 1)})
    for name in names:
        if name not in label_map:
            raise InputError(f"--colormap: {unknown_name('type', name, label_map)}; correct it or the label map")
    return {tuple(colour): label_map.get(name, 0) for name, colour in options.colormap.items()}, label_map


def _say_colours(paths: Sequence[str]) -> str:
    """What to say of masks whose colours nobody names."""
    seen: dict[tuple[int, ...], str] = {}
    for number, path in enumerate(_spread(paths)):
        if number >= LOOKED_AT and seen:
            break
        for colour in np.unique(np.asarray(open_image(path).convert("RGB")).reshape(-1, 3), axis=0)[:32]:
            if colour.any():
                seen.setdefault(tuple(colour.tolist()), path)
    colours = sorted(seen) or [(0, 0, 0)]
    shown = " ".join(f"NAME{k}=" + ",".join(map(str, colour)) for k, colour in enumerate(colours[:6], 1))
    return (
        f"{seen.get(colours[0], paths[0])}: is an RGB mask, whose colours mean nothing by themselves; name them, as in "
        f"scripts/prepare_data.py --colormap {shown}{' ...' if len(colours) > 6 else ''}"
    )


def _spread(paths: Sequence[str]) -> list[str]:
    """The paths, with LOOKED_AT that are evenly spread over them first."""
    paths = sorted(set(paths), key=natural_key)
    first = [paths[i] for i in np.linspace(0, len(paths) - 1, min(len(paths), LOOKED_AT)).round().astype(int)]
    return first + sorted(set(paths) - set(first), key=natural_key)
