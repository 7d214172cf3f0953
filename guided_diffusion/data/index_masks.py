"""From what a layout tells to pixels: an image and its index mask, whatever the mask was drawn with."""

from __future__ import annotations

import base64
import math
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import combinations

import numpy as np
from PIL import Image, ImageDraw

from ..errors import InputError
from ..prepare.layouts.mask_values import MAX_PLAUSIBLE_INDEX, grey_levels, is_grey_ramp, looks_like_photograph
from ..prepare.layouts.model import BACKGROUND, ColourMask, IndexMask, Sample, Shape, Shapes, TypeMasks
from .image_files import decode_image, open_image, to_rgb, turned_like

POINT_RADIUS = 5  # pixels, as labelme draws points


@dataclass(frozen=True)
class DrawingRule:
    """How masks are drawn.

    mask_threshold: defective is a grey level above it, 0..255. line_width: of labelme's lines, in pixels.
    priority: type indices, the most important first; where types overlap they win in this order, types not among them
    lose, and among equals the last drawn wins.
    """

    mask_threshold: int = 127
    line_width: int = 10
    priority: tuple[int, ...] = ()


@dataclass(frozen=True)
class Labelled:
    """image: uint8 [H, W] of grey files, else [H, W, 3]. mask: uint8 [H, W], None for defect-free images.
    overlaps: pixels that two types claim, by (lower, higher) index."""

    image: np.ndarray
    mask: np.ndarray | None
    overlaps: Counter[tuple[int, int]] = field(default_factory=Counter)


def read_pair(sample: Sample, num_defect: int, rule: DrawingRule | None = None) -> tuple[np.ndarray, np.ndarray]:
    """Image uint8 [H, W, 3] and index mask uint8 [H, W], all 0 for defect-free images. Raises as read_labelled."""
    found = read_labelled(sample, num_defect, rule)
    image, mask = found.image, found.mask
    image = np.repeat(image[..., None], 3, axis=2) if image.ndim == 2 else image
    return image, np.zeros(image.shape[:2], np.uint8) if mask is None else mask


def read_labelled(sample: Sample, num_defect: int, rule: DrawingRule | None = None) -> Labelled:
    """A sample's image and index mask, values 0..num_defect.

    Raises InputError where a file cannot be read, the mask is of another size than the image or not what it should be,
    or image and mask look swapped.
    """
    rule = rule or DrawingRule()
    image = open_image(sample.image)
    overlaps: Counter[tuple[int, int]] = Counter()
    mask = None
    if isinstance(sample.mask, IndexMask):
        mask = read_index_mask(sample.mask.path, num_defect)
    elif isinstance(sample.mask, ColourMask):
        mask = read_colour_mask(sample.mask)
    elif isinstance(sample.mask, TypeMasks):
        layers = [(i, path, partial(read_binary_mask, path, rule.mask_threshold)) for i, path in sample.mask.files]
        mask = _compose(layers, rule.priority, overlaps)
    elif isinstance(sample.mask, Shapes):
        drawn = sample.mask
        image = turned_like(image, sample.image, drawn.size, drawn.path, upright=drawn.upright)
        size = (image.height, image.width)
        path, width = sample.mask.path, rule.line_width
        layers = [(shape.index, path, partial(draw_shape, shape, size, width, path)) for shape in sample.mask.shapes]
        mask = _compose([layer for layer in layers if layer[0] >= 0], rule.priority, overlaps)
    if mask is not None:
        if not isinstance(sample.mask, Shapes):
            image = turned_like(image, sample.image, mask.shape, sample.mask.path, upright=False)
        if mask.max(initial=0) > num_defect:
            raise InputError(f"{sample.mask.path}: draws type {mask.max()}, but num_defect is {num_defect}")
    pixels = np.array(image) if image.mode == "L" else to_rgb(image, sample.image)
    if isinstance(sample.mask, TypeMasks) and _is_black_and_white(pixels):
        raise InputError(f"{sample.image}: is black and white only; is it swapped with its mask {sample.mask.path}?")
    return Labelled(pixels, mask, overlaps)


