"""What the values of mask files are: indices, black and white, or colours. Decided from all files of a data set."""

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from PIL import Image

from ... import GOOD
from ...data.files import ALSO_GOOD, natural_key
from ...data.image_files import (
    FEW_LEVELS,
    MAX_PLAUSIBLE_INDEX,
    Picture,
    border_of,
    check_transparency,
    has_palette,
    histogram,
    mask_levels,
    open_image,
)
from ...data.prepared import IndexMask
from ...errors import InputError, unknown_name
from ...parallel import parallel_map
from .model import ColourMask, Dataset, DrawingRule, Options, TypeMasks, mapped

NEAR = 32  # grey levels from black or white that compression explains
COLOURS_SHOWN, LOOKED_AT = 6, 24
INVERTED, INVERTED_BORDER = 0.5, 0.75  # shares of an image, and of its outermost pixels
THRESHOLD = DrawingRule.mask_threshold
DEFAULT = "defect"  # the name of a type that nothing names


@dataclass(frozen=True)
class Values:
    """What one mask file holds, of the type `name`. kind: "photograph", "colour", "palette" or "grey". counts, border:
    pixels of each grey level, or palette index, in all and among the outermost. colours: of the palette indices."""

    name: str | int
    path: str
    kind: str
    lossy: bool
    counts: Mapping[int, int]
    border: Mapping[int, int]
    colours: Mapping[int, tuple[int, int, int]]

    def above_zero(self, void: int | None) -> list[int]:
        return [level for level in self.counts if level and level != void]


def tell_values(data: Dataset, options: Options, *, workers: int = 1) -> None:
    """Decide what the values of mask files are, and set masks of that kind, data.rule and a note. Raises InputError."""
    void = data.rule.void if options.void is None else options.void
    files = [file for one in data.samples if isinstance(one.mask, TypeMasks) for file in one.mask.files]
    single = len(files) == len(data.samples)  # a file for each image
    open_values, kind = data.open_values and single, options.mask_values
    if kind == "auto" and open_values and options.colormap:
        kind = "colour"
    look = [] if open_values and kind in ("index", "colour") else files
    seen = parallel_map(_look_at, look, workers=workers, description="looking at masks", unit="mask")
    seen = list(filter(None, seen))
    data.rule = replace(data.rule, void=void, palette=_palette(seen, void))
    if data.rule.palette == "looks":
        seen = [_as_it_looks(one) if one.kind == "palette" else one for one in seen]
    if kind == "auto" and seen:
        names = {one.name for one in seen}
        named = data.format != "defect_spectrum" and names != {DEFAULT} and names <= {*(options.label_map or names)}
        kind = _kind(seen, void, open_values, named)
    kind = kind if kind == "inverted" or (open_values and kind in ("index", "colour")) else "binary"
    table = _colour_table([path for _, path in files], options, data) if kind == "colour" else {}
    if files:
        threshold = THRESHOLD
        if kind in ("binary", "inverted"):
            threshold = _threshold(seen, void) if options.mask_threshold is None else options.mask_threshold
            if data.format == "defect_spectrum":  # only lies like one
                data.format, data.label_map = "images_masks", None
        data.rule = replace(data.rule, mask_values=kind, mask_threshold=threshold)
        if not table:
            _note(seen, data, sure=options.mask_values != "auto")
    black = {one.path for one in seen if not one.above_zero(void)} if single else ()
    only = list(options.label_map or ())
    samples, data.samples = data.samples, []
    for one in samples:
        path, made = one.mask.path, one.mask
        if path in black and (data.black_is_good or (one.folder or "").lower() in (GOOD, *ALSO_GOOD)):
            data.good.append(replace(one, mask=None))
            continue
        if isinstance(made, IndexMask) or (isinstance(made, TypeMasks) and kind == "index"):
            made = IndexMask(path, void)
        elif isinstance(made, TypeMasks) and table:
            made = ColourMask(path, table)
        elif isinstance(made, TypeMasks) and len(only) == 1:
            made = mapped(made, lambda name: only[0] if name == DEFAULT else name)
        data.samples.append(replace(one, mask=made))


