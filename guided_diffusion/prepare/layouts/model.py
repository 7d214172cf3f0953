"""What a reader of a layout finds: samples, each an image file and what tells its index mask. No pixels are read.

Readers put the names of the types where a mask has their indices; `number_types` puts in these, for all layouts.
"""

from collections.abc import Callable, Container, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from ... import GOOD
from ...data.files import is_good, natural_key, part_lists, read_lines, stem_of
from ...data.prepared import TRAIN, IndexMask, Sample
from ...errors import unknown_name

COORDINATE_LIMIT = 1e5  # pixels; what lies further out is damage, and would take for ever to draw
BACKGROUND = 0
MASK_VALUES = ("auto", "index", "binary", "inverted", "colour")  # inverted: what is dark is defective
BOXES = ("refuse", "fill")


@dataclass(frozen=True)
class TypeMasks:
    """Files that each say where one type is (bright, or palette index above 0): (type index, path), drawn in order."""

    files: tuple[tuple[int | str, str], ...]

    @property
    def path(self) -> str:
        return self.files[0][1]


@dataclass(frozen=True)
class ColourMask:
    """A file whose colours are the types: {(r, g, b): type index}; background is 0."""

    path: str
    colours: Mapping[tuple[int, int, int], int | str]


@dataclass(frozen=True)
class Shape:
    """One annotation; `data` by kind, in pixels from the upper left corner: for labelme's kinds ((x, y), ...); bitmap:
    (x, y, base64 PNG); rings: COCO's polygons, ((x, y, x, y, ...), ...); shares: the same in shares of width and
    height; rle: COCO's {"size": (h, w) or (), "counts": list or text}."""

    index: int | str
    kind: str
    data: Any


@dataclass(frozen=True)
class Shapes:
    """Annotations of one image in the file `path`, drawn in order. size: (H, W) of that image, where known. upright:
    they were drawn on the image as EXIF says that it is to be shown."""

    path: str
    shapes: tuple[Shape, ...]
    size: tuple[int, int] | None
    upright: bool = False


Pairs = Iterable[tuple[str, str]]  # of the paths of an image and its mask
Mask = IndexMask | TypeMasks | ColourMask | Shapes


@dataclass(frozen=True)
class DrawingRule:
    """How files become index masks and 8-bit images, as dataset.json records it: what the user said, and what was
    decided from all files of the set.

    mask_threshold: defective is a grey level above it. line_width: of labelme's lines. priority: type indices, the most
    important first, wherever types overlap; among equals the last drawn wins. palette: whether "index" or "looks" say
    what is defective. void: a value that is background. bits: of the levels in 16-bit images; None: each image's own.
    """

    mask_threshold: int = 127
    line_width: int = 10
    priority: tuple[int, ...] = ()
    mask_values: str = "binary"
    palette: str = "index"
    void: int | None = None
    bits: int | None = None

    def told(self) -> dict[str, Any]:
        """What dataset.json tells of it, but for what goes without saying: sets of older versions do not say it."""
        usual = {"mask_values": "binary index colour".split(), "palette": ["index"], "void": [None], "bits": [None, 16]}
        return {name: value for name, value in vars(self).items() if value not in usual.get(name, ())}


@dataclass(frozen=True)
class Options:
    """What a user says about a layout, where it does not tell by itself.

    label_map: {type name: index from 1}. colormap: {type name: (r, g, b)}. type_regex: its first group, searched in a
    file's stem, is the type. boxes: "refuse" those that have no outline, or "fill" them. rename: {type as found, "*"
    for all: new name}. mask_threshold, void: see DrawingRule; None: decided from the files."""

    label_map: Mapping[str, int] | None = None
    colormap: Mapping[str, tuple[int, int, int]] | None = None
    mask_values: str = "auto"
    type_regex: str | None = None
    boxes: str = BOXES[0]
    rename: Mapping[str, str] | None = None
    mask_threshold: int | None = None
    void: int | None = None


def _listed(line: str, known: Container[str]) -> str:
    """The stem of the image that a line names: as it stands (x_.5mm), without suffix, or before words (x.png 1)."""
    bare = stem_of(line)
    return next((stem for stem in (line, bare, stem_of(line.split()[0])) if stem in known), bare)


