"""Small data sets drawn in every layout that users bring, each with what a reader should find in it.

`CASES[name](root, photographs, masks, names)` draws one below `root` and returns what is `Expected` of a reader. Masks
are index masks of the types `names`; in that of the i-th photograph type 1 + i % len(names) always occurs.
"""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageFilter
from pycocotools import mask as coco_rle

from guided_diffusion.prepare.layouts import Options

SIZE = (40, 48)
NAMES = ("crack", "hole", "scratch")
COLOURS = ((0, 0, 0), (200, 30, 30), (30, 200, 30), (30, 30, 200))
GREYS = (0, 80, 160, 240)
CATEGORY_IDS = (2, 5, 11)
SHOWN_TURNED = 6  # the EXIF orientation of images that are shown turned by 90 degrees clockwise


@dataclass
class Expected:
    """What a reader should find. masks: index masks by sample name; images: where the file format keeps every pixel;
    good: names of the defect-free; parts: of samples that have one; options: what must be said."""

    format: str
    label_map: dict[str, int] | None
    good: set[str] = field(default_factory=set)
    options: Options = field(default_factory=Options)
    masks: dict[str, np.ndarray] = field(default_factory=dict)
    images: dict[str, np.ndarray] = field(default_factory=dict)
    parts: dict[str, str] = field(default_factory=dict)

    def add(self, name: str, mask: np.ndarray, image: np.ndarray | None, part: str | None = None) -> None:
        self.masks[name] = mask
        self.images |= {} if image is None else {name: image}
        self.parts |= {name: part} if part else {}


def material(seed: int, count: int = 7) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Photographs uint8 [H, W, 3] and index masks uint8 [H, W] of up to three ellipses that do not touch."""
    rng = np.random.default_rng(seed)
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


def numbered(names: Sequence[str]) -> dict[str, int]:
    return {name: index for index, name in enumerate(names, 1)}


def save(path: Path, content: Any, **options: Any) -> None:
    """Write a picture, bytes, or what is to be JSON."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".json":
        path.write_text(json.dumps(content))
    elif isinstance(content, bytes):
        path.write_bytes(content)
    else:
        (content if isinstance(content, Image.Image) else Image.fromarray(content)).save(path, **options)


def black_and_white(mask: np.ndarray) -> np.ndarray:
    return np.where(mask > 0, 255, 0).astype(np.uint8)


def with_palette(mask: np.ndarray) -> Image.Image:
    image = Image.frombytes("P", mask.shape[::-1], mask.tobytes())
    image.putpalette([level for colour in COLOURS for level in colour])
    return image


def _soft(mask: np.ndarray) -> Image.Image:
    return Image.fromarray(black_and_white(mask)).filter(ImageFilter.GaussianBlur(1))


BINARY_KINDS: dict[str, Callable[[np.ndarray], Any]] = {
    "black_and_white": black_and_white,
    "one_bit": lambda mask: mask > 0,
    "soft": _soft,
    "jpeg": _soft,
}
MASK_KINDS = BINARY_KINDS | {
    "index": lambda mask: mask,
    "index16": lambda mask: mask.astype(np.uint16),
    "palette": with_palette,
    "colour": lambda mask: np.array(COLOURS, np.uint8)[mask],
    "grey": lambda mask: np.array(GREYS, np.uint8)[mask],
}


