"""Small sound data sets, to be damaged: `CASES[name](root)` draws PHOTOGRAPHS and their MASKS below `root`."""

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

from guided_diffusion.errors import InputError

WRITERS = {"jpg": "JPEG", "tif": "TIFF"}
SIZE = (40, 48)
NAMES = ("crack", "hole", "scratch")
COLOURS = ((0, 0, 0), (200, 30, 30), (30, 200, 30), (30, 30, 200))
CATEGORY_IDS = (2, 5, 11)
Row = tuple[str, str, np.ndarray, np.ndarray]  # paths of an image and its mask, and what they show


def _material(count: int = 7) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """uint8 [H, W, 3], and index masks uint8 [H, W] of one to three ellipses that do not touch, the first of type
    1 + i % 3."""
    rng = np.random.default_rng(5)
    y, x = np.mgrid[: SIZE[0], : SIZE[1]]
    photographs = [rng.integers(60, 190, (*SIZE, 3), dtype=np.uint8) for _ in range(count)]
    masks = [np.zeros(SIZE, np.uint8) for _ in range(count)]
    for i, mask in enumerate(masks):
        for cell in range(1 + i % 3):
            centre_x, centre_y = 8 + 16 * cell + rng.integers(-1, 2), rng.integers(10, 30)
            radius_x, radius_y = rng.uniform(2, 6), rng.uniform(3, 9)
            inside = ((x - centre_x) / radius_x) ** 2 + ((y - centre_y) / radius_y) ** 2 <= 1
            mask[inside] = 1 + (i + cell) % len(NAMES)
    return photographs, masks


PHOTOGRAPHS, MASKS = _material()


def save(path: Path, content: Any, **options: Any) -> None:
    """Write a picture, bytes, or what is to be JSON."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if isinstance(content, bytes):
        path.write_bytes(content)
    elif path.suffix == ".json":
        path.write_text(json.dumps(content))
    else:
        (content if isinstance(content, Image.Image) else Image.fromarray(content)).save(path, **options)


def black_and_white(mask: np.ndarray) -> np.ndarray:
    return np.where(mask > 0, 255, 0).astype(np.uint8)


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


def draw(root: Path, image: str, mask: str, kind: str = "black_and_white") -> list[Row]:
    """One mask file an image. image, mask: templates of their paths. kind: of the masks, also "index" and "colour"."""
    rows, typed = [], "{type}" in image
    for i, (photograph, drawn) in enumerate(zip(PHOTOGRAPHS, MASKS, strict=True)):
        places = [path.format(type=NAMES[i % len(NAMES)], i=i) for path in (image, mask)]
        if kind == "black_and_white":
            file, drawn = black_and_white(drawn), (drawn > 0).astype(np.uint8) * (1 + i % len(NAMES) if typed else 1)
        else:
            file = np.array(COLOURS, np.uint8)[drawn] if kind == "colour" else drawn
        for path, content in zip(places, (photograph, file), strict=True):
            save(root / path, content)
        rows.append((*places, photograph, drawn))
    return rows


def draw_coco(root: Path) -> list[Row]:
    """Images of the same names in two parts."""
    rows, half = [], len(MASKS) // 2
    categories = [{"id": k, "name": name} for k, name in zip(CATEGORY_IDS, NAMES, strict=True)]
    for part, first in (("train", 0), ("val", half)):
        images, annotations, file = [], [], f"{part}/_annotations.coco.json"
        for k, (photograph, mask) in enumerate(zip(PHOTOGRAPHS[first:][:half], MASKS[first:][:half], strict=True)):
            save(root / part / f"{k:04}.png", photograph)
            images.append({"id": 40 - k, "file_name": f"{k:04}.png", "height": SIZE[0], "width": SIZE[1]})
            for index in np.unique(mask[mask > 0]).tolist():
                row = {"image_id": 40 - k, "segmentation": segmentation(mask == index, "polygon")}
                annotations.append({**row, "category_id": CATEGORY_IDS[index - 1]})
            rows.append((f"{part}/{k:04}.png", file, photograph, mask))
        save(root / file, {"images": images, "annotations": annotations, "categories": categories})
    return rows


def draw_labelme(root: Path) -> list[Row]:
    """Bitmaps."""
    rows, whole = [], {"shape_type": "mask", "points": [[0, 0], [SIZE[1] - 1, SIZE[0] - 1]]}
    for i, (photograph, mask) in enumerate(zip(PHOTOGRAPHS, MASKS, strict=True)):
        indices = np.unique(mask[mask > 0]).tolist()
        shapes = [{**whole, "label": NAMES[k - 1], "mask": png_text(mask == k)} for k in indices]
        save(root / f"{i}.png", photograph)
        content = {"shapes": shapes, "imagePath": f"{i}.png", "imageHeight": SIZE[0], "imageWidth": SIZE[1]}
        save(root / f"{i}.json", content)
        rows.append((f"{i}.png", f"{i}.json", photograph, mask))
    return rows


CASES: dict[str, Callable[[Path], list[Row]]] = {
    "released": lambda root: draw(root, "test/{type}/{i}.png", "converted_ground_truth/{type}/{i}.png", "index"),
    "mvtec": lambda root: draw(root, "test/{type}/{i}.png", "ground_truth/{type}/{i}_mask.png"),
    "type_folders": lambda root: draw(root, "{type}/{i}.png", "{type}/{i}_mask.png"),
    "flat": lambda root: draw(root, "{type}_{i:03}.png", "{type}_{i:03}_mask.png"),
    "colours": lambda root: draw(root, "images/{i}.png", "masks/{i}.png", "colour"),
    "indices": lambda root: draw(root, "images/{i}.png", "masks/{i}.png", "index"),
    "coco": draw_coco,
    "labelme": draw_labelme,
}
COLOURMAP = dict(zip(NAMES, COLOURS[1:], strict=True))