def read_index_mask(path: str, num_defect: int) -> np.ndarray:
    """Index mask uint8 [H, W], values 0..num_defect, of a grey, palette (its indices), 16-bit or 1-bit file.

    Raises InputError for any other kind of file and for values above num_defect.
    """
    image = open_image(path)
    if image.format == "JPEG":
        raise InputError(f"{path}: is a JPEG, whose compression alters the indices; save masks as PNG")
    if image.mode not in ("1", "L", "P", "I") and not image.mode.startswith("I;16"):
        raise InputError(
            f"{path}: has mode {image.mode}, but an index mask has one channel with values 0..{num_defect}: "
            "an RGB mask? Point to the index masks, or convert colours to indices first (scripts/prepare_data.py "
            "--colormap)"
        )
    mask = np.asarray(image)
    values = np.flatnonzero(np.bincount(mask.ravel())) if mask.dtype == np.uint8 else np.unique(mask).astype(np.int64)
    wrong = values[(values < 0) | (values > num_defect)]
    if len(wrong):
        guess = _looks_like(values)
        raise InputError(f"{path}: holds value {wrong[0]}, but num_defect is {num_defect}: {guess}")
    return mask.astype(np.uint8)


def _looks_like(values: np.ndarray) -> str:
    """A guess at what a mask with these values is, and the remedy."""
    if set(values.tolist()) <= {0, 255}:
        return "a 0/255 mask? scripts/prepare_data.py turns these into index masks"
    if len(values) <= 32 and values[0] >= 0 and values[-1] <= MAX_PLAUSIBLE_INDEX:
        return f"more types than said? Set num_defect to {values[-1]} or more, or correct the mask"
    return "a soft or coloured mask? An index mask holds one small number per type; threshold or convert it first"


def read_binary_mask(path: str, threshold: int) -> np.ndarray:
    """Where a mask file is defective, bool [H, W]: grey level above the threshold, palette index above 0, or white.

    Raises InputError where it is a photograph, or carries the mask in its transparency.
    """
    image = open_image(path)
    if image.mode in ("CMYK", "YCbCr", "LAB", "HSV", "F"):
        raise InputError(f"{path}: has mode {image.mode}, but a mask is black and white; save it as 8-bit grey")
    if image.mode == "P" and not is_grey_ramp(image):
        return np.asarray(image) > 0
    if looks_like_photograph(image):
        raise InputError(f"{path}: looks like a photograph rather than a mask; is it swapped with its image?")
    levels = grey_levels(image)
    if image.mode in ("RGBA", "LA") and levels.min() == levels.max():
        raise InputError(f"{path}: carries the mask in its transparency; save it in black and white")
    return levels > threshold


def read_colour_mask(mask: ColourMask) -> np.ndarray:
    """Index mask uint8 [H, W] of a file whose colours are types; black is background unless it names a type.

    Raises InputError for a colour that has no type.
    """
    image = open_image(mask.path)
    if image.format == "JPEG":
        raise InputError(f"{mask.path}: is a JPEG, whose compression alters the colours; save masks as PNG")
    pixels = np.asarray(image.convert("RGB")).astype(np.uint32)
    codes = (pixels[..., 0] << 16) | (pixels[..., 1] << 8) | pixels[..., 2]
    table = {0: 0} | {(r << 16) | (g << 8) | b: index for (r, g, b), index in mask.colours.items()}
    found, inverse, counts = np.unique(codes, return_inverse=True, return_counts=True)
    for code, count in zip(found.tolist(), counts.tolist(), strict=True):
        if code not in table:
            colour = ",".join(str(code >> shift & 255) for shift in (16, 8, 0))
            raise InputError(
                f"{mask.path}: {count} pixels have the colour {colour}, which --colormap does not name; name it, or "
                "draw without soft edges"
            )
    return np.array([table[code] for code in found.tolist()], np.uint8)[inverse].reshape(codes.shape)


def _compose(
    layers: Sequence[tuple[int, str, Callable[[], np.ndarray]]],
    priority: Sequence[int],
    overlaps: Counter[tuple[int, int]],
) -> np.ndarray:
    """Index mask of layers (type index, file, what draws it as bool [H, W]); the later and more important cover others.

    Notes in `overlaps` which pixels two types claim. Raises InputError where layers differ in size.
    """
    rank = np.zeros(256, np.uint8)
    for place, index in enumerate(priority):
        rank[index] = len(priority) - place
    rank[BACKGROUND] = 0
    mask: np.ndarray | None = None
    claims: dict[int, np.ndarray] = {}  # bool [H, W] by type: where some layer draws it
    for index, path, draw in layers:
        layer = draw()
        if mask is None:
            mask = np.zeros(layer.shape, np.uint8)
        elif layer.shape != mask.shape:
            raise InputError(f"{path}: is of another size than the other masks of its image; draw them alike")
        if index == BACKGROUND:  # cuts a hole into all that is drawn so far
            mask[layer] = BACKGROUND
            claims = {other: claim & ~layer for other, claim in claims.items()}
        else:
            mask[layer & (rank[mask] <= rank[index])] = index
            claims[index] = claims[index] | layer if index in claims else layer
    for pair in combinations(sorted(claims), 2):
        if count := np.count_nonzero(claims[pair[0]] & claims[pair[1]]):
            overlaps[pair] = count
    return mask