def draw(root, photographs, masks, names, *, format, image, mask, name, kind, good=None, **more):
    """Image and mask files, one mask an image. image, mask, name: templates of their paths and of the sample's name.

    good: {image: name} of defect-free images. more: types (instead of names), parts, regex (of the type), and colour (a
    template, for coloured masks beside those of indices).
    """
    types, parts = more.get("types", names), more.get("parts", ("val", "train"))
    typed = "{type}" in name or "regex" in more or format == "flat"
    label_map = numbered(types if typed else ["defect"]) if kind in BINARY_KINDS else None
    found = Expected(format, label_map, set((good or {}).values()), Options(type_regex=more.get("regex")))
    if kind in ("colour", "grey"):
        colours = COLOURS if kind == "colour" else [(grey,) * 3 for grey in GREYS]
        found.options, found.label_map = Options(colormap=dict(zip(names, colours[1:], strict=True))), numbered(names)
    for i, (photograph, drawn) in enumerate(zip(photographs, masks, strict=True)):
        own, part = types[i % len(types)], parts[i % 2]
        words = {"type": own, "Type": own.title(), "part": part, "Part": part.title(), "i": i, "back": 9 - i}
        path = root / mask.format(**words)
        save(root / image.format(**words), photograph)
        save(path, MASK_KINDS[kind](drawn))
        if "colour" in more:
            save(root / more["colour"].format(**words), MASK_KINDS["colour"](drawn))
        if kind in BINARY_KINDS:
            index = label_map[own] if typed else 1
            drawn = index * (np.array(Image.open(path).convert("L")) > 127).astype(np.uint8)
        exact = None if image.endswith("jpg") else photograph
        found.add(name.format(**words), drawn, exact, part if "art}" in image else None)
    for path in good or {}:
        save(root / path, photographs[0])
        if "Imgs" in path:  # magnetic tile has empty masks there
            save(root / path.replace("jpg", "png"), np.zeros(SIZE, np.uint8))
    return found


def draw_mask_folder_per_type(root, photographs, masks, names):
    """images/x.png, and masks/<type>/x.png for each type that occurs in it; the last image has none."""
    found = Expected("images_masks", numbered(names), {"last"})
    for i, (photograph, mask) in enumerate(zip(photographs, masks, strict=True)):
        save(root / f"images/{i}.png", photograph)
        for index, name in enumerate(names, 1):
            if (mask == index).any():
                save(root / f"masks/{name}/{i}.png", black_and_white(mask == index))
        found.add(f"{i}", mask, photograph)
    save(root / "images/last.png", photographs[0])
    return found


def row_runs(region: np.ndarray) -> Iterator[tuple[int, int, int]]:
    """(y, first x, x beyond) of the runs in the rows of bool [H, W]."""
    steps = np.diff(np.pad(region, ((0, 0), (1, 1))).astype(int))
    for (y, left), (_, right) in zip(np.argwhere(steps == 1).tolist(), np.argwhere(steps == -1).tolist(), strict=True):
        yield y, left, right


def segmentation(region: np.ndarray, kind: str) -> Any:
    """COCO's `segmentation` of bool [H, W]; kind "polygon", "rle" or "compressed"."""
    if kind == "polygon":
        return [[x1, y, x2, y, x2, y + 1, x1, y + 1] for y, x1, x2 in row_runs(region)]
    pixels = region.T.ravel()
    starts = [0, *(np.flatnonzero(np.diff(pixels)) + 1).tolist(), pixels.size]
    rle = {"size": list(region.shape), "counts": [0] * bool(pixels[0]) + np.diff(starts).tolist()}
    if kind == "compressed":
        rle["counts"] = coco_rle.frPyObjects(rle, *region.shape)["counts"].decode()
    return rle


def draw_coco(root, photographs, masks, names, *, kind, arrangement):
    """arrangement: "vision" (train/, val/ with the same file names), "annotations" (beside images/<part>/), "single".

    Category ids are not contiguous and one is not used; several annotations belong to an image, to the last one none.
    """
    found = Expected("coco", numbered(names))
    parts = [None] if arrangement == "single" else ["train", "val"]
    half = len(masks) // len(parts)
    for p, part in enumerate(parts):
        path, home = {
            "vision": (f"{part}/_annotations.coco.json", f"{part}/"),
            "annotations": (f"annotations/instances_{part}.json", f"images/{part}/"),
            "single": ("result.json", "images/"),
        }[arrangement]
        categories = [{"id": k, "name": name} for k, name in zip((0, *CATEGORY_IDS), ("all", *names), strict=True)]
        content = {"images": [], "annotations": [], "categories": categories}
        for number, i in enumerate([*range(p * half, (p + 1) * half), None]):
            file, key = f"{number:04}.png", 40 - number
            save(root / home / file, photographs[i or 0])
            content["images"].append({"id": key, "file_name": file, "height": SIZE[0], "width": SIZE[1]})
            name = f"{part}_{number:04}" if part else f"{number:04}"
            if i is None:
                found.good.add(name)
                continue
            found.add(name, masks[i], photographs[i], part)
            for index in set(np.unique(masks[i]).tolist()) - {0}:
                drawn = segmentation(masks[i] == index, kind)
                row = {"image_id": key, "category_id": CATEGORY_IDS[index - 1], "segmentation": drawn}
                content["annotations"].append({"id": len(content["annotations"]), **row})
        save(root / path, content)
    return found


