"""What layouts are drawn with: photographs, masks, files, run lengths; and the line of a refusal."""

import base64
import io
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as coco_rle
from scipy import ndimage

from guided_diffusion.errors import InputError

WRITERS = {"jpg": "JPEG", "tif": "TIFF"}
SIZE = (40, 48)
COLOURS = ((0, 0, 0), (200, 30, 30), (30, 200, 30), (30, 30, 200))
COLOURMAP = dict(zip(("crack", "hole", "scratch"), COLOURS[1:], strict=True))
PHOTOGRAPH = np.random.default_rng(5).integers(60, 190, (*SIZE, 3), dtype=np.uint8)
MASK = np.zeros(SIZE, np.uint8)  # of three types, that do not touch
y, x = np.mgrid[: SIZE[0], : SIZE[1]]
for index, centre, radius_x, radius_y in ((1, (8, 20), 4, 6), (2, (24, 18), 5, 8), (3, (40, 22), 3, 5)):
    MASK[((x - centre[0]) / radius_x) ** 2 + ((y - centre[1]) / radius_y) ** 2 <= 1] = index


def textures(count: int, height: int, width: int, seed: int = 0, smooth: float = 1.5) -> np.ndarray:
    """uint8 [count, height, width, 3], of about 128 +- 30."""
    noise = np.random.default_rng(seed).normal(size=(count, height, width, 3))
    noise = ndimage.gaussian_filter(noise, (0, smooth, smooth, 0))
    return np.clip(128 + 30 * noise / noise.std(), 0, 255).astype(np.uint8)


def photograph(seed, size: tuple[int, int]) -> np.ndarray:
    """uint8 [H, W, 3] of smooth noise, which does not look like that of another seed."""
    small = np.random.default_rng(seed).integers(0, 255, (6, 8, 3), dtype=np.uint8)
    return np.asarray(Image.fromarray(small).resize(size[::-1], Image.Resampling.BICUBIC))


def save(path: Path, content: Any, **options: Any) -> None:
    """Write a picture, bytes, or what is to be JSON."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if isinstance(content, bytes):
        path.write_bytes(content)
    elif path.suffix == ".json":
        path.write_text(json.dumps(content))
    else:
        (content if isinstance(content, Image.Image) else Image.fromarray(content)).save(path, **options)


def pixels(path: Path) -> np.ndarray:
    return np.asarray(Image.open(path))


def row_runs(region: np.ndarray) -> Iterator[tuple[int, int, int]]:
    """(y, first x, x beyond) of the runs in the rows of bool [H, W]."""
    steps = np.diff(np.pad(region, ((0, 0), (1, 1))).astype(int))
    for (y, left), (_, right) in zip(np.argwhere(steps == 1).tolist(), np.argwhere(steps == -1).tolist(), strict=True):
        yield y, left, right


def segmentation(region: np.ndarray, kind: str) -> Any:
    """COCO's `segmentation` of bool [H, W]; kind "polygon", "rle" or "compressed"."""
    if kind == "polygon":
        return [[x1, y, x2, y, x2, y + 1, x1, y + 1] for y, x1, x2 in row_runs(region)]
    if kind == "compressed":
        counts = coco_rle.encode(np.asfortranarray(region, np.uint8))["counts"].decode()
    else:
        edges = np.flatnonzero(np.diff(region.T.ravel(), prepend=False, append=not region[-1, -1]))
        counts = np.diff(edges, prepend=0).tolist()
    return {"size": list(region.shape), "counts": counts}


def coded(image: Image.Image, suffix: str, orientation: int = 1) -> bytes:
    """The file of a picture; orientation: of its EXIF tag."""
    buffer, exif = io.BytesIO(), Image.Exif()
    exif[0x0112] = orientation
    more = {"exif": exif} if orientation > 1 else {}
    image.save(buffer, WRITERS.get(suffix, suffix), quality=95, lossless=True, exact=True, **more)
    return buffer.getvalue()


def png_text(picture: np.ndarray) -> str:
    return base64.b64encode(coded(Image.fromarray(picture), "png")).decode()


def refusal(function: Callable, *arguments: Any) -> str:
    """The one line of the InputError that a call raises."""
    with pytest.raises(InputError) as caught:
        function(*arguments)
    assert "\n" not in str(caught.value)
    return caught.value.with_flags({})
