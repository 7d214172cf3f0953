"""The pictures of the report: many images and masks in few files, small enough to travel inside one page.

Images lie in sheets, a grid of cells each; a sheet of masks in the types' colours, with a transparent background, goes
with each. Where all fits, images are PNG, exact to the pixel; else JPEG; else they are reduced as well.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image

from ..pictures import palette

EXACT_BYTES = 6 << 20  # all images of an album as PNG, up to here
MAX_BYTES = 22 << 20  # as JPEG, up to here: with base64 and the rest, 5,000 samples of 64 px stay under 40 MB
MAX_SIDE = 1024  # pixels; larger images are reduced in any case
SHEET_SIDE = 1024  # pixels, about
TRIAL = 32  # images to judge the size of all by
_QUALITY = 90
_BLOCK = 8  # of JPEG: cells of whole blocks do not bleed into each other


@dataclass(frozen=True)
class Encoding:
    """How images are stored: side lengths times `scale`; exact (PNG) or JPEG."""

    scale: float
    exact: bool

    def size(self, height: int, width: int) -> tuple[int, int]:
        """Height and width in the report of an image of this size."""
        return max(1, round(height * self.scale)), max(1, round(width * self.scale))

    def image(self, image: np.ndarray) -> np.ndarray:
        """uint8 [H, W, 3] at the size of the report."""
        size = self.size(*image.shape[:2])
        if size == image.shape[:2]:
            return image
        return np.asarray(Image.fromarray(image).resize(size[::-1], Image.Resampling.BOX))

    def mask(self, mask: np.ndarray) -> np.ndarray:
        """Index mask uint8 [H, W] at the size of the report."""
        size = self.size(*mask.shape)
        if size == mask.shape:
            return mask
        return np.asarray(Image.fromarray(mask).resize(size[::-1], Image.Resampling.NEAREST))

    def data_uri(self, image: np.ndarray) -> str:
        """uint8 [H, W, 3] as a data URI; it is not resized."""
        return _data_uri("png" if self.exact else "jpeg", self._bytes(image))

    def _bytes(self, image: np.ndarray) -> bytes:
        buffer = io.BytesIO()
        if self.exact:
            Image.fromarray(image).save(buffer, "PNG")
        else:
            Image.fromarray(image).save(buffer, "JPEG", quality=_QUALITY, subsampling=0)
        return buffer.getvalue()


def choose_encoding(
    trial: Sequence[np.ndarray], count: int, exact_bytes: int = EXACT_BYTES, max_bytes: int = MAX_BYTES
) -> Encoding:
    """The best encoding under which `count` images such as these, uint8 [H, W, 3] each, keep within the limits."""
    scale = min(1.0, MAX_SIDE / max(max(image.shape[:2]) for image in trial))

    def expected(encoding: Encoding) -> float:
        return len(encoding._bytes(_strip([encoding.image(image) for image in trial]))) * count / len(trial)

    if scale == 1 and expected(Encoding(1.0, True)) <= exact_bytes:
        return Encoding(1.0, True)
    while (size := expected(Encoding(scale, False))) > max_bytes and scale > 1 / MAX_SIDE:
        scale *= min(0.95, (max_bytes / size) ** 0.5)  # bytes go about with the area
    return Encoding(scale, False)


def mask_data_uri(mask: np.ndarray) -> str:
    """Index mask uint8 [H, W] as a PNG in the types' colours, its background transparent."""
    picture = Image.fromarray(mask, "P")
    picture.putpalette(palette(max(int(mask.max()), 1)).tobytes())
    buffer = io.BytesIO()
    picture.save(buffer, "PNG", transparency=0)
    return _data_uri("png", buffer.getvalue())


class Album:
    """Sheets of images of one size and of their masks, filled one by one; picture i lies in sheet i // per_sheet."""

    def __init__(self, height: int, width: int, encoding: Encoding) -> None:
        self.encoding = encoding
        self.size = encoding.size(height, width)
        self.cell = tuple(-(-side // _BLOCK) * _BLOCK for side in self.size)
        self.rows, self.columns = (max(1, SHEET_SIDE // side) for side in self.cell)
        self.sheets: list[tuple[str, str]] = []  # data URIs of the images and of the masks
        self._open: list[tuple[np.ndarray, np.ndarray]] = []

    def add(self, image: np.ndarray, mask: np.ndarray) -> None:
        """Add an image uint8 [H, W, 3] and its index mask uint8 [H, W]."""
        self._open.append((self.encoding.image(image), self.encoding.mask(mask)))
        if len(self._open) == self.rows * self.columns:
            self.close_sheet()

    def close_sheet(self) -> None:
        """Encode what was added since the last full sheet; call it at the end."""
        if not self._open:
            return
        height, width = self.cell
        rows, columns = -(-len(self._open) // self.columns), min(self.columns, len(self._open))
        images = np.zeros((rows * height, columns * width, 3), np.uint8)
        masks = np.zeros(images.shape[:2], np.uint8)
        margin = [(0, cell - side) for cell, side in zip(self.cell, self.size, strict=True)]
        for k, (image, mask) in enumerate(self._open):
            place = np.s_[k // self.columns * height :, k % self.columns * width :]
            images[place][:height, :width] = np.pad(image, [*margin, (0, 0)], "edge")
            masks[place][:height, :width] = np.pad(mask, margin)
        self.sheets.append((self.encoding.data_uri(images), mask_data_uri(masks)))
        self._open.clear()

    def layout(self) -> dict[str, list[int]]:
        """Where a reader finds picture i: [height, width] of pictures and of cells, [rows, columns] of a sheet."""
        return {"size": list(self.size), "cell": list(self.cell), "sheet": [self.rows, self.columns]}


def _strip(images: Sequence[np.ndarray]) -> np.ndarray:
    """Images side by side, uint8 [max H, sum of W, 3]."""
    height = max(len(image) for image in images)
    return np.concatenate([np.pad(image, [(0, height - len(image)), (0, 0), (0, 0)]) for image in images], axis=1)


def _data_uri(kind: str, data: bytes) -> str:
    return f"data:image/{kind};base64,{base64.b64encode(data).decode()}"
