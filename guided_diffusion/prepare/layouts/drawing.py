"""From what a layout tells to pixels: an image and its index mask, whatever the mask was drawn with."""

import base64
import math
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations

import numpy as np
from PIL import Image, ImageDraw
from pycocotools import mask as coco_rle

from ...data.image_files import Picture, bits_of, check_transparency, histogram, open_image, orientations, to_rgb
from ...data.image_files import turned as turn
from ...data.prepared import Sample
from ...errors import InputError
from ...file_io import parse_json, read_bytes
from .labelme import as_utf8
from .mask_values import binary_values
from .model import BACKGROUND, ColourMask, DrawingRule, Shape, Shapes, TypeMasks

POINT_RADIUS = 5  # pixels, as labelme draws points


@dataclass(frozen=True)
class Labelled:
    """image: uint8 [H, W] of grey files, else [H, W, 3]. mask: uint8 [H, W], None for defect-free images.
    overlaps: pixels that two types claim, by (lower, higher) index. top: the highest level of an image of more than 8
    bits, else 0."""

    image: np.ndarray
    mask: np.ndarray | None
    overlaps: Counter[tuple[int, int]] = field(default_factory=Counter)
    top: int = 0

    def pair(self) -> tuple[np.ndarray, np.ndarray]:
        """Image uint8 [H, W, 3] and index mask uint8 [H, W], all 0 for defect-free images."""
        image = np.repeat(self.image[..., None], 3, axis=2) if self.image.ndim == 2 else self.image
        return image, np.zeros(image.shape[:2], np.uint8) if self.mask is None else self.mask


def read_labelled(sample: Sample, num_defect: int, rule: DrawingRule) -> Labelled:
    """A sample's image and index mask, values 0..num_defect, the way up that both were drawn, or that EXIF says. Raises
    InputError where a file cannot be read, or the two do not fit or look swapped."""
    drawn, mask, overlaps = sample.mask, None, Counter()
    image = open_image(sample.image, image_bytes)
    top = 0 if image.levels is None else int(image.levels.max())
    grey = image.pixels.mode == "L"
    pixels = np.array(image.pixels) if grey else to_rgb(image, sample.image, bits=rule.bits or bits_of(top))
    if drawn is None:
        pixels = turn(pixels, image.orientation)
    elif isinstance(drawn, Shapes):  # drawn on the image; all other masks are files, of a size of their own
        way, _ = orientations(image, sample.image, drawn.size, drawn.path, upright=drawn.upright)
        pixels = turn(pixels, way)
        fixed = pixels.shape[:2], rule.line_width, f"{drawn.path}: on {sample.image}"
        layers = ((shape.index, draw_shape(shape, *fixed)) for shape in drawn.shapes)
        mask, overlaps = _compose(layers, rule.priority, drawn.path)
    else:
        files = drawn.files if isinstance(drawn, TypeMasks) else [(0, drawn.path)]
        opened = [(open_image(path), index, path) for index, path in files]
        first = opened[0][0]
        if any(one.orientation != first.orientation for one, _, _ in opened):
            raise InputError(f"{drawn.path}: has another EXIF orientation than its image's other masks; save all alike")
        if isinstance(drawn, TypeMasks):
            layers = ((index, binary_values(one, path, rule)) for one, index, path in opened)
            mask, overlaps = _compose(layers, rule.priority, drawn.path)
        else:
            mask = colour_values(first, drawn) if isinstance(drawn, ColourMask) else drawn.values(first, num_defect)
        way, mask_way = orientations(image, sample.image, mask.shape, drawn.path, tag=first.orientation)
        pixels, mask = turn(pixels, way), turn(mask, mask_way)
    if isinstance(drawn, TypeMasks) and set(np.flatnonzero(histogram(pixels)) % 256) == {0, 255}:
        raise InputError(f"{sample.image}: is black and white only; is it swapped with its mask {drawn.path}?")
    return Labelled(pixels, mask, overlaps, top)


