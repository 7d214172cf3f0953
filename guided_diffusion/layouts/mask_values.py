"""What the values of mask files are: indices, black and white, or colours. Looks at a few files; readers check all."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence

import numpy as np
from PIL import Image

from ..errors import InputError
from ..image_files import open_image
from .files import natural_key, stem_of
from .model import ColourMask, IndexMask, Options, Sample, TypeMasks, number_types

LOOKED_AT = 24  # files, evenly spread
MAX_PLAUSIBLE_INDEX = 64
FEW_LEVELS = 16  # more grey levels than that are soft edges, not types
NEAR = 32  # grey levels from black or white that compression explains


class TypedMasks:
    """Images with mask files of named types, gathered until the types are known and can be numbered."""

    def __init__(self, root: str, options: Options, problems: list[str]):
        self._root, self._options, self._problems = root, options, problems
        self._found: list[tuple[str, list[tuple[str, str]], str | None, str | None]] = []

    def add(self, image: str, masks: list[tuple[str, str]], folder: str | None, part: str | None) -> None:
        """masks: (type name, path), in the order of drawing."""
        self._found.append((image, masks, folder, part))

    def samples(self) -> tuple[list[Sample], dict[str, int] | None]:
        """The samples and their label map, None where the masks hold indices that nobody named.

        Where the kind of the masks cannot be told or their colours have no names, that is a problem and there are none.
        """
        options = self._options
        one_each = all(len(masks) == 1 for _, masks, _, _ in self._found)
        try:
            paths = [path for _, masks, _, _ in self._found for _, path in masks]
            types = {name for _, masks, _, _ in self._found for name, _ in masks}
            kind = kind_of_masks(paths, options, len(types)) if one_each else "binary"
            colours = _colour_table(paths, options) if kind == "colour" else {}
        except InputError as error:
            self._problems.append(str(error))
            return [], None
        label_map = dict(options.label_map) if options.label_map else None
        if kind == "colour":
            label_map = _label_map_of_colours(options)
        elif kind == "binary":
            label_map = number_types(types, options.label_map, self._root, self._problems)
        samples = []
        stems = Counter(stem_of(image) for image, *_ in self._found)
        for image, masks, folder, part in self._found:
            if kind == "index":
                mask = IndexMask(masks[0][1])
            elif kind == "colour":
                mask = ColourMask(masks[0][1], colours)
            else:
                mask = TypeMasks(tuple((label_map[name], path) for name, path in masks if name in label_map))
            stem = stem_of(image)
            name = f"{part}_{stem}" if part and stems[stem] > 1 else ""
            samples.append(Sample(image, mask, folder, name, part))
        return samples, label_map


def kind_of_masks(paths: Sequence[str], options: Options, num_named: int) -> str:
    """What the masks are: "index", "binary" or "colour". num_named: how many types folders or file names tell.

    Raises InputError where it cannot be told, naming a file.
    """
    if options.mask_values != "auto":
        return options.mask_values
    if options.colormap:
        return "colour"
    levels: set[int] = set()
    jpeg = False
    for path in _spread(paths):
        try:
            image = open_image(path)
        except InputError:
            continue  # told when it is read
        if looks_like_photograph(image):
            continue
        if image.mode == "P" and not is_grey_ramp(image):
            return "index"
        if is_colourful(image):
            return "colour"
        jpeg = jpeg or image.format == "JPEG"
        levels |= set(np.unique(grey_levels(image)).tolist())
    near_ends = all(level <= NEAR or level >= 255 - NEAR for level in levels)
    if levels <= {0, 1} and num_named > 1:
        return "binary"
    if not jpeg and max(levels, default=0) <= MAX_PLAUSIBLE_INDEX:
        return "index"
    if jpeg or near_ends or len(levels) > FEW_LEVELS:
        return "binary"
    raise InputError(
        f"{paths[0]}: these masks hold the grey levels {', '.join(map(str, sorted(levels)))}: types, or soft edges? "
        "Say --mask_values binary, or name them as in --colormap crack=128 hole=255 (scripts/prepare_data.py)"
    )


def grey_levels(image: Image.Image) -> np.ndarray:
    """The brightest channel of a mask file, uint8 [H, W]; 16-bit levels up to 255 stay, larger ones are scaled.

    Transparency is dropped; black and white of 1-bit files are 0 and 255.
    """
    if image.mode == "I" or image.mode.startswith("I;16"):
        values = np.asarray(image).astype(np.int64)
        return (values if values.max() <= 255 else np.round(values / 257)).clip(0, 255).astype(np.uint8)
    if image.mode in ("1", "L"):
        return np.asarray(image.convert("L"))
    return np.asarray(image.convert("RGB")).max(axis=2)


def is_colourful(image: Image.Image) -> bool:
    """Whether the channels of an RGB file differ by more than compression explains."""
    if image.mode not in ("RGB", "RGBA", "RGBX"):
        return False
    pixels = np.asarray(image.convert("RGB")).astype(np.int16)
    return bool((pixels.max(axis=2) - pixels.min(axis=2)).max() > NEAR)


def looks_like_photograph(image: Image.Image) -> bool:
    """Whether more than a quarter of a mask file is neither near black nor near white, in many levels."""
    if image.mode == "P" and not is_grey_ramp(image):
        return False
    counts = np.bincount(grey_levels(image).ravel(), minlength=256)
    middle = counts[NEAR + 1 : 255 - NEAR]
    return bool(middle.sum() > counts.sum() / 4 and np.count_nonzero(middle) > FEW_LEVELS)


def is_grey_ramp(image: Image.Image) -> bool:
    """Whether a palette file's palette is merely the grey levels."""
    colours = np.array(image.getpalette() or [0], np.int16)
    return len(colours) == 768 and bool((colours == np.repeat(np.arange(256), 3)).all())