def draw_shape(shape: Shape, size: tuple[int, int], line_width: int, path: str) -> np.ndarray:
    """bool [H, W] of a shape, `size` = (H, W). Raises InputError naming `path` where its RLE or bitmap is broken."""
    if shape.kind == "rings":
        return _draw_rings(shape.data, size)
    if shape.kind == "rle":
        return _decode_rle(shape.data, size, path)
    canvas = Image.new("1", (size[1], size[0]))
    draw = ImageDraw.Draw(canvas)
    if shape.kind == "bitmap":
        x, y, text = shape.data
        try:
            bitmap = decode_image(base64.b64decode(text), path).convert("L")
        except ValueError as error:  # of base64, or an InputError
            raise InputError(f"{path}: holds a mask shape whose bitmap is broken; draw that shape again") from error
        canvas.paste(bitmap.point(lambda level: 255 * (level > 0)).convert("1"), (round(x), round(y)))
        return np.array(canvas)
    points = list(shape.data)
    if shape.kind == "polygon":
        draw.polygon(points, outline=1, fill=1)
    elif shape.kind == "rectangle":
        xs, ys = zip(*points, strict=True)  # two corners, or all four
        draw.rectangle((min(xs), min(ys), max(xs), max(ys)), outline=1, fill=1)
    elif shape.kind in ("circle", "point"):
        x, y = points[0]
        radius = POINT_RADIUS if shape.kind == "point" else math.dist(points[0], points[1])
        draw.ellipse((x - radius, y - radius, x + radius, y + radius), outline=1, fill=1)
    else:
        draw.line(points, fill=1, width=line_width)
    return np.array(canvas)


def _draw_rings(rings: Sequence[Sequence[float]], size: tuple[int, int]) -> np.ndarray:
    """COCO's polygons, united: as pycocotools draws them."""
    try:
        from pycocotools import mask as tool
    except ImportError as error:
        raise InputError("COCO's polygons need the package pycocotools: pip install pycocotools") from error
    united = tool.merge(tool.frPyObjects([list(ring) for ring in rings], *size))
    return _from_runs(_decompress(united["counts"].decode()), size)


def _decode_rle(data: dict, size: tuple[int, int], path: str) -> np.ndarray:
    """COCO's run lengths: counts by columns, background first, as a list or compressed to text."""
    if tuple(data["size"]) != size:
        raise InputError(f"{path}: holds an RLE of size {list(data['size'])} for an image of {list(size)}; correct it")
    counts = data["counts"]
    if isinstance(counts, str):
        counts = _decompress(counts)
    if (
        not counts
        or not all(isinstance(count, int) and count >= 0 for count in counts)
        or sum(counts) != size[0] * size[1]
    ):
        raise InputError(f"{path}: holds an RLE that does not add up to {size[0]} x {size[1]} pixels; export it again")
    return _from_runs(counts, size)


def _from_runs(counts: Sequence[int], size: tuple[int, int]) -> np.ndarray:
    """bool [H, W] of runs that add up to it, by columns, background first."""
    return np.repeat(np.arange(len(counts)) % 2 == 1, counts).reshape(size[1], size[0]).T


def _decompress(text: str) -> list[int] | None:
    """Run lengths from COCO's text; None where it is broken (pycocotools would read and write beyond its memory).

    Each is a signed number in groups of five bits, the lowest first, on which a sixth says that more follow; from the
    third on it is what it exceeds the last but one by.
    """
    counts: list[int] = []
    value = shift = 0
    for character in text:
        bits = ord(character) - 48
        if not 0 <= bits < 64 or shift > 60:
            return None
        value |= (bits & 31) << shift
        shift += 5
        if bits & 32:
            continue
        if bits & 16:
            value -= 1 << shift
        counts.append(value + (counts[-2] if len(counts) > 2 else 0))
        value = shift = 0
    return None if shift else counts


def _is_black_and_white(image: np.ndarray) -> bool:
    """Whether an image holds 0 and 255 and nothing else: a mask."""
    return bool(image.min() == 0 and image.max() == 255 and ((image == 0) | (image == 255)).all())


def present_types(mask: np.ndarray, class_names: Sequence[str]) -> dict[str, int]:
    """Pixel count of every type that occurs in an index mask."""
    counts = np.bincount(mask.ravel(), minlength=len(class_names) + 1)
    return {name: int(counts[k]) for k, name in enumerate(class_names, start=1) if counts[k]}
