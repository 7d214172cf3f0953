"""Small data sets in layouts that users bring, each with what a reader should find in it, where drawn_at_random.py has
them not, or to be damaged.

`CASES[name](root)` draws PHOTOGRAPHS and their MASKS below `root` and returns what is `Expected` of a reader.
"""

import base64
import io
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from pycocotools import mask as coco_rle

from guided_diffusion.prepare.layouts import Options

SIZE = (40, 48)
NAMES = ("crack", "hole", "scratch")
LABEL_MAP = {name: index for index, name in enumerate(NAMES, 1)}
COLOURS = ((0, 0, 0), (200, 30, 30), (30, 200, 30), (30, 30, 200))
CATEGORY_IDS = (2, 5, 11)


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


@dataclass
class Expected:
    """What a reader should find. good: names of the defect-free samples; options: what must be said; samples: by name
    their photograph, index mask and part."""

    format: str
    label_map: dict[str, int] | None
    good: set[str] = field(default_factory=set)
    options: Options = field(default_factory=Options)
    samples: dict[str, tuple[np.ndarray, np.ndarray, str | None]] = field(default_factory=dict)


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


KINDS: dict[str, Callable[[np.ndarray], Any]] = {
    "black_and_white": black_and_white,
    "index": lambda mask: mask,
    "colour": lambda mask: np.array(COLOURS, np.uint8)[mask],
}


def draw(root, format, image, mask, name, kind="black_and_white", *, good=None, colour=None):
    """Image and mask files, one mask an image. image, mask, name: templates of their paths and of the sample's name.

    kind: of KINDS. good: {image: name} of defect-free images. colour: a template, for coloured
    masks beside those of indices.
    """
    typed, binary = "{type}" in name, kind == "black_and_white"
    label_map = (LABEL_MAP if typed else {"defect": 1}) if binary else None
    found = Expected(format, label_map, set((good or {}).values()))
    if kind == "colour":
        found.options, found.label_map = Options(colormap=dict(zip(NAMES, COLOURS[1:], strict=True))), LABEL_MAP
    for i, (photograph, drawn) in enumerate(zip(PHOTOGRAPHS, MASKS, strict=True)):
        words = {"type": NAMES[i % len(NAMES)], "i": i}
        save(root / image.format(**words), photograph)
        save(root / mask.format(**words), KINDS[kind](drawn))
        if colour:
            save(root / colour.format(**words), KINDS["colour"](drawn))
        if binary:
            drawn = (label_map[words["type"]] if typed else 1) * (drawn > 0).astype(np.uint8)
        found.samples[name.format(**words)] = photograph, drawn, None
    for path in good or {}:
        save(root / path, PHOTOGRAPHS[0])
    return found


def draw_mask_folder_per_type(root):
    """images/x.png, and masks/<type>/x.png for each type that occurs in it; the last image has none."""
    found = Expected("images_masks", LABEL_MAP, {"last"})
    for i, (photograph, mask) in enumerate(zip(PHOTOGRAPHS, MASKS, strict=True)):
        save(root / f"images/{i}.png", photograph)
        for name, index in LABEL_MAP.items():
            if (mask == index).any():
                save(root / f"masks/{name}/{i}.png", black_and_white(mask == index))
        found.samples[f"{i}"] = photograph, mask, None
    save(root / "images/last.png", PHOTOGRAPHS[0])
    return found


def regions(mask: np.ndarray) -> list[tuple[str, np.ndarray]]:
    """Name and bool [H, W] of the types in an index mask."""
    return [(NAMES[index - 1], mask == index) for index in np.unique(mask[mask > 0]).tolist()]


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


