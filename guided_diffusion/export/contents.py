"""What a file of an export holds, made of a record's image and mask."""

from __future__ import annotations

import io
from typing import NamedTuple

import numpy as np
from PIL import Image

from ..file_io import encode_png, read_bytes
from ..joint_tensor import MAX_TYPES
from ..pictures import colorize, palette
from .records import Record

_PNG = b"\x89PNG\r\n\x1a\n"
_PLAIN_PNG = {(8, 0), (8, 2)}  # bits and colour type: 8-bit grey, 8-bit RGB


class Content(NamedTuple):
    """image: bytes of a PNG, 8-bit grey or RGB. mask: index mask uint8 [H, W]."""

    image: bytes
    mask: np.ndarray


def read_content(record: Record, num_defect: int) -> Content:
    """A record's image, byte for byte where it is a plain PNG already, and its mask. Raises InputError."""
    image, mask = record.read(num_defect)
    data = read_bytes(record.sample.image)
    # An EXIF rotation would turn the image in some readers, but never the mask.
    plain = data.startswith(_PNG) and (data[24], data[25]) in _PLAIN_PNG and b"eXIf" not in data
    return Content(data if plain else encode_png(image), mask)


def image(content: Content) -> bytes:
    return content.image


def index_mask(content: Content) -> bytes:
    """Grey PNG: 0 background, k the k-th type."""
    return encode_png(content.mask)


def palette_mask(content: Content) -> bytes:
    """The same indices as a palette PNG, which viewers show in the project's colours."""
    picture = Image.fromarray(content.mask)
    picture.putpalette(palette(MAX_TYPES).tobytes())  # makes the mode "P"
    buffer = io.BytesIO()
    picture.save(buffer, format="PNG")
    return buffer.getvalue()


def colour_mask(content: Content) -> bytes:
    return encode_png(colorize(content.mask))


def binary_mask(content: Content) -> bytes:
    """Grey PNG: 255 where there is any defect, else 0."""
    return encode_png(np.where(content.mask > 0, 255, 0).astype(np.uint8))
