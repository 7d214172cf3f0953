"""As drawn_formats, for layouts whose masks are annotations in JSON files: COCO and labelme."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterator
from functools import partial
from typing import Any

import numpy as np
from drawn_formats import SIZE, Expected, numbered, save, save_json
from PIL import Image
from pycocotools import mask as coco_rle

SHOWN_TURNED = 6  # the EXIF orientation of images that are shown turned by 90 degrees clockwise
CATEGORY_IDS = (2, 5, 11)


def corners(region: np.ndarray) -> Iterator[list[tuple[int, int, int, int]]]:
    """Outlines of the parts of bool [H, W], without holes, along the pixels' sides: (x, y, way inwards dx, dy)."""
    padded = np.pad(region, 1)
    sides: dict[tuple[int, int], tuple[int, int]] = {}  # clockwise, from a place one step in a direction
    for y, x in np.argwhere(region).tolist():
        for (dx, dy), (left, top) in {(1, 0): (0, 0), (0, 1): (1, 0), (-1, 0): (1, 1), (0, -1): (0, 1)}.items():
            if not padded[y + 1 - dx, x + 1 + dy]:
                sides[x + left, y + top] = (dx, dy)
    while sides:
        (x, y), before = next(iter(sides)), (0, -1)  # the upper left corner of the topmost pixel
        outline = []
        while (x, y) in sides:
            way = sides.pop((x, y))
            if way != before:
                outline.append((x, y, -before[1] - way[1], before[0] + way[0]))
            x, y, before = x + way[0], y + way[1], way
        yield outline


def segmentation(region: np.ndarray, kind: str) -> Any:
    """COCO's `segmentation` of bool [H, W]; kind "polygon", "rle" or "compressed"."""
    if kind == "polygon":
        return [[value for x, y, _, _ in outline for value in (x, y)] for outline in corners(region)]
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
    half = len(masks) if arrangement == "single" else len(masks) // 2
    for p, part in enumerate(parts):
        folder, home = {
            "vision": (f"{part}/_annotations.coco.json", f"{part}/"),
            "annotations": (f"annotations/instances_{part}.json", f"images/{part}/"),
            "single": ("result.json", "images/"),
        }[arrangement]
        content = {"images": [], "annotations": [], "categories": [{"id": 0, "name": "all"}]}
        content["categories"] += [{"id": k, "name": name} for k, name in zip(CATEGORY_IDS, names, strict=True)]
        chosen = range(p * half, (p + 1) * half)
        for number, i in enumerate([*chosen, None]):
            file = f"{number:04}.png"
            save(root / home / file, photographs[i or 0])
            height, width = SIZE
            image = {"id": 40 - number, "file_name": file, "height": height, "width": width}
            content["images"].append(image)
            name = f"{part}_{number:04}" if part else f"{number:04}"
            if i is None:
                found.good.add(name)
                continue
            found.add(name, masks[i], photographs[i], part)
            for index in set(np.unique(masks[i]).tolist()) - {0}:
                drawn = segmentation(masks[i] == index, kind)
                content["annotations"].append(
                    {
                        "id": len(content["annotations"]),
                        "image_id": image["id"],
                        "category_id": CATEGORY_IDS[index - 1],
                        "segmentation": drawn,
                    }
                )
        save_json(root / folder, content)
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
        for outline in corners(region):
            points = [[x + dx / 2 - 0.5, y + dy / 2 - 0.5] for x, y, dx, dy in outline]
            shapes.append({"label": label, "shape_type": "polygon", "points": points})
    return shapes


def draw_labelme(root, photographs, masks, names, *, kind="polygon", image="beside"):
    """image: "beside", "renamed" (imagePath is wrong), "embedded", "apart" (images/ and annotations/), "turned" (EXIF).

    The last file has no shapes; one has a shape that is to be ignored, and one erased by _background_.
    """
    found = Expected("labelme", numbered(names))
    for i, (photograph, mask) in enumerate(zip([*photographs, photographs[0]], [*masks, 0 * masks[0]], strict=True)):
        annotations, images = (root / "annotations", root / "images") if image == "apart" else (root, root)
        file = f"{i}.png"
        shapes = labelme_shapes(mask, names, kind)
        everything = [[-1, -1], [SIZE[1], SIZE[0]]]
        if i == 0:
            erased = [{"label": label, "shape_type": "rectangle", "points": everything} for label in names[:1]]
            shapes = [*erased, {**erased[0], "label": "_background_"}, *shapes]
            shapes.append({**erased[0], "label": "__ignore__"})
        content = {"shapes": shapes, "imagePath": file, "imageData": None}
        content |= {"imageHeight": SIZE[0], "imageWidth": SIZE[1]}
        if image == "renamed":
            content["imagePath"] = f"C:\\photographs\\{i + 1}.png"
        if image == "apart":
            content["imagePath"] = f"..\\images\\{file}"
        if image == "embedded":
            content["imageData"] = png_text(photograph)
        elif image == "turned":
            exif = Image.Exif()
            exif[0x0112] = SHOWN_TURNED
            save(images / file, np.rot90(photograph).copy(), exif=exif)
        else:
            save(images / file, photograph)
        save_json(annotations / f"{i}.json", content)
        if mask.any():
            found.add(f"{i}", mask, photograph)
        else:
            found.good.add(f"{i}")
    return found


CASES = {
    f"coco {arrangement}, {kind}": partial(draw_coco, kind=kind, arrangement=arrangement)
    for kind, arrangement in [
        ("polygon", "vision"),
        ("rle", "annotations"),
        ("compressed", "single"),
        ("polygon", "single"),
    ]
}
CASES |= {
    f"labelme {image}": partial(draw_labelme, image=image)
    for image in ("beside", "renamed", "embedded", "apart", "turned")
}
CASES["labelme bitmaps"] = partial(draw_labelme, kind="mask")
