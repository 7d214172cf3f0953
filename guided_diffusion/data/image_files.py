"""One image or index mask file (one channel, 0 background, k the k-th type): decoded with every check."""

from __future__ import annotations

import io
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from ..config import DataConfig
from ..errors import InputError
from ..file_io import read_bytes

Image.MAX_IMAGE_PIXELS = 2**27  # Pillow refuses twice that, 0.8 GB decoded, and warns from here on
EXIF_ORIENTATION = 0x0112
MAX_PLAUSIBLE_INDEX = 64


def open_image(path: str, read: Callable[[str], bytes] = read_bytes) -> Image.Image:
    """A fully decoded image file, in its own mode and pixel order (an EXIF rotation is not applied).

    read: what gives the content. Raises InputError where that cannot be read, decoded, or has more than 2**28 pixels.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about sizes and odd metadata; what matters is checked here
            content = io.BytesIO(read(path))
            Image.open(content).verify()  # PNG's checksums, which load() leaves out
            image = Image.open(content)
            image.load()
    except InputError:
        raise
    except UnidentifiedImageError as error:
        raise InputError(f"{path}: is not an image; replace or remove it") from error
    except Image.DecompressionBombError as error:
        raise InputError(f"{path}: has more pixels than can be read; cut it") from error
    except Exception as error:  # what a decoder raises on damaged data is not limited to OSError
        reason = getattr(error, "strerror", None) or error
        raise InputError(f"{path}: unreadable or truncated image ({reason}); replace or remove it") from error
    return image


def to_rgb(image: Image.Image, path: str) -> np.ndarray:
    """uint8 [H, W, 3] of an image of any usual mode; 16-bit grey is scaled to 8, transparency dropped.

    Raises InputError for grey levels of a range that cannot be told.
    """
    if image.mode == "F":
        raise InputError(f"{path}: holds floating-point grey levels of unknown range; save it as 8-bit")
    if image.mode != "I" and not image.mode.startswith("I;16"):
        return np.array(image.convert("RGB"))
    values = np.asarray(image).astype(np.int64)
    if values.min() < 0 or values.max() > 65535:
        raise InputError(f"{path}: holds grey levels outside 0..65535; save it as 8-bit")
    if 0 < values.max() <= 255:
        raise InputError(f"{path}: is 16-bit, but its levels reach {values.max()} only; save it as 8-bit")
    return np.round(values / 257).astype(np.uint8)[..., None].repeat(3, axis=2)


def read_image(path: str, size: Sequence[int] = ()) -> np.ndarray:
    """uint8 [H, W, 3] of an image file, stretched to `size` (H, W) if given. Raises InputError as open_image does."""
    image = to_rgb(open_image(path), path)
    return resize_image(image, size) if size else image


def resize_image(image: np.ndarray, size: Sequence[int]) -> np.ndarray:
    """uint8 [H, W] or [H, W, 3] stretched to `size` = (height, width), antialiased."""
    return np.array(Image.fromarray(image).resize((size[1], size[0]), Image.Resampling.BILINEAR))


def resize_mask(mask: np.ndarray, size: Sequence[int]) -> np.ndarray:
    """Index mask uint8 [H, W], or labels int32, stretched to `size` = (height, width); nearest: none appears."""
    return np.array(Image.fromarray(mask).resize((size[1], size[0]), Image.Resampling.NEAREST))


def read_index_mask(path: str, num_defect: int, void: int | None = None) -> np.ndarray:
    """Index mask uint8 [H, W], values 0..num_defect, of a grey, palette (its indices), 16-bit or 1-bit file.

    void: a value that becomes background. Raises InputError for any other kind of file and for values above num_defect.
    """
    image = open_image(path)
    if image.format == "JPEG":
        raise InputError(f"{path}: is a JPEG, whose compression alters the indices; save masks as PNG")
    if image.mode not in ("1", "L", "P", "I") and not image.mode.startswith("I;16"):
        raise InputError(
            f"{path}: has mode {image.mode}, but an index mask has one channel with values 0..{num_defect}: an RGB "
            "mask? Convert colours to indices first (scripts/prepare_data.py --colormap)"
        )
    mask = np.asarray(image)
    mask = mask if void is None else np.where(mask == void, 0, mask)
    values = np.flatnonzero(np.bincount(mask.ravel())) if mask.dtype == np.uint8 else np.unique(mask).astype(np.int64)
    wrong = values[(values < 0) | (values > num_defect)]
    if len(wrong):
        if set(values.tolist()) <= {0, 255}:
            guess = "a 0/255 mask? scripts/prepare_data.py turns these into index masks"
        elif len(values) <= 32 and values[0] >= 0 and values[-1] <= MAX_PLAUSIBLE_INDEX:
            guess = f"more types than said? Set num_defect to {values[-1]} or more, or correct the mask"
        else:
            guess = "a soft or coloured mask? An index mask holds one small number per type; threshold or convert it"
        raise InputError(f"{path}: holds value {wrong[0]}, but num_defect is {num_defect}: {guess}")
    return mask.astype(np.uint8)


def present_types(mask: np.ndarray, class_names: Sequence[str]) -> dict[str, int]:
    """Pixel count of every type that occurs in an index mask."""
    counts = np.bincount(mask.ravel(), minlength=len(class_names) + 1)
    return {name: int(counts[k]) for k, name in enumerate(class_names, start=1) if counts[k]}


@dataclass(frozen=True)
class View:
    """How a training sees images, and its samples show them: whole, stretched to `size`, or as windows of `size`.

    size: (height, width) in pixels. windows: cut out of images that are first stretched to `crop_from` (empty: of
    their own size); `crop_defect` of them hold a defect for certain. See config.DataConfig.
    """

    size: tuple[int, int]
    windows: bool = False
    crop_from: tuple[int, ...] = ()
    crop_defect: float = 0.0

    @classmethod
    def of(cls, data: DataConfig) -> View:
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


def turned_like(
    image: Image.Image, path: str, size: tuple[int, int] | None, mask_path: str, *, upright: bool
) -> Image.Image:
    """The image in the orientation in which its mask of `size` = (height, width), None if unknown, was drawn.

    Programs differ in whether they follow EXIF, and the mask does not say. Its size does, for quarter turns of images
    that are not square; `upright`: the labelling program is known to. Raises InputError where it cannot be told or the
    sizes differ.
    """
    turned = ImageOps.exif_transpose(image) if image.getexif().get(EXIF_ORIENTATION) in range(2, 9) else None
    fitting = [one for one in (image, turned) if one and size in (None, (one.height, one.width))]
    if not fitting:
        raise InputError(
            f"{mask_path}: mask is {size[1]} x {size[0]} pixels, but its image {path} is {image.width} x "
            f"{image.height}; redraw the mask at the size of the image"
        )
    if len(fitting) > 1 and not upright:
        raise InputError(
            f"{path}: carries an EXIF orientation, and {mask_path} does not tell whether it follows it; save the "
            "image the way up that the mask has, without EXIF"
        )
    return fitting[-1]