def png_text(picture: np.ndarray) -> str:
    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, format="PNG")
    return base64.b64encode(buffer.getvalue()).decode()


def labelme_shapes(mask: np.ndarray, names: tuple[str, ...], kind: str) -> list[dict[str, Any]]:
    """labelme's shapes of an index mask: polygons through the outer pixels' centres, or bitmaps."""
    shapes = []
    for index in set(np.unique(mask).tolist()) - {0}:
        label, region = names[index - 1], mask == index
        if kind == "mask":
            (top, left), (bottom, right) = np.argwhere(region).min(0).tolist(), np.argwhere(region).max(0).tolist()
            bitmap = png_text(region[top : bottom + 1, left : right + 1])
            points = [[left, top], [right, bottom]]
            shapes.append({"label": label, "shape_type": "mask", "points": points, "mask": bitmap})
            continue
        for y, x1, x2 in row_runs(region):
            points = [[x1, y], [x2 - 1, y], [x2 - 1, y]]
            shapes.append({"label": label, "shape_type": "polygon", "points": points})
    return shapes


def draw_labelme(root, photographs, masks, names, *, kind="polygon", image="beside"):
    """image: "beside", "renamed" (imagePath is wrong), "embedded", "apart" (images/ and annotations/), "turned" (EXIF).

    The last file has no shapes; one has a shape that is to be ignored, and one erased by _background_.
    """
    found = Expected("labelme", numbered(names))
    annotations, images = (root / "annotations", root / "images") if image == "apart" else (root, root)
    for i, (photograph, mask) in enumerate(zip([*photographs, photographs[0]], [*masks, 0 * masks[0]], strict=True)):
        shapes = labelme_shapes(mask, names, kind)
        if i == 0:
            whole = {"shape_type": "rectangle", "points": [[-1, -1], [SIZE[1], SIZE[0]]]}
            erased = [{**whole, "label": label} for label in (names[0], "_background_")]
            shapes = [*erased, *shapes, {**whole, "label": "__ignore__"}]
        path = {"renamed": f"C:\\photographs\\{i + 1}.png", "apart": f"..\\images\\{i}.png"}.get(image, f"{i}.png")
        content = {"shapes": shapes, "imagePath": path, "imageHeight": SIZE[0], "imageWidth": SIZE[1]}
        if image == "embedded":
            content["imageData"] = png_text(photograph)
        elif image == "turned":
            exif = Image.Exif()
            exif[0x0112] = SHOWN_TURNED
            save(images / f"{i}.png", np.rot90(photograph).copy(), exif=exif)
        else:
            save(images / f"{i}.png", photograph)
        save(annotations / f"{i}.json", content)
        if mask.any():
            found.add(f"{i}", mask, photograph)
        else:
            found.good.add(f"{i}")
    return found


def pair(format, images, masks, below="", stem="{i:03}", ending="", suffix="png", kind="index", **more):
    """Two folders side by side. below: "{type}/" or "{part}/"."""
    image, mask = f"{images}/{below}{stem}.{suffix}", f"{masks}/{below}{stem}{ending}."
    mask += "jpg" if kind == "jpeg" else "png"
    name = f"{below}{stem}" if below == "{type}/" else stem
    return partial(draw, format=format, image=image, mask=mask, name=name, kind=kind, **more)


def typed(format, image, mask, name, **more):
    """Black and white masks, whose folders or names tell the type."""
    return partial(draw, format=format, image=image, mask=mask, name=name, kind="black_and_white", **more)


