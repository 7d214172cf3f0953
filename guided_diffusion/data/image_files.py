"""One image or index mask file (one channel, 0 background, k the k-th type): decoded with every check."""

import io
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import product

import cv2
import numpy as np
from PIL import Image, UnidentifiedImageError
from scipy import ndimage

from ..config import DataConfig
from ..errors import InputError, reason
from ..file_io import read_bytes

Image.MAX_IMAGE_PIXELS = None  # Pillow's own limit; MAX_PIXELS is ours
MAX_PIXELS = 2**28  # 0.8 GB decoded
FORMATS = ("PNG", "JPEG", "TIFF", "BMP", "DIB", "WEBP", "GIF", "PPM", "JPEG2000")  # none runs a program
EXIF_ORIENTATION, NEW_SUBFILE, PHOTOMETRIC = 0x0112, 254, 262  # TIFF's tags
UNTURN = dict(enumerate((0, 3, 1, 5, 2, 6, 4), start=2))  # by orientation: Pillow's Transpose that undoes it
DEEP = cv2.IMREAD_ANYDEPTH | cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION
MAX_PLAUSIBLE_INDEX = 64
FEW_LEVELS = 16  # more levels of a mask than that are soft edges, not types
DEPTHS = (8, 10, 12, 14, 16)


@dataclass(frozen=True)
class Picture:
    """A decoded image file, its pixels in the order of the file, in Pillow's mode. levels: int [H, W] or [H, W, 3] of a
    file with more than 8 bits a channel, else None. orientation: 1 to 8, how EXIF or TIFF asks to turn the pixels.
    lossy: its compression alters, or may have altered, values."""

    pixels: Image.Image
    format: str
    orientation: int = 1
    levels: np.ndarray | None = None
    lossy: bool = False

    @property
    def size(self) -> tuple[int, int]:
        """(height, width), not turned."""
        return self.pixels.height, self.pixels.width

    def check_lossless(self, path: str) -> None:
        """Raise InputError for a mask file that does not hold what was drawn."""
        if self.lossy:
            text = f"is a {self.format}, whose compression alters indices and colours; save masks as PNG"
            raise InputError(f"{path}: {text}")


def open_image(path: str, read: Callable[[str], bytes] = read_bytes) -> Picture:
    """The image file at `path`, whose content `read` gives; every image that this program reads is opened here. Raises
    InputError where that cannot be read or decoded, holds several pages, or more than MAX_PIXELS."""
    try:
        content = read(path)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about odd metadata; what matters is checked here
            Image.open(io.BytesIO(content), formats=FORMATS).verify()  # PNG's checksums, which load() leaves out
            return _decode(path, content, Image.open(io.BytesIO(content), formats=FORMATS))
    except InputError:
        raise
    except FileNotFoundError as error:
        raise InputError(f"{path}: does not exist; put it back, or remove what names it") from error
    except UnidentifiedImageError as error:
        raise InputError(f"{path}: is not an image that can be read; save it as PNG or JPEG, or remove it") from error
    except Exception as error:  # what a decoder raises on damaged data is not limited to OSError
        raise InputError(f"{path}: unreadable or truncated image ({reason(error)}); replace or remove it") from error


