"""What the values of mask files are: indices, black and white, or colours. Looks at a few files; readers check all."""

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from functools import partial

import numpy as np
from PIL import Image

from ...data.files import natural_key
from ...data.image_files import MAX_PLAUSIBLE_INDEX, open_image
from ...data.prepared import IndexMask
from ...errors import InputError, unknown_name
from .model import ColourMask, Dataset, Options

LOOKED_AT = 24  # files, evenly spread
FEW_LEVELS = 16  # more grey levels than that are soft edges, not types
NEAR = 32  # grey levels from black or white that compression explains
COLOURS_SHOWN = 6


def tell_values(data: Dataset, options: Options) -> None:
    """Decide what the values of the mask files in `data` are, and set masks of that kind. Raises InputError where it
    cannot be told, or colours have no names."""
    named = [file for sample in data.samples for file in sample.mask.files]
    paths = [path for _, path in named]
    several = len(paths) > len(data.samples)
    kind = "binary" if several or not paths else _kind(paths, options, len({name for name, _ in named}))
    if kind != "binary":
        make = partial(ColourMask, colours=_colour_table(paths, options, data)) if kind == "colour" else IndexMask
        data.samples = [replace(sample, mask=make(sample.mask.path)) for sample in data.samples]


def _kind(paths: Sequence[str], options: Options, num_named: int) -> str:
    """What the masks are: "index", "binary" or "colour". num_named: how many types folders or file names tell. Raises
    InputError where it cannot be told."""
    if options.mask_values != "auto" or options.colormap:
        return options.mask_values if options.mask_values != "auto" else "colour"
    kinds: set[str] = set()
    levels: set[int] = set()
    undecided = {0, 1} if num_named > 1 else {0}
    for number, path in enumerate(_spread(paths)):
        if "colour" in kinds or (number >= LOOKED_AT and not levels <= undecided):
            break
        with suppress(InputError):  # told when it is read
            kind, own = _look_at(path)
            kinds.add(kind)
            levels |= own
    jpeg = "jpeg" in kinds
    if "colour" in kinds:
        return "colour"
    if kinds == {"photograph"}:
        raise InputError(f"{paths[0]}: looks like a photograph rather than a mask; is it swapped with its image?")
    top = max(levels, default=0)
    if (num_named > 1 and top == 1) or (top == 255 and levels <= {0, 255}):
        return "binary"
    if "palette" in kinds or (not jpeg and top <= MAX_PLAUSIBLE_INDEX):
        return "index"
    if jpeg and top <= MAX_PLAUSIBLE_INDEX:
        raise InputError(f"{paths[0]}: is a JPEG, and all levels are low: type indices? Save masks as PNG")
    both_ends = 255 in levels and any(255 - NEAR <= level < 255 for level in levels)
    near_ends = all(level <= NEAR or level >= 255 - NEAR for level in levels)
    if jpeg or (near_ends and both_ends) or len(levels) > FEW_LEVELS:
        return "binary"
    raise InputError(
        f"{paths[0]}: these masks hold the grey levels {', '.join(map(str, sorted(levels)))}: types, or soft edges? "
        "Say --mask_values binary, or name them as in --colormap crack=128 hole=255 (scripts/prepare_data.py)"
    )


def _spread(paths: Sequence[str]) -> list[str]:
    """The paths, with LOOKED_AT that are evenly spread over them first."""
    paths = sorted(set(paths), key=natural_key)
    first = [paths[i] for i in np.linspace(0, len(paths) - 1, min(len(paths), LOOKED_AT)).round().astype(int)]
    return list(dict.fromkeys([*first, *paths]))


def _look_at(path: str) -> tuple[str, set[int]]:
    """What a mask file is, "photograph", "colour", "palette", "jpeg" or "grey", and its levels or palette indices."""
    image = open_image(path)
    if looks_like_photograph(image):
        return "photograph", set()
    if image.mode.startswith("RGB") and np.ptp(np.asarray(image.convert("RGB")), axis=2).max() > NEAR:
        return "colour", set()
    palette = has_palette(image)
    levels = set(np.unique(np.asarray(image) if palette else grey_levels(image)).tolist())
    return "palette" if palette else "jpeg" if image.format == "JPEG" else "grey", levels


def grey_levels(image: Image.Image) -> np.ndarray:
    """The brightest channel of a mask file, uint8 [H, W]; 16-bit levels up to 255 stay, larger ones are scaled."""
    if image.mode == "I" or image.mode.startswith("I;16"):
        values = np.asarray(image).astype(np.int64)
        return (values if values.max() <= 255 else np.round(values / 257)).clip(0, 255).astype(np.uint8)
    return np.asarray(image.convert("L")) if image.mode in ("1", "L") else np.asarray(image.convert("RGB")).max(axis=2)


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


def _colour_table(paths: Sequence[str], options: Options, data: Dataset) -> dict[tuple[int, int, int], int]:
    """{(r, g, b): type index} of the colour map, in whose order types are numbered unless a label map does.

    Raises InputError where nobody names the colours, or one is none of the types.
    """
    if not options.colormap:
        raise InputError(_say_colours(paths))
    names = [name for name in options.colormap if name != "background"]
    data.label_map = dict(options.label_map or {name: index for index, name in enumerate(names, 1)})
    for name in names:
        if name not in data.label_map:
            raise InputError(f"--colormap: {unknown_name('type', name, data.label_map)}; correct it or the label map")
    return {tuple(colour): data.label_map.get(name, 0) for name, colour in options.colormap.items()}


def _say_colours(paths: Sequence[str]) -> str:
    """What to say of masks whose colours nobody names."""
    seen: dict[tuple[int, ...], str] = {}
    for path in _spread(paths)[:LOOKED_AT]:
        if (image := open_image(path)).format == "JPEG":
            return f"{path}: is a JPEG, whose compression alters the colours; save masks as PNG"
        for colour in np.unique(np.asarray(image.convert("RGB")).reshape(-1, 3), axis=0)[:32].tolist():
            seen.setdefault(tuple(colour), path)
    colours = sorted(colour for colour in seen if any(colour))
    shown = " ".join(f"NAME{k}=" + ",".join(map(str, one)) for k, one in enumerate(colours[:COLOURS_SHOWN], 1))
    return (
        f"{seen[colours[0]] if colours else paths[0]}: is an RGB mask, whose colours mean nothing by themselves; name "
        f"them, as in scripts/prepare_data.py --colormap {shown}{' ...' if len(colours) > COLOURS_SHOWN else ''}"
    )
