"""What a reader of a layout finds: samples, each an image file and what tells its index mask. No pixels are read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from ...data.files import natural_key
from ...data.prepared import IndexMask, Sample, check_problems
from ...errors import unknown_name

COORDINATE_LIMIT = 1e5  # pixels; what lies further out is damage, and would take for ever to draw
BACKGROUND = 0
IGNORED = -1  # a shape that is drawn nowhere


@dataclass(frozen=True)
class TypeMasks:
    """Files that each say where one type is (bright, or palette index above 0): (type index, path), drawn in order."""

    files: tuple[tuple[int, str], ...]

    @property
    def path(self) -> str:
        return self.files[0][1]


@dataclass(frozen=True)
class ColourMask:
    """A file whose colours are the types: {(r, g, b): type index}; background is 0."""

    path: str
    colours: Mapping[tuple[int, int, int], int]


@dataclass(frozen=True)
class Shape:
    """One annotation; `data` by kind, x and y in pixels from the upper left corner: for labelme's kinds its points,
    ((x, y), ...); bitmap: (x, y, base64 PNG); rings: COCO's polygons, ((x, y, x, y, ...), ...); rle: COCO's {"size":
    (h, w), "counts": list or text}."""

    index: int
    kind: str
    data: Any


@dataclass(frozen=True)
class Shapes:
    """Annotations of one image in the JSON file `path`, drawn in order.

    size: (H, W) of that image, where known. upright: they were drawn on the image as EXIF says that it is to be shown.
    """

    path: str
    shapes: tuple[Shape, ...]
    size: tuple[int, int] | None
    upright: bool = False


Mask = IndexMask | TypeMasks | ColourMask | Shapes


@dataclass(frozen=True)
class Options:
    """What a user says about a layout, where it does not tell by itself.

    label_map: {type name: index from 1}. colormap: {type name: (r, g, b)}. mask_values: what the values of mask files
    are, "index", "binary", "colour" or "auto". type_regex: its first group, searched in a file's stem, is the type.
    """

    label_map: Mapping[str, int] | None = None
    colormap: Mapping[str, tuple[int, int, int]] | None = None
    mask_values: str = "auto"
    type_regex: str | None = None


@dataclass
class Dataset:
    """A data set as found on disk.

    samples: those with a mask; good: defect-free ones. label_map: None where nobody names the types. problems: lines
    that each name a file, what is wrong and what to do; notes: what was left out.
    """

    root: str
    format: str
    samples: list[Sample] = field(default_factory=list)
    good: list[Sample] = field(default_factory=list)
    label_map: dict[str, int] | None = None
    problems: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def check(self) -> None:
        """Raise InputError with the first problem, if there is one."""
        check_problems(self.problems)

    def number_types(self, types: Mapping[str, str], given: Mapping[str, int] | None) -> dict[str, int]:
        """Set and return the label map for `types`, {name: where it was found}: `given`, or 1, 2, ... in natural order.

        A type that `given` lacks is noted as a problem of where it was found.
        """
        names = sorted(types, key=natural_key)
        self.label_map = dict(given or {name: k for k, name in enumerate(names, 1)})
        for name in (name for name in names if name not in self.label_map):
            problem = unknown_name("type", name, self.label_map)
            self.problems.append(f"{types[name]}: {problem}; correct it or the label map")
        return self.label_map

    def add_typed(
        self,
        found: Sequence[tuple[Sample, list[tuple[str, str]]]],
        given: Mapping[str, int] | None,
        types: Mapping[str, str] | None = None,
    ) -> None:
        """Add samples with their binary masks [(type name, path), ...], drawn in that order. given, types: as of
        number_types; without `types` those of the masks."""
        label_map = self.number_types(types or {name: path for _, masks in found for name, path in masks}, given)
        for sample, masks in found:
            if files := tuple((label_map[name], path) for name, path in masks if name in label_map):
                self.samples.append(replace(sample, mask=TypeMasks(files)))


def is_coordinate(value: Any) -> bool:
    """Whether a value from a JSON file can be a pixel position: a finite number, not absurdly far from the image."""
    return isinstance(value, (int, float)) and abs(value) <= COORDINATE_LIMIT