def _decode(path: str, content: bytes, image: Image.Image) -> Picture:
    if (pixels := image.width * image.height) > MAX_PIXELS:
        raise InputError(f"{path}: has {pixels / 1e6:.0f} million pixels, above {MAX_PIXELS / 1e6:.0f}; cut it up")
    if (pages := _pages(image)) > 1:
        raise InputError(f"{path}: holds {pages} pages or frames, an image has one; save the one that counts")
    format, arguments = image.format, image.tile[0].args if image.tile else None
    coding = arguments[0] if isinstance(arguments, tuple) and arguments else arguments
    deep_colour = format in ("PNG", "TIFF") and ";16" in str(coding) and not image.mode.startswith("I")
    lossy = format in ("JPEG", "MPO", "JPEG2000") or "jpeg" in str(image.info.get("compression"))
    lossy |= format == "WEBP" and b"VP8L" not in content
    tag = image.getexif().get(EXIF_ORIENTATION) if format == "TIFF" else None  # gone once it is loaded
    falling = format == "TIFF" and image.tag_v2.get(PHOTOMETRIC) == 0 and image.mode not in ("1", "L", "P")
    image.load()
    tag = tag or image.getexif().get(EXIF_ORIENTATION)
    orientation = tag if tag in range(2, 9) else 1
    odd = deep_colour and (image.mode == "CMYK" or (format == "TIFF" and orientation > 1))  # OpenCV turns some of them
    if odd or falling or image.mode in ("F", "LAB"):
        what = "16-bit " * deep_colour + image.mode + ", white at 0" * falling
        raise InputError(f"{path}: has pixels of an unusual kind ({what}); save it upright, as 8-bit grey or RGB")
    if format == "BMP" and image.mode in ("1", "L") and content[28] > 1 and (image.mode == "1" or content[28] < 8):
        image = Image.fromarray(cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_GRAYSCALE))  # Pillow is wrong
    if format == "TIFF" and orientation > 1:  # Pillow has turned it
        image = image.transpose(Image.Transpose(UNTURN[orientation]))
    levels = None
    if image.mode == "I" or image.mode.startswith("I;16"):
        levels = np.asarray(image).astype(np.int32)
    elif deep_colour:  # of which Pillow keeps 8 bits
        levels = cv2.imdecode(np.frombuffer(content, np.uint8), DEEP)[..., ::-1].astype(np.int32)
    return Picture(image, format, orientation, levels, lossy)


def _pages(image: Image.Image) -> int:
    """How many pages or frames a file has; smaller versions, masks and a camera's previews do not count."""
    count = 1 if image.format in ("MPO", "JPEG") else getattr(image, "n_frames", 1)
    if image.format == "TIFF" and count > 1:
        kinds = []
        for page in (*range(count), 0):
            image.seek(page)
            kinds.append(image.tag_v2.get(NEW_SUBFILE, 0) & 5)
        return count if kinds[0] else kinds[:-1].count(0)
    return count


def turned(array: np.ndarray, orientation: int) -> np.ndarray:
    """An array [H, W, ...] turned and mirrored as the EXIF orientation says."""
    array = array.swapaxes(0, 1) if orientation > 4 else array
    array = array[::-1] if orientation in (3, 4, 7, 8) else array
    return np.ascontiguousarray(array[:, ::-1] if orientation in (2, 3, 6, 7) else array)


def histogram(array: np.ndarray) -> list[int]:
    """Pixels of each level of uint8 [H, W], or of each channel of [H, W, 3]; np.bincount takes 20 times as long."""
    return Image.fromarray(array.astype(np.uint8, copy=False)).histogram()


def border_of(array: np.ndarray) -> np.ndarray:
    """The outermost pixels of an array [H, W]."""
    return np.concatenate([array[0], array[-1], array[1:-1, 0], array[1:-1, -1]])


def bits_of(top: int) -> int:
    """The bits of a camera whose brightest level is `top`: 8, 10, 12, 14 or 16."""
    return next((bits for bits in DEPTHS if top < 2**bits), DEPTHS[-1])


def to_rgb(picture: Picture, path: str, *, bits: int | None = None) -> np.ndarray:
    """uint8 [H, W, 3] of an image file of any usual mode, not turned; transparency is dropped. bits: of the levels in
    16-bit files, of which 2**bits - 1, and more, is white. Raises InputError where these are needed, but not given."""
    if (values := picture.levels) is None:
        return np.array(picture.pixels.convert("RGB"))
    low, top = int(values.min()), int(values.max())
    if low < 0 or top > 65535:
        raise InputError(f"{path}: holds grey levels outside 0..65535; save it as 8-bit")
    if bits is None and 0 < top < 2**14:  # it would come out in a quarter of the range or less
        text = f"its 16-bit levels reach {top} only: a camera of {bits_of(top)} bits?"
        raise InputError(f"{path}: {text} Prepare all with scripts/prepare_data.py, or save them as 8-bit")
    grey = np.round(values.astype(np.float32) * (255 / (2 ** (bits or 16) - 1))).clip(0, 255).astype(np.uint8)
    return grey if grey.ndim == 3 else grey[..., None].repeat(3, axis=2)