def decide_bits(tops: Mapping[str, int], given: int | None) -> int | None:
    """The bits of the levels in 16-bit images, `given` or told by the highest level of all, {path: its own, 0 for other
    images}; None where there are none. Raises InputError where it cannot be told."""
    tops = {path: top for path, top in tops.items() if top}
    if given or not tops:
        return given
    brightest, middle = (sorted(tops, key=tops.get)[place] for place in (-1, len(tops) // 2))
    bits, usual = bits_of(tops[brightest]), bits_of(tops[middle])
    if bits == 8:
        text = f"is 16-bit, but reaches {tops[brightest]} only; say scripts/prepare_data.py --bits 8, or save 8-bit"
        raise InputError(f"{brightest}: {text}")
    few = 4 * sum(bits_of(top) == bits for top in tops.values()) < len(tops)  # a hot pixel or two
    if few or usual <= bits - 4:
        text = f"has levels up to {tops[middle]}, as of {usual} bits, but {brightest} to {tops[brightest]}"
        raise InputError(f"{middle}: {text}; say which counts with scripts/prepare_data.py --bits")
    return bits


def image_bytes(path: str) -> bytes:
    """An image file's content, or the image that a labelme file (.json) embeds. Raises OSError or InputError."""
    data = read_bytes(path)
    if not path.lower().endswith(".json"):
        return data
    try:
        return base64.b64decode(parse_json(as_utf8(data, path)[0], path)["imageData"])
    except (ValueError, TypeError) as error:
        raise InputError(f"{path}: embeds no image and none lies beside it; add the image") from error


def colour_values(picture: Picture, mask: ColourMask) -> np.ndarray:
    """Index mask uint8 [H, W] of a file whose colours are types; black is background unless it names a type."""
    picture.check_lossless(mask.path)
    table = {(0, 0, 0): BACKGROUND} | dict(mask.colours)
    codes = np.asarray(picture.pixels.convert("RGB")).astype(np.int64) @ (1 << 16, 1 << 8, 1)
    check_transparency(picture, mask.path, codes)
    found, inverse, counts = np.unique(codes, return_inverse=True, return_counts=True)
    colours = [(code >> 16, code >> 8 & 255, code & 255) for code in found.tolist()]
    for colour, count in zip(colours, counts.tolist(), strict=True):
        if colour not in table:
            shown = ",".join(map(str, colour))
            raise InputError(f"{mask.path}: {count} pixels have the colour {shown}; name it in --colormap, or mend it")
    return np.array([table[colour] for colour in colours], np.uint8)[inverse].reshape(codes.shape)


def _compose(
    layers: Iterable[tuple[int, np.ndarray]], priority: Sequence[int], path: str
) -> tuple[np.ndarray, Counter[tuple[int, int]]]:
    """Index mask of layers (type index, bool [H, W]), of which the later and more important cover others; and how many
    pixels two types claim. Raises InputError naming `path` where layers differ in size."""
    rank = np.zeros(256, np.uint8)
    rank[list(priority)] = np.arange(len(priority), 0, -1)
    mask: np.ndarray | None = None
    claims: dict[int, np.ndarray] = {}  # bool [H, W] by type: where some layer draws it
    for index, layer in layers:
        mask = np.zeros(layer.shape, np.uint8) if mask is None else mask
        if layer.shape != mask.shape:
            raise InputError(f"{path}: is of another size than other masks of its image; draw them alike")
        if index == BACKGROUND:  # cuts a hole into all that is drawn so far
            mask[layer] = BACKGROUND
            claims = {other: claim & ~layer for other, claim in claims.items()}
        else:
            mask[layer & (rank[mask] <= rank[index])] = index
            claims[index] = claims.get(index, False) | layer
    return mask, +Counter({(a, b): np.count_nonzero(claims[a] & claims[b]) for a, b in combinations(sorted(claims), 2)})


def draw_shape(shape: Shape, size: tuple[int, int], line_width: int, path: str) -> np.ndarray:
    """bool [H, W] of a shape, `size` = (H, W). Raises InputError naming `path` where its RLE or bitmap is broken."""
    if shape.kind in ("rings", "shares"):
        scale = np.tile(size[::-1] if shape.kind == "shares" else (1, 1), max(map(len, shape.data)))
        rings = [(np.array(ring) * scale[: len(ring)]).tolist() for ring in shape.data]
        return coco_rle.decode(coco_rle.merge(coco_rle.frPyObjects(rings, *size))) > 0
    if shape.kind == "rle":
        return _decode_rle(shape.data, size, path)
    canvas = Image.new("1", (size[1], size[0]))
    draw, points = ImageDraw.Draw(canvas), list(shape.data)
    if shape.kind == "bitmap":
        x, y, text = points
        try:
            bitmap = open_image(path, lambda _: base64.b64decode(text)).pixels.convert("L")
        except InputError as error:
            raise InputError(f"{path}: holds a mask shape whose bitmap is broken; draw that shape again") from error
        canvas.paste(bitmap.point(lambda level: 255 * (level > 0)).convert("1"), (round(x), round(y)))
    elif shape.kind == "polygon":
        draw.polygon(points, outline=1, fill=1)
    elif shape.kind == "rectangle":  # two corners, or all four
        draw.rectangle((*np.min(points, axis=0), *np.max(points, axis=0)), outline=1, fill=1)
    elif shape.kind in ("circle", "point"):
        x, y = points[0]
        radius = POINT_RADIUS if shape.kind == "point" else math.dist(points[0], points[1])
        draw.ellipse((x - radius, y - radius, x + radius, y + radius), outline=1, fill=1)
    else:
        draw.line(points, fill=1, width=line_width)
    return np.array(canvas)


def _decode_rle(data: dict, size: tuple[int, int], path: str) -> np.ndarray:
    """COCO's run lengths, by columns, background first. Without a size (Severstal) the last ones are not counted."""
    (height, width), told, counts = size, data["size"], data["counts"]
    if told and tuple(told) != size:
        raise InputError(f"{path}: holds an RLE of size {list(told)} for an image of {list(size)}; correct it")
    counts = _decompress(counts) if isinstance(counts, str) else counts
    counts = counts if told else [*counts, height * width - sum(counts)]
    if not all(isinstance(count, int) and count >= 0 for count in counts) or sum(counts) != height * width:
        raise InputError(f"{path}: holds an RLE that does not add up to {height} x {width} pixels; export it again")
    return np.repeat(np.arange(len(counts)) % 2 == 1, counts).reshape(width, height).T


def _decompress(text: str) -> list[int]:
    """Run lengths from COCO's text: signed groups of five bits, the lowest first, from the third run on the difference
    to the last but one. None where it is broken (pycocotools would read and write beyond its memory)."""
    groups = re.findall("[P-o]{0,12}[0-O]", text)
    counts: list[int] = []
    for group in groups if sum(map(len, groups)) == len(text) else ():
        fives = [ord(character) - 48 for character in group]
        value = sum((five & 31) << 5 * place for place, five in enumerate(fives))
        value -= (fives[-1] & 16) << 5 * len(fives) - 4
        counts.append(value + (counts[-2] if len(counts) > 2 else 0))
    return counts