def draw_coco(root):
    """Category ids are not contiguous and one is not used; images have the same names in both parts; several
    annotations belong to an image, to the last one none."""
    found, half = Expected("coco", LABEL_MAP), len(MASKS) // 2
    categories = [{"id": k, "name": name} for k, name in zip((0, *CATEGORY_IDS), ("all", *NAMES), strict=True)]
    for p, part in enumerate(("train", "val")):
        content = {"images": [], "annotations": [], "categories": categories}
        for number, i in enumerate([*range(p * half, (p + 1) * half), None]):
            key, file = 40 - number, f"{number:04}.png"
            save(root / part / file, PHOTOGRAPHS[i or 0])
            content["images"].append({"id": key, "file_name": file, "height": SIZE[0], "width": SIZE[1]})
            if i is None:
                found.good.add(f"{part}_{number:04}")
                continue
            found.samples[f"{part}_{number:04}"] = PHOTOGRAPHS[i], MASKS[i], part
            for type_, region in regions(MASKS[i]):
                row = {"image_id": key, "segmentation": segmentation(region, "polygon")}
                content["annotations"].append({**row, "category_id": CATEGORY_IDS[NAMES.index(type_)]})
        save(root / part / "_annotations.coco.json", content)
    return found


def png_text(picture: np.ndarray) -> str:
    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, format="PNG")
    return base64.b64encode(buffer.getvalue()).decode()


def draw_labelme(root, image="beside"):
    """Bitmaps. image: "beside", "renamed" (imagePath is wrong) or "embedded".

    The last file has no shapes; one has a shape that is to be ignored, and one erased by _background_.
    """
    found = Expected("labelme", LABEL_MAP, {f"{len(MASKS)}"})
    whole = {"shape_type": "rectangle", "points": [[-1, -1], [SIZE[1], SIZE[0]]]}
    for i, (photograph, mask) in enumerate(zip([*PHOTOGRAPHS, PHOTOGRAPHS[0]], [*MASKS, 0 * MASKS[0]], strict=True)):
        drawn = {"shape_type": "mask", "points": [[2, 1], [SIZE[1] - 1, SIZE[0] - 1]]}
        shapes = [{**drawn, "label": name, "mask": png_text(region[1:, 2:])} for name, region in regions(mask)]
        if i == 0:
            first, second, last = ({**whole, "label": label} for label in (NAMES[0], "_background_", "__ignore__"))
            shapes = [first, second, *shapes, last]
        path = f"C:\\photographs\\{i + 1}.png" if image == "renamed" else f"{i}.png"
        content = {"shapes": shapes, "imagePath": path, "imageHeight": SIZE[0], "imageWidth": SIZE[1]}
        if image == "embedded":
            content["imageData"] = png_text(photograph)
        else:
            save(root / f"{i}.png", photograph)
        save(root / f"{i}.json", content)
        if mask.any():
            found.samples[f"{i}"] = photograph, mask, None
    return found


def pair(format, images, masks, name="{type}/{i}", ending="", **more):
    """Images and masks in two folders."""
    return partial(
        draw, format=format, image=f"{images}/{name}.png", mask=f"{masks}/{name}{ending}.png", name=name, **more
    )


MVTEC_GOOD = {f"{part}/good/000.png": f"good/{part}_000" for part in ("train", "test")}
SPECTRUM = partial(pair, "defect_spectrum", "image", "mask", ending="_mask", kind="index")
CASES: dict[str, Callable[..., Expected]] = {
    "released": pair("released", "test", "converted_ground_truth", kind="index", good={"test/good/0.png": "good/0"}),
    "DS-MVTec rbg_mask": SPECTRUM(colour="rbg_mask/{type}/{i}_rbg_mask.png"),
    "DS-DAGM": SPECTRUM("{i}"),
    "mvtec": pair("mvtec", "test", "ground_truth", ending="_mask", good=MVTEC_GOOD),
    **{
        f"images_masks {kind}": pair("images_masks", "images", "masks", "{i}", kind=kind)
        for kind in ("index", "colour")
    },
    "black and white in image, mask": pair("images_masks", "image", "mask", "{i}"),
    "mask folder per type": draw_mask_folder_per_type,
    "type folders, marked": pair("type_folders", ".", ".", ending="_mask", good={"good/1.png": "good/1"}),
    "flat, marked": pair("flat", ".", ".", "{type}_{i:03}", "_mask", good={"good_099.png": "good_099"}),
    "coco in part folders": draw_coco,
    **{f"labelme {at}": partial(draw_labelme, image=at) for at in ("beside", "renamed", "embedded")},
}