RELEASED = partial(pair, "released", "test", "converted_ground_truth")
SPECTRUM = partial(pair, "defect_spectrum", "image", "mask", ending="_mask")
OPEN = partial(pair, "images_masks", "images", "masks", stem="{i}", suffix="bmp")
MVTEC_GOOD = {f"{part}/good/000.png": f"good/{part}_000" for part in ("train", "test")}
MVTEC = partial(typed, "mvtec", "test/{type}/{i:03}.png", name="{type}/{i:03}", good=MVTEC_GOOD)
STEM = "exp{i}_num_{back}"
BESIDE = partial(typed, "type_folders", name=f"{{type}}/{STEM}")
DAGM = partial(
    typed, "dagm", "{Type}/{Part}/{i:04}.PNG", "{Type}/{Part}/Label/{i:04}_label.PNG", parts=("test", "train")
)
DAGM = partial(DAGM, name="{type}/{part}_{i:04}", good={"Class1/Train/0009.PNG": "good/class1_train_0009"})


def flat(stem: str, suffix: str, ending: str, **more):
    good = stem.format(type="good", i=99)
    files = (f"{stem}.{suffix}", f"{stem}{ending}.png", stem)
    return typed("flat", *files, good={f"{good}.{suffix}": good}, **more)


CASES: dict[str, Callable[..., Expected]] = {
    "released": RELEASED(below="{type}/", good={"test/good/000.png": "good/000"}),
    "released, flat and marked": RELEASED(ending="_mask"),
    "DS-MVTec rbg_mask": SPECTRUM(below="{type}/", colour="rbg_mask/{type}/{i:03}_rbg_mask.png"),
    "DS-DAGM": SPECTRUM(),
    "DS-Cotton-Fabric": SPECTRUM(stem="{i}_{back:04}_{type}", colour="rgb_mask/{i}_{back:04}_{type}_rgb_mask.png"),
    "DS-VISION, parts": SPECTRUM(below="{part}/"),
    "synthetic": pair("synthetic", "images", "masks_converted_dir", colour="masks/{i:03}_rgb_mask.png"),
    **{f"images_masks {kind}": OPEN(kind=kind) for kind in MASK_KINDS},
    **{f"images_masks {kind}, types": OPEN(kind=kind, below="{type}/") for kind in ("index", "palette", "one_bit")},
    "images_masks, regex": OPEN(kind="soft", stem="IMG{i}-{type}", regex=r"-(\w+)$"),
    "img_dir, ann_dir": pair("images_masks", "img_dir", "ann_dir", below="{part}/"),
    "imgs, masks": pair("images_masks", "imgs", "masks", kind="black_and_white"),
    "mask folder per type": draw_mask_folder_per_type,
    "mvtec": MVTEC(mask="ground_truth/{type}/{i:03}_mask.png"),
    "visa": MVTEC(mask="ground_truth/{type}/{i:03}.png"),
    "magnetic tile": BESIDE(
        image=f"MT_{{Type}}/Imgs/{STEM}.jpg", mask=f"MT_{{Type}}/Imgs/{STEM}.png", good={"MT_Free/Imgs/1.jpg": "good/1"}
    ),
    "type folders, marked": BESIDE(
        image=f"{{type}}/{STEM}.png", mask=f"{{type}}/{STEM}_mask.png", good={"good/1.png": "good/1"}
    ),
    "type folders, inside": BESIDE(
        image=f"{{type}}/images/{STEM}.png", mask=f"{{type}}/masks/{STEM}.png", good={"good/images/1.png": "good/1"}
    ),
    "flat, marked": flat("{type}_{i:03}", "png", "_mask"),
    "flat, jpg": flat("{type}{i:03}", "jpg", ""),
    "flat, regex": flat("IMG_{i}-{type}", "bmp", "_gt", regex=r"-(\w+)$"),
    "dagm, one class": DAGM(types=["class1"]),
    "dagm, classes": DAGM(types=["class1", "class2", "class3"]),
    "coco vision, polygon": partial(draw_coco, kind="polygon", arrangement="vision"),
    "coco annotations, rle": partial(draw_coco, kind="rle", arrangement="annotations"),
    "coco single, compressed": partial(draw_coco, kind="compressed", arrangement="single"),
    "labelme bitmaps": partial(draw_labelme, kind="mask"),
    **{f"labelme {at}": partial(draw_labelme, image=at) for at in ("beside", "renamed", "embedded", "apart", "turned")},
}