@dataclass
class Dataset:
    """A data set as found on disk.

    good: defect-free samples. types: their names, in the order of their indices, and where each was found; None: those
    of the masks, in natural order. label_map: None where nobody names the types. open_values: the values of mask files
    may be types, the layout does not tell. black_is_good: an empty mask means a defect-free image. colours: the types
    of coloured masks, unless the user says. unlabelled: images that nobody has labelled, left out; unread: others, in
    folders that are not read. problems: lines on files; doubts: lines on names that are hardly those of types; notes:
    what else was left out, or decided."""

    root: str
    format: str
    samples: list[Sample] = field(default_factory=list)
    good: list[Sample] = field(default_factory=list)
    types: dict[str, str] | None = None
    label_map: dict[str, int] | None = None
    rule: DrawingRule = field(default_factory=DrawingRule)
    open_values: bool = False
    black_is_good: bool = False
    colours: Mapping[tuple[int, int, int], int | str] | None = None
    unlabelled: list[str] = field(default_factory=list)
    unread: list[str] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    doubts: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def add(self, name: str | None, pairs: Pairs, folder: str | None = None, part: str | None = None) -> None:
        """Samples of one type, from pairs of an image and its mask file."""
        self.samples += [Sample(image, TypeMasks(((name, mask),)), folder, part=part) for image, mask in pairs]

    def take_lists(self, folder: str, *, sure: bool = False) -> None:
        """Set the images' parts by the lists in `folder` that are called like one.

        sure: they list these images and no others. Else they may be of a larger set: what is not there is a note, and
        lists of other images, or of the part train alone, are passed over."""
        stems = [stem_of(one.image) for one in self.samples + self.good] + [*map(stem_of, self.unlabelled)]
        known = set(stems) if sure or len(set(stems)) == len(stems) else set()
        parts: dict[str, str] = {}
        missing, twice = [], []
        for path, part in part_lists(folder).items():
            names = [_listed(line, known) for line in read_lines(path) if line]
            for name in names if sure or not known.isdisjoint(names) else ():
                if name not in known:
                    missing.append(f"{path}: lists {name}, which is not there")
                elif parts.setdefault(name, part) != part:
                    twice.append(f"{path}: lists {name}, as the list of {parts[name]} does; list it once")
        if sure:
            self.problems += [f"{one}; add it or correct the list" for one in missing]
        if not parts or (not sure and set(parts.values()) == {TRAIN}):
            return
        self.problems += twice
        if missing and not sure:
            self.notes.append(f"{missing[0]} ({len(missing)} in all): passed over")
        for own in (self.samples, self.good):
            own[:] = [replace(one, part=parts.get(stem_of(one.image), one.part)) for one in own]
        if left := sum(one.part is None for one in self.samples):
            self.notes.append(f"{left} images with a mask stand in no list of {folder}: taken for training")

    def judge_boxes(self, boxed: Sequence[str], where: str, boxes: str) -> None:
        """Note that annotations in `where`, each named in `boxed`, have no outline; boxes: what Options says."""
        if boxed and boxes == "fill":
            self.notes.append(f"{len(boxed)} annotations in {where} are boxes without outline: filled")
        elif boxed:
            text = f"has a box but no outline, as have {len(boxed)} in all; draw it, or say --boxes fill"
            self.problems.append(f"{boxed[0]} {text}")

    def number_types(self, given: Mapping[str, int] | None) -> None:
        """Set the label map, `given` or by the types found, and put indices in place of names into the masks. An
        annotated image that shows no type is defect-free."""
        if self.types is None:
            found: dict[str, str] = {}
            for one in self.samples:
                mapped(one.mask, lambda name, path=one.mask.path: found.setdefault(name, path))
            self.types = {name: found[name] for name in sorted(found, key=natural_key)}
        numbers = dict(given or self.label_map or {name: index for index, name in enumerate(self.types, 1)})
        self.label_map = numbers or None
        for name, where in self.types.items():
            if name not in numbers:
                problem = unknown_name("type", name, numbers)
                self.problems.append(f"{where}: {problem}; correct it, --rename it, or mend the label map")
        samples, self.samples = self.samples, []
        for sample in samples:
            mask = mapped(sample.mask, numbers.get)
            if isinstance(mask, Shapes) and not any(shape.index for shape in mask.shapes):
                self.good.append(replace(sample, mask=None))
            elif not isinstance(mask, TypeMasks) or mask.files:
                self.samples.append(replace(sample, mask=mask))
        for k, one in enumerate(self.good):  # into a folder that says so: elsewhere an image must have a mask
            if not ("/" in one.name and is_good(one.name.partition("/")[0])):
                self.good[k] = replace(one, folder=GOOD, name=f"{GOOD}/{one.name.replace('/', '_')}")


def mapped(mask: Mask, new: Callable[[str], int | str | None]) -> Mask:
    """The mask with new(name) in place of each type's name, and without what that is None of."""

    def told(index: int | str) -> int | str | None:
        return new(index) if isinstance(index, str) else index

    if isinstance(mask, TypeMasks):
        files = ((told(name), path) for name, path in mask.files)
        return TypeMasks(tuple((name, path) for name, path in files if name is not None))
    if isinstance(mask, Shapes):
        shapes = (replace(one, index=told(one.index)) for one in mask.shapes)
        return replace(mask, shapes=tuple(one for one in shapes if one.index is not None))
    if isinstance(mask, ColourMask):
        return replace(mask, colours={colour: told(one) or BACKGROUND for colour, one in mask.colours.items()})
    return mask


def size_told(content: Mapping[str, Any], height: str, width: str) -> tuple[int, int] | None:
    """(H, W) that a JSON object tells under these keys, if both are whole numbers, as 64, 64.0 or "64"."""
    try:
        size = float(content.get(height)), float(content.get(width))
        return (int(size[0]), int(size[1])) if all(side.is_integer() for side in size) else None
    except (TypeError, ValueError, OverflowError):
        return None


def is_coordinate(value: Any) -> bool:
    """Whether a value from a JSON file can be a pixel position: a finite number, not absurdly far from the image."""
    return isinstance(value, (int, float)) and abs(value) <= COORDINATE_LIMIT
