"""One image file: decoded with every check, as 8-bit RGB, upright where that can be told."""

from __future__ import annotations

import base64
import binascii
import io
import json
import warnings
from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from ..errors import InputError
from ..file_io import read_bytes

MAX_PIXELS = 2**28  # decoded, that is 0.8 GB
EXIF_ORIENTATION = 0x0112
UPRIGHT, QUARTER_TURNS = 1, (5, 6, 7, 8)  # values of that tag


def open_image(path: str) -> Image.Image:
    """A fully decoded image file, in its own mode and pixel order (an EXIF rotation is not applied).

    A labelme file (.json) stands for the image that is embedded in it. Raises InputError where the file cannot be read
    or decoded, or has more than MAX_PIXELS.
    """
    try:
        data = read_bytes(path)
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror or error}); replace or remove it") from error
    return decode_image(embedded_image(data, path) if path.lower().endswith(".json") else data, path)


def decode_image(data: bytes, path: str) -> Image.Image:
    """A decoded image of these bytes; `path` is for messages. Raises InputError as open_image."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about sizes and odd metadata; what matters is checked here
            image = Image.open(io.BytesIO(data))
            if image.width * image.height > MAX_PIXELS:
                raise InputError(f"{path}: has {image.width} x {image.height} pixels, more than can be read; cut it")
            image.load()
    except InputError:
        raise
    except UnidentifiedImageError as error:
        raise InputError(f"{path}: is not an image; replace or remove it") from error
    except Image.DecompressionBombError as error:
        raise InputError(f"{path}: has more pixels than can be read; cut it") from error
    except Exception as error:  # what a decoder raises on damaged data is not limited to OSError
        raise InputError(f"{path}: unreadable or truncated image ({error}); replace or remove it") from error
    return image


def embedded_image(data: bytes, path: str) -> bytes:
    """The image file that a labelme file embeds. Raises InputError where there is none."""
    try:
        return base64.b64decode(json.loads(data)["imageData"])
    except (ValueError, KeyError, TypeError, binascii.Error) as error:
        raise InputError(f"{path}: embeds no image and none lies beside it; add the image") from error


def to_rgb(image: Image.Image, path: str) -> np.ndarray:
    """uint8 [H, W, 3] of an image of any usual mode; 16-bit grey is scaled to 8, transparency dropped.

    Raises InputError for grey levels of a range that cannot be told.
    """
    if image.mode == "I" or image.mode.startswith("I;16"):
        values = np.asarray(image).astype(np.int64)
        if values.min() < 0 or values.max() > 65535:
            raise InputError(f"{path}: holds grey levels outside 0..65535; save it as 8-bit")
        if 0 < values.max() <= 255:
            raise InputError(f"{path}: is 16-bit, but its levels reach {values.max()} only; save it as 8-bit")
        grey = np.round(values / 257).astype(np.uint8)
        return np.repeat(grey[..., None], 3, axis=2)
    if image.mode == "F":
        raise InputError(f"{path}: holds floating-point grey levels of unknown range; save it as 8-bit")
    return np.array(image.convert("RGB"))


def resize_image(image: np.ndarray, size: Sequence[int]) -> np.ndarray:
    """uint8 [H, W] or [H, W, 3] stretched to `size` = (height, width), antialiased."""
    return np.array(Image.fromarray(image).resize((size[1], size[0]), Image.Resampling.BILINEAR))


def resize_mask(mask: np.ndarray, size: Sequence[int]) -> np.ndarray:
    """Index mask uint8 [H, W], or labels int32, stretched to `size` = (height, width); nearest: none appears."""
    return np.array(Image.fromarray(mask).resize((size[1], size[0]), Image.Resampling.NEAREST))


def trained_size(
    size: tuple[int, int], resolution: tuple[int, int], fit: str, crop_from: Sequence[int] = ()
) -> tuple[int, int]:
    """(height, width) to which training stretches an image of `size`; fit, crop_from: as in config.DataConfig.

    For random crops that is `crop_from`, or the least enlargement that holds a window of `resolution`.
    """
    if crop_from:
        return crop_from[0], crop_from[1]
    if fit == "resize":
        return resolution
    height, width = size
    factor = max(resolution[0] / height, resolution[1] / width, 1)
    return max(resolution[0], round(height * factor)), max(resolution[1], round(width * factor))


def turned_like(
    image: Image.Image, path: str, size: tuple[int, int] | None, mask_path: str, *, upright: bool
) -> Image.Image:
    """The image in the orientation in which its mask of `size` = (height, width), None if unknown, was drawn.

    Programs differ in whether they follow an orientation in EXIF, and the mask does not say. Its size does, for quarter
    turns of images that are not square; `upright` says that the labelling program is known to follow EXIF. Raises
    InputError where it cannot be told or the sizes differ.
    """
    orientation = image.getexif().get(EXIF_ORIENTATION, UPRIGHT)
    stored = (image.height, image.width)
    shown = stored[::-1] if orientation in QUARTER_TURNS else stored
    fits_stored, fits_shown = size in (None, stored), size in (None, shown)
    turned = orientation in range(UPRIGHT + 1, 9)
    if fits_shown and turned and (upright or not fits_stored):
        return ImageOps.exif_transpose(image)
    if fits_stored and not (fits_shown and turned):
        return image
    if fits_stored:
        raise InputError(
            f"{path}: carries an EXIF orientation, and {mask_path} does not tell whether it follows it; save the "
            "image the way up that the mask has, without EXIF"
        )
    raise InputError(
        f"{mask_path}: mask is {size[1]} x {size[0]} pixels, but its image {path} is {image.width} x {image.height}; "
        "redraw the mask at the size of the image"
    )