def read_image(path: str, size: Sequence[int] = (), read: Callable[[str], bytes] = read_bytes) -> np.ndarray:
    """uint8 [H, W, 3] of an image file, turned as EXIF says, at `size` (H, W) if given. read: see open_image."""
    picture = open_image(path, read)
    image = turned(to_rgb(picture, path), picture.orientation)
    return resize_image(image, size) if size else image


def resize_image(image: np.ndarray, size: Sequence[int]) -> np.ndarray:
    """uint8 [H, W] or [H, W, 3] stretched to `size` = (height, width), antialiased."""
    return np.array(Image.fromarray(image).resize((size[1], size[0]), Image.Resampling.BILINEAR))


def number_regions(where: np.ndarray) -> tuple[np.ndarray, int]:
    """The 8-connected regions of a boolean mask [H, W]: int32 [H, W], 0 where it is False, else 1..N; and N."""
    return ndimage.label(where, np.ones((3, 3)))


def resize_mask(mask: np.ndarray, size: Sequence[int], least: float = 0.5) -> np.ndarray:
    """Index mask uint8 [H, W] stretched to `size` = (height, width), type by type as resize_regions does."""
    near = _nearest(mask, size)
    small = near.copy()
    if any(side > to for side, to in zip(mask.shape, size, strict=True)):
        for kind in np.unique(mask[mask > 0]):
            own = resize_regions(number_regions(mask == kind)[0], size, least) > 0
            small[own & (near != kind)] = kind  # over other types, which would tear it
    return small