def are_binary(data: Dataset) -> bool:
    """Whether masks in image/ + mask/ or images/ + masks/ are black and white, by a few: their folder may be a type."""
    known = data.label_map is not None or any(one.part for one in data.samples)
    if known or data.format not in ("defect_spectrum", "images_masks"):
        return False
    some = data.samples[:: 1 + len(data.samples) // LOOKED_AT]
    seen = filter(None, (_look_at((DEFAULT, one.mask.path)) for one in some))
    levels = {level for one in seen if not one.lossy for level in one.above_zero(255)}
    return len(levels) < 2 or max(levels) > MAX_PLAUSIBLE_INDEX


def check_good(data: Dataset, masks: Sequence[str], void: int | None, *, workers: int = 1) -> None:
    """Note as a problem masks of defect-free images that show a defect; photographs among them go to data.unread."""
    files = [(GOOD, path) for path in masks]
    found = parallel_map(_look_at, files, workers=workers, description="good masks", unit="mask")
    seen = [*filter(None, found)]
    data.unread += [one.path for one in seen if one.kind == "photograph"]
    drawn = [one for one in seen if one.kind != "photograph" and 0 in one.counts]
    wrong = [one.path for one in drawn if max(one.above_zero(void), default=0) > (NEAR if one.lossy else 0)]
    if wrong:
        text = "shows a defect, but its image is called good; move the image, or remove the mask"
        data.problems.append(f"{wrong[0]}: {text} [{len(wrong)} in all]")


def _kind(seen: Sequence[Values], void: int | None, open_values: bool, named: bool) -> str:
    """What the masks are: "index", "binary" or "colour". open_values: the layout does not tell. named: it names types,
    by folders or files. Raises InputError where it cannot be told."""
    kinds = {one.kind for one in seen}
    if kinds == {"photograph"}:
        raise InputError(f"{seen[0].path}: looks like a photograph rather than a mask; is it swapped with its image?")
    if open_values and "colour" in kinds:
        return "colour"
    levels = {level for one in seen for level in one.above_zero(void)}
    if voided := [one.path for one in seen if void in one.counts and not levels]:
        raise InputError(f"{voided[0]}: {void} is void, but is all that masks hold; say --mask_values binary instead")
    lossy, top = [one.path for one in seen if one.lossy], max(levels, default=0)
    if levels <= {255}:
        return "index" if open_values and not levels else "binary"
    mixed = next((one.path for one in seen if len(one.above_zero(void)) > 1), None)  # else each is of two levels
    of_type = defaultdict(set)
    for one in seen:
        of_type[one.name] |= {*one.above_zero(void)}
    odd = next((one.path for one in seen if len(of_type[one.name]) > 1), None)
    if open_values and (odd or not named):
        if lossy and top <= MAX_PLAUSIBLE_INDEX:
            raise InputError(f"{lossy[0]}: is compressed with loss, and its levels are low: type indices? Save as PNG")
        if top <= MAX_PLAUSIBLE_INDEX or "palette" in kinds:
            _check_palettes(seen)
            return "index"
    low = levels - {255}
    if top <= MAX_PLAUSIBLE_INDEX and not lossy:
        sure = not odd
    elif 255 in levels and max(low) <= MAX_PLAUSIBLE_INDEX and not lossy:
        sure = not mixed and (low == {1} or not open_values)  # 0/1 in some files, 0/255 in others
    else:
        near_ends = all(level <= NEAR or level >= 255 - NEAR for level in levels)
        both_ends = 255 in levels and any(255 - NEAR <= level < 255 for level in levels)
        sure = lossy or (near_ends and both_ends) or len(levels) >= FEW_LEVELS or not open_values
    if sure:
        return "binary"
    shown = f"these masks hold the grey levels {', '.join(map(str, sorted(levels | {0})[:FEW_LEVELS]))}"
    remedy = "--mask_values index, --mask_values binary, maybe with --mask_threshold 0, --void 255, or --colormap"
    raise InputError(f"{mixed or odd or seen[0].path}: {shown}: types, void or soft? Say {remedy} crack=128")


def _threshold(seen: Sequence[Values], void: int | None) -> int:
    """The level above which all is defective: 0 where every file is of two levels, as 0/1 and 0/255. Raises InputError
    for a file that would come out empty under the usual one, but is not."""
    tops = {one.path: max(one.above_zero(void), default=0) for one in seen if one.kind != "palette"}
    dark = [path for path, top in tops.items() if 0 < top <= THRESHOLD]
    if not dark:
        return THRESHOLD
    if not any(one.lossy or len(one.above_zero(void)) > 1 for one in seen if one.path in tops):
        return 0
    text = f"its brightest level is {tops[dark[0]]}, but others have soft edges"
    raise InputError(f"{dark[0]}: {text}; say a `mask_threshold` of 0, or {THRESHOLD} if it is empty")


def _note(seen: Sequence[Values], data: Dataset, *, sure: bool) -> None:
    """Note what was decided. Raises InputError where most masks look inverted, unless the user is `sure`."""
    rule, drawn, inverted = data.rule, 0, []
    for one in seen:
        share, border = (_share(counts, one.kind == "palette", rule) for counts in (one.counts, one.border))
        drawn += share > 0
        if INVERTED < share < 1 and border >= INVERTED_BORDER:
            inverted.append(one.path)
    text = f"most of the image and its border defective, like {len(inverted)} of {drawn} masks"
    if inverted and 2 * len(inverted) >= drawn + (len(inverted) == 1) and not sure:
        raise InputError(f"{inverted[0]}: calls {text}; say --mask_values inverted, or {rule.mask_values} if right")
    told = [f"{inverted[0]} calls {text}, as if inverted"] if inverted and not sure else []
    if rule.mask_values == "index":
        if seen and not sure and not any(0 in one.counts for one in seen):
            raise InputError(f"{seen[0].path}: no mask has value 0, background; subtract 1, or say --mask_values index")
        told.append("the values of the masks are type indices")
    elif rule.mask_threshold != THRESHOLD:
        pairs = Counter(tuple(one.above_zero(rule.void)) for one in seen)
        held = ", ".join(f"0/{k[0]} in {n}" for k, n in sorted(pairs.items()) if len(k) == 1)
        shown = "background" if rule.mask_values == "inverted" else "a defect"
        told.append(f"masks are {rule.mask_values}: {shown} is above {rule.mask_threshold} ({held or 'no'} masks)")
    if rule.palette == "looks":
        told.append("palettes count by what they look like")
    if rule.void is not None:
        told.append(f"{rule.void} is void, drawn as background")
    data.notes += ["; ".join(told)] if told else []


def _share(counts: Mapping[int, int], palette: bool, rule: DrawingRule) -> float:
    """The share of the pixels that are defective under a rule."""
    threshold = 0 if rule.mask_values == "index" or palette else rule.mask_threshold
    dark = rule.mask_values == "inverted"
    defective = sum(n for level, n in counts.items() if (level > threshold) != dark and level != rule.void)
    return defective / max(1, sum(counts.values()))


def _look_at(file: tuple[str | int, str]) -> Values | None:
    """What a mask file holds; None where it cannot be read, which is told when it is."""
    name, path = file
    try:
        picture = open_image(path)
        levels, colours = mask_levels(picture, path), {}
    except InputError:
        return None
    image = picture.pixels
    pixels = histogram(levels), np.bincount(border_of(levels)).tolist()
    counts, border = ({k: n for k, n in enumerate(some) if n} for some in pixels)
    if has_palette(picture):
        kind, table = "palette", palette_of(image)
        colours = {k: tuple(table[k].tolist()) for k in counts}
    elif looks_like_photograph(levels):
        kind = "photograph"
    else:
        colour = image.mode.startswith("RGB") and np.ptp(np.asarray(image.convert("RGB")), axis=2).max() > NEAR
        kind = "colour" if colour else "grey"
    return Values(name, path, kind, picture.lossy, counts, border, colours)


def _palette(seen: Sequence[Values], void: int | None) -> str:
    """Whether palette indices count, or, where files tell otherwise, the looks of two colours, one black or white."""
    used = [(k, colour) for one in seen if one.kind == "palette" for k, colour in one.colours.items()]
    bright = {colour for _, colour in used if max(colour) > NEAR}
    two = len(bright) == 1 or all(min(colour) >= 255 - NEAR for colour in bright)
    agree = all((k > 0) == (max(colour) > NEAR) for k, colour in used)
    others = [level for one in seen if one.kind != "palette" for level in one.above_zero(void)]
    beside = max(others, default=0) > MAX_PLAUSIBLE_INDEX
    return "looks" if used and two and (beside or (bright and not agree)) else "index"


def _as_it_looks(one: Values) -> Values:
    """Two grey levels in place of palette indices."""

    def looks(pixels: Mapping[int, int]) -> Mapping[int, int]:
        bright = sum(n for k, n in pixels.items() if max(one.colours[k]) > NEAR)
        return {level: n for level, n in ((0, sum(pixels.values()) - bright), (255, bright)) if n}

    return replace(one, kind="grey", counts=looks(one.counts), border=looks(one.border))


def _check_palettes(seen: Sequence[Values]) -> None:
    """Raise InputError where an index has other colours in other files: then indices are no types."""
    first: dict[int, tuple[tuple[int, int, int], str]] = {}
    for one in seen:
        for k, colour in one.colours.items():
            known, where = first.setdefault(k, (colour, one.path))
            if known != colour:
                remedy = "say --mask_values index if indices are types, or --colormap"
                raise InputError(f"{one.path}: the index {k} has another colour than in {where}; {remedy}")


def binary_values(picture: Picture, path: str, rule: DrawingRule) -> np.ndarray:
    """Where a mask file is defective, bool [H, W], under a rule. Raises InputError where it does not look like one."""
    image = picture.pixels
    if image.mode in ("CMYK", "YCbCr", "LAB", "HSV", "F"):
        raise InputError(f"{path}: has mode {image.mode}, but a mask is black and white; save it as 8-bit grey")
    levels = mask_levels(picture, path)
    if has_palette(picture):
        where = (palette_of(image).max(axis=1) > NEAR)[levels] if rule.palette == "looks" else levels > 0
    else:
        if looks_like_photograph(levels):
            raise InputError(f"{path}: looks like a photograph rather than a mask; is it swapped with its image?")
        check_transparency(picture, path, levels)
        where = levels > rule.mask_threshold
    where = where != (rule.mask_values == "inverted")
    return where if rule.void is None else where & (levels != rule.void)


def looks_like_photograph(levels: np.ndarray) -> bool:
    """Whether more than a quarter of a mask uint8 [H, W] is neither near black nor near white, in many levels."""
    counts = np.array(histogram(levels))
    middle = counts[NEAR + 1 : 255 - NEAR]
    return bool(middle.sum() > counts.sum() / 4 and np.count_nonzero(middle) > FEW_LEVELS)


def palette_of(image: Image.Image) -> np.ndarray:
    """Colours [256, 3] of a palette file; those that it lacks are black."""
    return np.array((image.getpalette("RGB") + [0] * 768)[:768]).reshape(256, 3)


def _colour_table(paths: Sequence[str], options: Options, data: Dataset) -> dict[tuple[int, int, int], int]:
    """{(r, g, b): type index} of the colour map, in whose order types are numbered unless a label map does; else that
    of the layout. Raises InputError where nobody names the colours, or one is none of the types."""
    if options.void is not None:
        raise InputError(f"`void` {options.void}: these masks are colours; name it as --colormap background=R,G,B")
    if not options.colormap and not data.colours:
        raise InputError(_say_colours(paths))
    if not options.colormap:
        return data.colours
    names = [name for name in options.colormap if name != "background"]
    data.label_map = dict(options.label_map or {name: index for index, name in enumerate(names, 1)})
    for name in names:
        if name not in data.label_map:
            raise InputError(f"--colormap: {unknown_name('type', name, data.label_map)}; correct it or the label map")
    return {tuple(colour): data.label_map.get(name, 0) for name, colour in options.colormap.items()}


def _say_colours(paths: Sequence[str]) -> str:
    """What to say of masks whose colours nobody names."""
    seen: dict[tuple[int, ...], str] = {}
    for path in sorted(set(paths), key=natural_key)[:LOOKED_AT]:
        (picture := open_image(path)).check_lossless(path)
        for colour in np.unique(np.asarray(picture.pixels.convert("RGB")).reshape(-1, 3), axis=0)[:32].tolist():
            seen.setdefault(tuple(colour), path)
    colours = sorted(colour for colour in seen if any(colour))
    shown = " ".join(f"NAME{k}=" + ",".join(map(str, one)) for k, one in enumerate(colours[:COLOURS_SHOWN], 1))
    text = "is an RGB mask, whose colours mean nothing by themselves; name them: scripts/prepare_data.py --colormap"
    more = " ..." * (len(colours) > COLOURS_SHOWN)
    return f"{seen[colours[0]] if colours else paths[0]}: {text} {shown}{more}"