def type_in_name(path: str, regex: str | None, problems: list[str]) -> str | None:
    """The type that a file name tells: `regex`'s first group in the stem, or what is left of it without numbers.

    `00987_0047_Thick-Place` is a Thick-Place, `crack_001` and `crack001` a crack. None, and a problem, where it
    tells none.
    """
    stem = stem_of(path)
    if regex:
        match = re.search(regex, stem)
        name = match[1] if match else None
        remedy = f"--type_regex {regex!r} finds none in it"
    else:
        words = [re.sub(r"^\d+|\d+$", "", word).strip("-. ") for word in re.split(r"[_ ]+", stem)]
        name = "_".join(word for word in words if word)
        remedy = "say where with --type_regex"
    if not name:
        problems.append(f"{path}: its name tells no defect type; {remedy}")
    return name or None


def _colour_table(paths: Sequence[str], options: Options) -> Mapping[tuple[int, int, int], int]:
    if not options.colormap:
        seen: dict[tuple[int, ...], str] = {}
        for path in _spread(paths):
            for colour in np.unique(np.asarray(open_image(path).convert("RGB")).reshape(-1, 3), axis=0)[:32]:
                seen.setdefault(tuple(colour.tolist()), path)
        colours = [colour for colour in sorted(seen) if any(colour)]
        shown = " ".join(f"NAME{k}=" + ",".join(map(str, colour)) for k, colour in enumerate(colours[:6], 1))
        raise InputError(
            f"{seen[colours[0]]}: is an RGB mask, whose colours mean nothing by themselves; name them, as in "
            f"scripts/prepare_data.py --colormap {shown}{' ...' if len(colours) > 6 else ''}"
        )
    label_map = _label_map_of_colours(options)
    return {tuple(colour): label_map.get(name, 0) for name, colour in options.colormap.items()}


def _label_map_of_colours(options: Options) -> dict[str, int]:
    """Types in the order of the colour map; `background` is none."""
    names = [name for name in options.colormap or {} if name != "background"]
    if options.label_map:
        unknown: list[str] = []
        number_types(names, options.label_map, "--colormap", unknown)
        if unknown:
            raise InputError(unknown[0])
        return dict(options.label_map)
    return {name: index for index, name in enumerate(names, 1)}


def _spread(paths: Sequence[str]) -> list[str]:
    paths = sorted(set(paths), key=natural_key)
    return [paths[i] for i in np.linspace(0, len(paths) - 1, min(len(paths), LOOKED_AT)).round().astype(int)]
