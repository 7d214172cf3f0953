"""Small data sets drawn in every layout that users bring, each with what a reader should find in it.

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
import yaml
from PIL import Image, ImageFilter
from pycocotools import mask as coco_rle

from guided_diffusion.prepare.layouts import Options

SIZE = (40, 48)
NAMES = ("crack", "hole", "scratch")
LABEL_MAP = {name: index for index, name in enumerate(NAMES, 1)}
COLOURS = ((0, 0, 0), (200, 30, 30), (30, 200, 30), (30, 30, 200))
GREYS = (0, 80, 160, 240)
CATEGORY_IDS = (2, 5, 11)
SHOWN_TURNED = 6  # the EXIF orientation of images that are shown turned by 90 degrees clockwise


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


def draw(
    root, format, image, mask, name, kind, *, good=None, types=NAMES, parts=("val", "train"), regex=None, colour=None
):
    """Image and mask files, one mask an image. image, mask, name: templates of their paths and of the sample's name.

    kind: of MASK_KINDS. good: {image: name} of defect-free images. regex: of the type. colour: a template, for coloured
    masks beside those of indices.
    """
    typed, binary = "{type}" in name or regex or format == "flat", kind in BINARY_KINDS
    label_map = {name: index for index, name in enumerate(types if typed else ["defect"], 1)} if binary else None
    found = Expected(format, label_map, set((good or {}).values()), Options(type_regex=regex))
    if kind in ("colour", "grey"):
        colours = COLOURS if kind == "colour" else [(grey,) * 3 for grey in GREYS]
        found.options, found.label_map = Options(colormap=dict(zip(NAMES, colours[1:], strict=True))), LABEL_MAP
    for i, (photograph, drawn) in enumerate(zip(PHOTOGRAPHS, MASKS, strict=True)):
        own, part = types[i % len(types)], parts[i % 2]
        words = {"type": own, "Type": own.title(), "part": part, "Part": part.title(), "i": i, "back": 9 - i}
        path = root / mask.format(**words)
        save(root / image.format(**words), photograph)
        save(path, MASK_KINDS[kind](drawn))
        if colour:
            save(root / colour.format(**words), MASK_KINDS["colour"](drawn))
        if binary:
            drawn = (label_map[own] if typed else 1) * (np.array(Image.open(path).convert("L")) > 127).astype(np.uint8)
        found.samples[name.format(**words)] = photograph, drawn, part.removesuffix("ing") if "art}" in image else None
    for path in good or {}:
        save(root / path, PHOTOGRAPHS[0])
        if "Imgs" in path:  # magnetic tile has empty masks there
            save(root / path.replace("jpg", "png"), np.zeros(SIZE, np.uint8))
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


def draw_coco(root, kind, file, home, parts=("train", "val")):
    """file, home: of the annotations and images of a part. Category ids are not contiguous and one is not used; images
    have the same names in both parts; several annotations belong to an image, to the last one none."""
    found, half = Expected("coco", LABEL_MAP), len(MASKS) // len(parts)
    categories = [{"id": k, "name": name} for k, name in zip((0, *CATEGORY_IDS), ("all", *NAMES), strict=True)]
    for p, part in enumerate(parts):
        content = {"images": [], "annotations": [], "categories": categories}
        for number, i in enumerate([*range(p * half, (p + 1) * half), None]):
            key, name = 40 - number, f"{part}_{number:04}" if part else f"{number:04}"
            save(root / home.format(part) / f"{number:04}.png", PHOTOGRAPHS[i or 0])
            row = {"id": key, "file_name": f"{number:04}.png", "height": SIZE[0], "width": SIZE[1]}
            content["images"].append(row)
            if i is None:
                found.good.add(name)
                continue
            found.samples[name] = PHOTOGRAPHS[i], MASKS[i], part if part in ("train", "val") else None
            for type_, region in regions(MASKS[i]):
                row = {"id": len(content["annotations"]), "image_id": key, "segmentation": segmentation(region, kind)}
                content["annotations"].append({**row, "category_id": CATEGORY_IDS[NAMES.index(type_)]})
        save(root / file.format(part), content)
    return found


def draw_severstal(root, columns="ImageId,ClassId,EncodedPixels", home="train_images/"):
    """Runs counted from 1 down the columns. The last image shows nothing, in a row without runs where all have rows."""
    names = {f"class{index}": index for index in LABEL_MAP.values()}
    found, rows = Expected("severstal", names, {"last"}), [columns]
    for i, (photograph, mask) in enumerate(zip([*PHOTOGRAPHS, PHOTOGRAPHS[0]], [*MASKS, 0 * MASKS[0]], strict=True)):
        name = f"{i}" if mask.any() else "last"
        save(root / f"{home}{name}.png", photograph)
        for index in LABEL_MAP.values():
            runs = segmentation(mask == index, "rle")["counts"]
            starts = np.cumsum(runs)[:-1:2] + 1
            text = " ".join(f"{start} {length}" for start, length in zip(starts, runs[1::2], strict=True))
            if "_ClassId" in columns or text:
                rows.append(f"{name}.png{'_' if '_ClassId' in columns else ','}{index},{text}")
        if mask.any():
            found.samples[name] = photograph, mask, None
    (root / "train.csv").write_text("\n".join(rows) + "\n")
    save(root / "test_images/9.png", PHOTOGRAPHS[0])
    return found


def draw_hf(root):
    """As defect-gen export writes it: a part each for training and validation, and export.json."""
    found = Expected("hf", LABEL_MAP)
    for folder, part, numbers in (("train", "train", range(4)), ("validation", "val", range(4, 7))):
        rows = []
        for i in numbers:
            save(root / folder / f"{i}.png", PHOTOGRAPHS[i])
            save(root / folder / f"masks/{i}.png", with_palette(MASKS[i]))
            types = [name for name, _ in regions(MASKS[i])]
            rows.append({"file_name": f"{i}.png", "mask_file_name": f"masks/{i}.png", "types": types})
            found.samples[f"{i}"] = PHOTOGRAPHS[i], MASKS[i], part
        (root / folder / "metadata.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    save(root / "export.json", {"format": "hf", "label_map": LABEL_MAP, "files": {}})
    return found


def png_text(picture: np.ndarray) -> str:
    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, format="PNG")
    return base64.b64encode(buffer.getvalue()).decode()


def labelme_shapes(mask: np.ndarray, kind: str) -> Iterator[dict[str, Any]]:
    """labelme's shapes of an index mask: polygons through the outer pixels' centres, or bitmaps."""
    for label, region in regions(mask):
        if kind == "mask":
            points = [[2, 1], [SIZE[1] - 1, SIZE[0] - 1]]
            yield {"label": label, "shape_type": kind, "points": points, "mask": png_text(region[1:, 2:])}
        for y, x1, x2 in row_runs(region) if kind == "polygon" else ():
            yield {"label": label, "shape_type": kind, "points": [[x1, y], [x2 - 1, y], [x2 - 1, y]]}


def draw_labelme(root, kind="polygon", image="beside"):
    """image: "beside", "renamed" (imagePath is wrong), "embedded", "apart" (images/ and annotations/), "turned" (EXIF).

    The last file has no shapes; one has a shape that is to be ignored, and one erased by _background_.
    """
    found = Expected("labelme", LABEL_MAP, {f"{len(MASKS)}"})
    annotations, images = (root / "annotations", root / "images") if image == "apart" else (root, root)
    whole = {"shape_type": "rectangle", "points": [[-1, -1], [SIZE[1], SIZE[0]]]}
    for i, (photograph, mask) in enumerate(zip([*PHOTOGRAPHS, PHOTOGRAPHS[0]], [*MASKS, 0 * MASKS[0]], strict=True)):
        shapes = [*labelme_shapes(mask, kind)]
        if i == 0:
            first, second, last = ({**whole, "label": label} for label in (NAMES[0], "_background_", "__ignore__"))
            shapes = [first, second, *shapes, last]
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
            found.samples[f"{i}"] = photograph, mask, None
    return found


def draw_yolo(root, image="images/{part}/{i}.png", config="data.yaml", boxes=False, **content):
    """Outlines or boxes of the regions' rows; the last label file is empty, and one image has none."""
    found = Expected("yolo", LABEL_MAP, {"9"}, Options(boxes="fill" if boxes else "refuse"))
    where = {i: image.format(part=("train", "val")[i % 2], i=i) for i in (*range(len(MASKS)), 9, 11)}
    for i, path in where.items():
        photograph, mask = (PHOTOGRAPHS[i], MASKS[i]) if i < len(MASKS) else (PHOTOGRAPHS[0], 0 * MASKS[0])
        lines = []
        for label, region in regions(mask):
            for y, x1, x2 in row_runs(region):
                ring = [(x1 + x2) / 2, y + 0.5, x2 - x1, 1] if boxes else [x1, y, x2, y, x2, y + 1, x1, y + 1]
                lines.append(" ".join(f"{v:.6f}" for v in np.divide(ring, [SIZE[1], SIZE[0]] * (len(ring) // 2))))
                lines[-1] = f"{NAMES.index(label)} {lines[-1]}\n"
        save(root / path, photograph)
        if i != 11:
            save(root / path.replace("images/", "labels/").replace("png", "txt"), "".join(lines).encode())
        if mask.any():
            found.samples[f"{i}"] = photograph, mask, ("train", "val")[i % 2] if "part" in image else None
    text = "\n".join(NAMES) if config == "classes.txt" else yaml.safe_dump({"names": list(NAMES), **content})
    save(root / config, text.encode())
    for part, name in content.items():
        if str(name).endswith(".txt"):
            lines = [f"data/{path}\n" for i, path in where.items() if part == ("train", "val")[i % 2]]
            save(root / name, "".join(lines).encode())
    return found


def voc_colours(count: int = 256) -> np.ndarray:
    """uint8 [N, 3]: Pascal VOC's palette, built bit by bit as in its development kit."""
    colours = np.zeros((count, 3), np.uint8)
    for k in range(count):
        for j in range(8):
            colours[k] |= np.uint8(
                [(k >> 3 * j & 1) << 7 - j, (k >> 3 * j + 1 & 1) << 7 - j, (k >> 3 * j + 2 & 1) << 7 - j]
            )
    return colours


def draw_voc(root, kind="palette", names=None):
    """With void around the defects; the lists name all but the last. names: the file that names the types."""
    found = Expected("voc", LABEL_MAP if names else None)
    colours = voc_colours() if names != "labelmap.txt" else np.array([*COLOURS, *[(224, 224, 192)] * 252], np.uint8)
    for i, (photograph, mask) in enumerate(zip(PHOTOGRAPHS, MASKS, strict=True)):
        values = mask.copy()
        values[0] = 255
        picture = Image.fromarray(colours[values] if kind == "colour" else values)
        if kind == "palette":
            picture.putpalette(colours.tobytes())
        save(root / f"JPEGImages/{i}.bmp", photograph)
        save(root / f"SegmentationClass/{i}.png", picture)
        found.samples[f"{i}"] = photograph, mask, ("train", "val", "val")[i % 3] if i < 6 else None
    save(root / "JPEGImages/more.bmp", PHOTOGRAPHS[0])
    save(root / "ImageSets/Segmentation/train.txt", b"0\n3\n")
    save(root / "ImageSets/Segmentation/val.txt", b"1\n2\n4\n5\nmore\n")
    if names == "labelmap.txt":
        lines = [f"{name}:{','.join(map(str, colour))}::" for name, colour in zip(NAMES, COLOURS[1:], strict=True)]
        save(root / names, "\n".join(["# label:color_rgb:parts:actions", "background:0,0,0::", *lines]).encode())
    elif names:
        save(root / names, "\n".join(["__ignore__", "_background_", *NAMES]).encode())
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


def beside(image: str, mask: str, good: str):
    """Type folders with images and masks in them."""
    stem = "exp{i}_num_{back}"
    image, mask = image.replace("*", stem), mask.replace("*", stem)
    return typed("type_folders", image, mask, f"{{type}}/{stem}", good={good: "good/1"})


def draw_kolektor(image, mask, name, good):
    """good: name of a defect-free image, whose mask is black."""

    def draw_it(root):
        found = draw(root, "kolektor", image, mask, name, "black_and_white")
        for template, picture in ((image, PHOTOGRAPHS[0]), (mask, np.zeros(SIZE, np.uint8))):
            save(root / template.format(i=20, part="train"), picture)
        found.good.add(f"good/{good}")
        return found

    return draw_it


def flat(stem: str, suffix: str, ending: str, **more):
    good = stem.format(type="good", i=99)
    return typed("flat", f"{stem}.{suffix}", f"{stem}{ending}.png", stem, good={f"{good}.{suffix}": good}, **more)


RELEASED = partial(pair, "released", "test", "converted_ground_truth")
SPECTRUM = partial(pair, "defect_spectrum", "image", "mask", ending="_mask")
OPEN = partial(pair, "images_masks", "images", masks="masks", stem="{i}", suffix="bmp")
MVTEC_GOOD = {f"{part}/good/000.png": f"good/{part}_000" for part in ("train", "test")}
MVTEC = partial(typed, "mvtec", "test/{type}/{i:03}.png", name="{type}/{i:03}", good=MVTEC_GOOD)
DAGM_FILES = "{Type}/{Part}/{i:04}.PNG", "{Type}/{Part}/Label/{i:04}_label.PNG", "{type}/{part}_{i:04}"
DAGM = partial(
    typed, "dagm", *DAGM_FILES, parts=("test", "train"), good={"Class1/Train/0009.PNG": "good/class1_train_0009"}
)
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
    "magnetic tile": beside("MT_{Type}/Imgs/*.jpg", "MT_{Type}/Imgs/*.png", "MT_Free/Imgs/1.jpg"),
    "type folders, marked": beside("{type}/*.png", "{type}/*_mask.png", "good/1.png"),
    "type folders, inside": beside("{type}/images/*.png", "{type}/masks/*.png", "good/images/1.png"),
    "flat, marked": flat("{type}_{i:03}", "png", "_mask"),
    "flat, jpg": flat("{type}{i:03}", "jpg", ""),
    "flat, regex": flat("IMG_{i}-{type}", "bmp", "_gt", regex=r"-(\w+)$"),
    "dagm, one class": DAGM(types=["class1"]),
    "dagm, classes": DAGM(types=["class1", "class2", "class3"]),
    "coco in part folders": partial(draw_coco, kind="polygon", file="{}/_annotations.coco.json", home="{}"),
    "coco in annotations/": partial(draw_coco, kind="rle", file="annotations/instances_{}.json", home="images/{}"),
    "coco in one file": partial(draw_coco, kind="compressed", file="result.json", home="images", parts=(None,)),
    "coco of CVAT": partial(
        draw_coco, kind="polygon", file="annotations/instances_{}.json", home="images/{}", parts=("Default", "my_batch")
    ),
    "severstal": draw_severstal,
    "severstal, older": partial(draw_severstal, columns="ImageId_ClassId,EncodedPixels", home=""),
    "hf": draw_hf,
    "yolo": draw_yolo,
    "yolo, boxes": partial(draw_yolo, boxes=True, path="/content/set", train="images/train", val=["images/val"]),
    "yolo, roboflow": partial(draw_yolo, image="{part}/images/{i}.png", train="../train/images", val="../val/images"),
    "yolo, lists": partial(draw_yolo, path=".", train="train.txt", val="val.txt"),
    "yolo, classes.txt": partial(draw_yolo, image="images/{i}.png", config="classes.txt"),
    **{f"voc {kind}": partial(draw_voc, kind=kind) for kind in ("palette", "index", "colour")},
    "voc of CVAT": partial(draw_voc, kind="colour", names="labelmap.txt"),
    "voc of CVAT, palette": partial(draw_voc, names="labelmap.txt"),
    "voc of labelme": partial(draw_voc, names="class_names.txt"),
    "kolektor": draw_kolektor(
        "kos{i:02}/Part0.jpg", "kos{i:02}/Part0_label.bmp", "kos{i:02}_Part0", good="kos20_Part0"
    ),
    "kolektor 2": draw_kolektor("{part}/{i}.png", "{part}/{i}_GT.png", "{i}", good="20"),
    "ade": pair("images_masks", "images", "annotations", below="{part}/", parts=("training", "validation")),
    **{f"images, {name}": OPEN(masks=name) for name in ("labels", "label", "gt", "ground_truth", "annotations")},
    "Images, GT": pair("images_masks", "Images", "GT", kind="palette"),
    "part folders": typed("images_masks", "{part}/images/{i}.png", "{part}/masks/{i}.png", "{i}"),
    "anomalydiffusion": typed("type_folders", "{type}/image/{i}.jpg", "{type}/mask/{i}.jpg", "{type}/{i}"),
    "black and white in image, mask": typed("images_masks", "image/{i}.png", "mask/{i}.png", "{i}"),
    "labelme bitmaps": partial(draw_labelme, kind="mask"),
    **{f"labelme {at}": partial(draw_labelme, image=at) for at in ("beside", "renamed", "embedded", "apart", "turned")},
}