def resize_regions(numbered: np.ndarray, size: Sequence[int], least: float = 0.5) -> np.ndarray:
    """Numbers of regions int32 [H, W], see number_regions, stretched to `size` = (height, width): the nearest pixel's;
    a region of the area of `least` new pixels or more that this would tear or lose, such as a hairline, also takes
    those that it covers by half, or by less to stay in one piece."""
    numbered = _nearest(numbered, np.maximum(numbered.shape, size))  # along the axis that grows, if one does
    small, area = _nearest(numbered, size), numbered.size / np.prod(size)
    pixels = np.bincount(numbered.ravel())[1:]
    found = zip(pixels, ndimage.find_objects(numbered), ndimage.find_objects(small, len(pixels)), strict=True)
    for number, (count, box, kept) in enumerate(found, start=1):
        if count < least * area or (kept and number_regions(small[kept] == number)[1] == 1):
            continue
        rows, columns = (  # new ones that its pixels' middles lie in, and where each begins
            np.unique((2 * np.arange(side.start, side.stop) + 1) * to // (2 * whole), return_index=True)
            for side, to, whole in zip(box, size, numbered.shape, strict=True)
        )
        covered = np.add.reduceat(numbered[box] == number, rows[1], axis=0, dtype=np.int64)
        covered = np.add.reduceat(covered, columns[1], axis=1)
        part = small[rows[0][0] : rows[0][-1] + 1, columns[0][0] : columns[0][-1] + 1]
        part[unbroken(np.where(part == number, 1, covered / area))] = number
    return small


def unbroken(shares: np.ndarray, count: int = 1) -> np.ndarray:
    """bool [H, W] of `count` regions that were resampled and cover these shares of each pixel, float [H, W]: the pixels
    covered by half; by less, or at all, where that tears or loses regions."""
    least_off = np.inf
    for least in (0.5, 0.375, 0.25, 1e-6):  # a line of one pixel covers a quarter of pixels all along
        own = shares >= least
        off = abs(number_regions(own)[1] - count)
        if off < least_off:
            best, least_off = own, off
        if not off:
            break
    return best


def resize_shape(where: np.ndarray, size: Sequence[int]) -> np.ndarray:
    """A shape bool [H, W] at `size` = (height, width), its outline smooth, its regions unbroken."""
    way = cv2.INTER_AREA if size[0] < len(where) or size[1] < where.shape[1] else cv2.INTER_LINEAR
    shares = cv2.resize(where.astype(np.float32), tuple(size[::-1]), interpolation=way)
    return unbroken(shares, number_regions(where)[1])


def _nearest(array: np.ndarray, size: Sequence[int]) -> np.ndarray:
    """uint8 or int32 [H, W] stretched to `size`."""
    return np.array(Image.fromarray(array).resize((size[1], size[0]), Image.Resampling.NEAREST))


def read_index_mask(path: str, num_defect: int) -> np.ndarray:
    """index_values of a file without an image, the way up that EXIF says."""
    picture = open_image(path)
    return turned(index_values(picture, path, num_defect), picture.orientation)


def index_values(picture: Picture, path: str, num_defect: int, void: int | None = None) -> np.ndarray:
    """Index mask uint8 [H, W], values 0..num_defect, of a grey, palette (its indices), 16- or 1-bit file; not turned.
    void: a value that becomes background. Raises InputError for any other kind of file and for other values."""
    picture.check_lossless(path)
    mask = np.asarray(picture.pixels) if picture.levels is None else _numbers(picture.levels)
    if picture.levels is None and picture.pixels.mode in ("RGB", "RGBA", "LA") and not _hides(picture):
        colours = np.asarray(picture.pixels.convert("RGB"))  # grey, as some libraries write it
        mask = colours[..., 0] if (colours == colours[..., :1]).all() else colours
    if mask.ndim > 2:
        check_transparency(picture, path, mask_levels(picture, path))
        remedy = "an RGB mask? Make its colours indices with scripts/prepare_data.py --colormap"
        raise InputError(f"{path}: has mode {picture.pixels.mode}, but an index mask has one channel: {remedy}")
    mask = mask if void is None else np.where(mask == void, 0, mask)
    values = np.flatnonzero(histogram(mask)) if mask.dtype == np.uint8 else np.unique(mask).astype(np.int64)
    wrong = values[(values < 0) | (values > num_defect)]
    if len(wrong):
        if wrong.tolist() == [255]:
            guess = "a 0/255 mask, or void? scripts/prepare_data.py has --mask_values binary and --void 255"
        elif len(values) <= 32 and values[0] >= 0 and values[-1] <= MAX_PLAUSIBLE_INDEX:
            guess = f"more types than said? Set num_defect to {values[-1]} or more, or correct the mask"
        else:
            guess = "a soft or coloured mask? An index mask holds one small number per type; threshold or convert it"
        raise InputError(f"{path}: holds value {wrong[0]}, but num_defect is {num_defect}: {guess}")
    return mask.astype(np.uint8)


def mask_levels(picture: Picture, path: str) -> np.ndarray:
    """uint8 [H, W] of a mask file: its palette indices, or its brightest channel, of 16-bit levels above 255 scaled.
    Raises InputError where these hold small numbers beside large ones, which would vanish."""
    image = picture.pixels
    if has_palette(picture):
        return np.asarray(image)
    if picture.levels is not None:
        values = _numbers(picture.levels if picture.levels.ndim == 2 else picture.levels.max(axis=2))
        found = np.unique(values[values > 0])
        if values.max() > 255 and len(found) <= FEW_LEVELS and found[0] <= MAX_PLAUSIBLE_INDEX:
            told = f"holds {found[0]} beside {found[-1]}; correct it, or save it with 8 bits"
            raise InputError(f"{path}: a 16-bit mask that {told}")
        return (values if values.max() <= 255 else np.round(values / 257)).clip(0, 255).astype(np.uint8)
    return np.asarray(image.convert("L")) if image.mode in ("1", "L") else np.asarray(image.convert("RGB")).max(axis=2)


def has_palette(picture: Picture) -> bool:
    """Whether a file's values are places in a palette that is more than the grey levels."""
    image = picture.pixels
    return image.mode == "P" and image.getpalette() != [level for level in range(256) for _ in range(3)]


def _numbers(levels: np.ndarray) -> np.ndarray:
    """16-bit levels int32 [H, W] of a mask; beside 8-bit ones 65535 stands for 255."""
    others = levels[levels != 65535]
    return np.where(levels == 65535, 255, levels) if others.any() and others.max() <= 255 else levels


def _hides(picture: Picture) -> bool:
    """Whether any pixel is transparent."""
    return "A" in picture.pixels.getbands() and picture.pixels.getchannel("A").getextrema()[0] < 255


def check_transparency(picture: Picture, path: str, levels: np.ndarray) -> None:
    """Raise InputError where the transparency of a mask [H, W] tells another thing than its levels."""
    if _hides(picture):
        clear = np.asarray(picture.pixels.getchannel("A")) == 0
        if levels.min() == levels.max() or levels[clear].any():
            raise InputError(f"{path}: carries the mask in its transparency; save it in black and white, or colours")


def present_types(mask: np.ndarray, class_names: Sequence[str]) -> dict[str, int]:
    """Pixel count of every type that occurs in an index mask."""
    counts = histogram(mask)
    return {name: counts[k] for k, name in enumerate(class_names, start=1) if counts[k]}


@dataclass(frozen=True)
class View:
    """How a training sees images, and its samples show them: whole, stretched to `size` (height, width), or as windows
    of `size` out of images stretched to `crop_from` (empty: of their own size). See config.DataConfig."""

    size: tuple[int, int]
    windows: bool = False
    crop_from: tuple[int, ...] = ()
    crop_defect: float = 0.0

    @classmethod
    def of(cls, data: DataConfig) -> "View":
        """That of a training."""
        return cls(data.resolution, data.fit == "random_crop", data.crop_from, data.crop_defect)

    @property
    def whole_size(self) -> tuple[int, ...]:
        """Height and width of a whole image at the samples' scale; empty: each image's own."""
        return self.crop_from if self.windows else self.size

    def size_of(self, size: tuple[int, int]) -> tuple[int, ...]:
        """(height, width) to which an image of `size` is stretched: `whole_size`, or as little as holds a window."""
        factor = max(1, *(window / side for window, side in zip(self.size, size, strict=True)))
        least = (max(window, round(side * factor)) for window, side in zip(self.size, size, strict=True))
        return self.whole_size or tuple(least)


def orientations(
    image: Picture, path: str, size: tuple[int, int] | None, mask_path: str, *, tag: int = 1, upright: bool = False
) -> tuple[int, int]:
    """How to turn an image and its mask of `size` (height, width; None: unknown) and orientation `tag`, for one to lie
    on the other. Programs differ in whether they follow EXIF (`upright`: this one does); the mask's size tells, unless
    the image is square. Raises InputError where it cannot be told or the sizes differ."""
    fitting = [
        (one, other)
        for one, other in dict.fromkeys(product((1, image.orientation), (1, tag)))
        if size is None or image.size[:: -1 if one > 4 else 1] == size[:: -1 if other > 4 else 1]
    ]
    if (1, 1) in fitting and image.orientation == tag:
        return tag, tag
    if not fitting:
        text = f"mask is {size[1]} x {size[0]} pixels, but its image {path} is {image.size[1]} x {image.size[0]}"
        raise InputError(f"{mask_path}: {text}; redraw the mask at the size of the image")
    if len(fitting) > 1 and not upright:
        text = f"carries an EXIF orientation, and {mask_path} does not tell whether it follows it"
        raise InputError(f"{path if image.orientation > 1 else mask_path}: {text}; save both upright, without EXIF")
    return fitting[-1]
