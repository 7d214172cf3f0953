"""What the values of mask files are: indices, black and white, or colours. Looks at a few files; readers check all."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence

import numpy as np
from PIL import Image

from ...data.files import name_of, natural_key, stem_of
from ...data.image_files import open_image
from ...errors import InputError
from .model import ColourMask, IndexMask, Options, Sample, TypeMasks, number_types

LOOKED_AT = 24  # files, evenly spread
MAX_PLAUSIBLE_INDEX = 64
FEW_LEVELS = 16  # more grey levels than that are soft edges, not types
NEAR = 32  # grey levels from black or white that compression explains


class TypedMasks:
    """Images with mask files of named types, gathered until the types are known and can be numbered."""

    def __init__(self, options: Options, problems: list[str]):
        self._options, self._problems = options, problems
        self._found: list[tuple[str, list[tuple[str, str]], str | None, str | None]] = []

    def add(self, image: str, masks: list[tuple[str, str]], folder: str | None, part: str | None) -> None:
        """masks: (type name, path), in the order of drawing."""
        self._found.append((image, masks, folder, part))

    def samples(self) -> tuple[list[Sample], dict[str, int] | None]:
        """The samples and their label map, None where the masks hold indices that nobody named.

        Where the kind of the masks cannot be told or their colours have no names, that is a problem and there are none.
        """
        options = self._options
        if not self._found:
            return [], None
        one_each = all(len(masks) == 1 for _, masks, _, _ in self._found)
        try:
            paths = [path for _, masks, _, _ in self._found for _, path in masks]
            types = {name: path for _, masks, _, _ in self._found for name, path in masks}
            kind = kind_of_masks(paths, options, len(types)) if one_each else "binary"
            colours = _colour_table(paths, options) if kind == "colour" else {}
        except InputError as error:
            self._problems.append(str(error))
            return [], None
        label_map = dict(options.label_map) if options.label_map else None
        if kind == "colour":
            label_map = _label_map_of_colours(options)
        elif kind == "binary":
            label_map = number_types(types, options.label_map, self._problems)
        samples = []
        stems = Counter(stem_of(image) for image, *_ in self._found)
        for image, masks, folder, part in self._found:
            if kind == "index":
                mask = IndexMask(masks[0][1])
            elif kind == "colour":
                mask = ColourMask(masks[0][1], colours)
            else:
                mask = TypeMasks(tuple((label_map[name], path) for name, path in masks if name in label_map))
                if not mask.files:
                    continue
            name = name_of(stem_of(image), part, stems) if part else ""
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
    """What LOOKED_AT of the files are, "photograph", "colour", "palette", "jpeg", "grey", and their levels or indices.

    While these are all `undecided`, more files are looked at. Raises InputError for coloured JPEG files.
    """
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
        elif is_colourful(image):
            if image.format == "JPEG":
                raise InputError(f"{path}: is a JPEG, whose compression alters the colours; save masks as PNG")
            kinds.add("colour")
        else:
            palette = image.mode == "P" and not is_grey_ramp(image)
            kinds.add("palette" if palette else "jpeg" if image.format == "JPEG" else "grey")
            levels |= set(np.unique(np.asarray(image) if palette else grey_levels(image)).tolist())
    return kinds, levels


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
        for number, path in enumerate(_spread(paths)):
            if number >= LOOKED_AT and seen:
                break
            for colour in np.unique(np.asarray(open_image(path).convert("RGB")).reshape(-1, 3), axis=0)[:32]:
                if colour.any():
                    seen.setdefault(tuple(colour.tolist()), path)
        colours = sorted(seen) or [(0, 0, 0)]
        shown = " ".join(f"NAME{k}=" + ",".join(map(str, colour)) for k, colour in enumerate(colours[:6], 1))
        path = seen.get(colours[0], paths[0])
        raise InputError(
            f"{path}: is an RGB mask, whose colours mean nothing by themselves; name them, as in "
            f"scripts/prepare_data.py --colormap {shown}{' ...' if len(colours) > 6 else ''}"
        )
    label_map = _label_map_of_colours(options)
    return {tuple(colour): label_map.get(name, 0) for name, colour in options.colormap.items()}


def _label_map_of_colours(options: Options) -> dict[str, int]:
    """Types in the order of the colour map; `background` is none."""
    names = [name for name in options.colormap or {} if name != "background"]
    if options.label_map:
        unknown: list[str] = []
        number_types(dict.fromkeys(names, "--colormap"), options.label_map, unknown)
        if unknown:
            raise InputError(unknown[0])
        return dict(options.label_map)
    return {name: index for index, name in enumerate(names, 1)}


def _spread(paths: Sequence[str]) -> list[str]:
    """The paths, with LOOKED_AT that are evenly spread over them first."""
    paths = sorted(set(paths), key=natural_key)
    first = [paths[i] for i in np.linspace(0, len(paths) - 1, min(len(paths), LOOKED_AT)).round().astype(int)]
    return first + sorted(set(paths) - set(first), key=natural_key)
