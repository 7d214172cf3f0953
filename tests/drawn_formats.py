"""Small data sets drawn in every layout of pictures that users bring, each with what a reader should find in it.

`CASES[name](root, photographs, masks, names)` draws one below `root` and returns what is `Expected` of a reader. Masks
are index masks of the types `names`; in that of the i-th photograph type 1 + i % len(names) always occurs.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageFilter

from guided_diffusion.prepare.layouts import Options

SIZE = (40, 48)
NAMES = ("crack", "hole", "scratch")
COLOURS = ((0, 0, 0), (200, 30, 30), (30, 200, 30), (30, 30, 200))
GREYS = (0, 80, 160, 240)


@dataclass
class Expected:
    """What a reader should find. masks: index masks by sample name; images: where the file format keeps every pixel;
    good: names of the defect-free; parts: of samples that have one; options: what must be said."""

    format: str
    label_map: dict[str, int] | None
    masks: dict[str, np.ndarray] = field(default_factory=dict)
    images: dict[str, np.ndarray] = field(default_factory=dict)
    good: set[str] = field(default_factory=set)
    parts: dict[str, str] = field(default_factory=dict)
    options: Options = field(default_factory=Options)

    def add(self, name: str, mask: np.ndarray, image: np.ndarray | None, part: str | None = None) -> None:
        self.masks[name] = mask
        if image is not None:
            self.images[name] = image
        if part:
            self.parts[name] = part


def material(seed: int, count: int = 7) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Photographs uint8 [H, W, 3] and index masks uint8 [H, W] of up to three ellipses that do not touch."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[: SIZE[0], : SIZE[1]]
    photographs = [rng.integers(60, 190, (*SIZE, 3), dtype=np.uint8) for _ in range(count)]
    masks = []
    for i in range(count):
        mask = np.zeros(SIZE, np.uint8)
        for cell in range(1 + i % 3):
            centre_x, centre_y = 8 + 16 * cell + rng.integers(-1, 2), rng.integers(10, 30)
            radius_x, radius_y = rng.uniform(2, 6), rng.uniform(3, 9)
            inside = ((x - centre_x) / radius_x) ** 2 + ((y - centre_y) / radius_y) ** 2 <= 1
            mask[inside] = 1 + (i + cell) % len(NAMES)
        masks.append(mask)
    return photographs, masks


def numbered(names: Sequence[str]) -> dict[str, int]:
    return {name: index for index, name in enumerate(names, 1)}


def save(path: Path, picture: np.ndarray | Image.Image, **options: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    (picture if isinstance(picture, Image.Image) else Image.fromarray(picture)).save(path, **options)


def save_json(path: Path, content: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))


def black_and_white(mask: np.ndarray) -> np.ndarray:
    return np.where(mask > 0, 255, 0).astype(np.uint8)


def draw_index_pair(root, photographs, masks, names, *, format, folders, arrangement, ending="", colour=None):
    """Images and index masks in two folders. arrangement: "types", "flat", "named" (the type in the name), "parts"."""
    found = Expected(format, None)
    for i, (photograph, mask) in enumerate(zip(photographs, masks, strict=True)):
        type_name, part = names[i % len(names)], "train" if i % 2 else "val"
        stem = (
            f"{i}_{7 * i:04}_{type_name}" if arrangement == "named" else f"{i // 2 if arrangement == 'parts' else i:03}"
        )
        below = {"types": f"{type_name}/", "parts": f"{part}/"}.get(arrangement, "")
        save(root / folders[0] / f"{below}{stem}.png", photograph)
        save(root / folders[1] / f"{below}{stem}{ending}.png", mask)
        if colour:
            save(root / colour / f"{below}{stem}_{colour}.png", np.array(COLOURS, np.uint8)[mask])
        if arrangement == "parts":
            name = f"{part}_{stem}" if i < 6 else stem  # the seventh shares its name with none
            found.add(name, mask, photograph, part)
        else:
            found.add(below + stem, mask, photograph)
    if arrangement == "types":
        save(root / folders[0] / "good/000.png", photographs[0])
        found.good = {"good/000"}
    return found


def _soft(mask: np.ndarray) -> Image.Image:
    return Image.fromarray(black_and_white(mask)).filter(ImageFilter.GaussianBlur(1))


def _with_palette(mask: np.ndarray) -> Image.Image:
    image = Image.frombytes("P", mask.shape[::-1], mask.tobytes())
    image.putpalette([level for colour in COLOURS for level in colour])
    return image


MASK_KINDS: dict[str, Callable[[np.ndarray], Any]] = {
    "index": lambda mask: mask,
    "index16": lambda mask: mask.astype(np.uint16),
    "palette": _with_palette,
    "black_and_white": black_and_white,
    "one_bit": lambda mask: mask > 0,
    "soft": _soft,
    "jpeg": _soft,
    "colour": lambda mask: np.array(COLOURS, np.uint8)[mask],
    "grey": lambda mask: np.array(GREYS, np.uint8)[mask],
}


def draw_images_masks(root, photographs, masks, names, *, kind, arrangement="flat", folders=("images", "masks")):
    """Masks of any kind. arrangement: "flat", "types", "parts", "regex" (the type in the name)."""
    binary = kind in ("black_and_white", "one_bit", "soft", "jpeg")
    typed = arrangement in ("types", "regex")
    label_map = numbered(names if typed else ["defect"]) if binary else None
    found = Expected("images_masks", label_map)
    if kind in ("colour", "grey"):
        colours = COLOURS if kind == "colour" else [(grey,) * 3 for grey in GREYS]
        found.options = Options(colormap=dict(zip(names, colours[1:], strict=True)))
        found.label_map = numbered(names)
    if arrangement == "regex":
        found.options = Options(type_regex=r"-(\w+)$")
    for i, (photograph, mask) in enumerate(zip(photographs, masks, strict=True)):
        type_name, part = names[i % len(names)], "train" if i < 4 else "val"
        stem = f"IMG{i}-{type_name}" if arrangement == "regex" else f"{i}"
        below = {"types": f"{type_name}/", "parts": f"{part}/"}.get(arrangement, "")
        path = root / folders[1] / f"{below}{stem}.{'jpg' if kind == 'jpeg' else 'png'}"
        save(root / folders[0] / f"{below}{stem}.bmp", photograph)
        save(path, MASK_KINDS[kind](mask))
        if binary:
            index = label_map[type_name] if typed else 1
            mask = index * (np.array(Image.open(path).convert("L")) > 127).astype(np.uint8)
        name = f"{type_name}/{stem}" if arrangement == "types" else stem
        found.add(name, mask, photograph, part if arrangement == "parts" else None)
    return found


def draw_mask_folder_per_type(root, photographs, masks, names):
    """images/x.png, and masks/<type>/x.png for each type that occurs in it; the last image has none."""
    found = Expected("images_masks", numbered(names))
    for i, (photograph, mask) in enumerate(zip(photographs, masks, strict=True)):
        save(root / f"images/{i}.png", photograph)
        for index, name in enumerate(names, 1):
            if (mask == index).any():
                save(root / f"masks/{name}/{i}.png", black_and_white(mask == index))
        found.add(f"{i}", mask, photograph)
    save(root / "images/last.png", photographs[0])
    found.good = {"last"}
    return found


def draw_mvtec(root, photographs, masks, names, *, ending="_mask"):
    found = Expected("mvtec", numbered(names))
    for i, (photograph, mask) in enumerate(zip(photographs, masks, strict=True)):
        index = 1 + i % len(names)
        name = f"{names[index - 1]}/{i // len(names):03}"
        save(root / f"test/{name}.png", photograph)
        save(root / f"ground_truth/{name}{ending}.png", black_and_white(mask))
        found.add(name, index * (mask > 0).astype(np.uint8), photograph)
    for part in ("train", "test"):
        save(root / part / "good/000.png", photographs[0])
    found.good = {"good/train_000", "good/test_000"}
    return found


def draw_dagm(root, photographs, masks, names, *, classes):
    """Train and Test count both from 0001; the last image of each part has no mask."""
    types = [f"class{k}" for k in range(1, classes + 1)]
    found = Expected("dagm", numbered(types))
    for index, name in enumerate(types, 1):
        for part in ("Train", "Test"):
            folder = root / name.capitalize() / part
            for i in range(3):
                photograph, mask = photographs[i + index], masks[i + index]
                save(folder / f"{i:04}.PNG", photograph)
                if i < 2:
                    save(folder / f"Label/{i:04}_label.PNG", black_and_white(mask))
                    drawn = index * (mask > 0).astype(np.uint8)
                    found.add(f"{name}/{part.lower()}_{i:04}", drawn, photograph, part.lower())
                else:
                    found.good.add(f"good/{name}_{part.lower()}_{i:04}")
            (folder / "Label/Labels.txt").write_text("0001")
    return found


def draw_type_folders(root, photographs, masks, names, *, arrangement):
    """A folder per type. arrangement: "imgs" (jpg + png as magnetic tile), "marked" (+ _mask), "inside" (folders)."""
    found = Expected("type_folders", numbered(names))
    for i, (photograph, mask) in enumerate(zip(photographs, masks, strict=True)):
        index = 1 + i % len(names)
        name, stem = names[index - 1], f"exp{i}_num_{9 - i}"
        if arrangement == "imgs":
            image, drawn = f"MT_{name.capitalize()}/Imgs/{stem}.jpg", f"MT_{name.capitalize()}/Imgs/{stem}.png"
        elif arrangement == "marked":
            image, drawn = f"{name}/{stem}.png", f"{name}/{stem}_mask.png"
        else:
            image, drawn = f"{name}/images/{stem}.png", f"{name}/masks/{stem}.png"
        save(root / image, photograph)
        save(root / drawn, black_and_white(mask))
        lossless = image.endswith(".png")
        found.add(f"{name}/{stem}", index * (mask > 0).astype(np.uint8), photograph if lossless else None)
    good = {"imgs": "MT_Free/Imgs/1.jpg", "marked": "good/1.png", "inside": "good/images/1.png"}[arrangement]
    save(root / good, photographs[0])
    if arrangement == "imgs":  # magnetic tile has empty masks there
        save(root / "MT_Free/Imgs/1.png", np.zeros(SIZE, np.uint8))
    found.good = {"good/1"}
    return found


def draw_flat(root, photographs, masks, names, *, ending, suffix, stem, type_regex=None):
    """Images and masks in one folder; `stem` is a template of type name and number."""
    found = Expected("flat", numbered(names), options=Options(type_regex=type_regex))
    for i, (photograph, mask) in enumerate(zip(photographs, masks, strict=True)):
        index = 1 + i % len(names)
        name = stem.format(names[index - 1], i)
        save(root / f"{name}.{suffix}", photograph)
        save(root / f"{name}{ending}.png", black_and_white(mask))
        found.add(name, index * (mask > 0).astype(np.uint8), None if suffix == "jpg" else photograph)
    good = stem.format("good", 99)
    save(root / f"{good}.{suffix}", photographs[0])
    found.good = {good}
    return found


def _index_pairs():
    released = {"format": "released", "folders": ("test", "converted_ground_truth")}
    spectrum = {"format": "defect_spectrum", "folders": ("image", "mask"), "ending": "_mask"}
    synthetic = {"format": "synthetic", "folders": ("images", "masks_converted_dir")}
    yield "released", {**released, "arrangement": "types"}
    yield "released, flat and marked", {**released, "arrangement": "flat", "ending": "_mask"}
    yield "DS-MVTec rgb_mask", {**spectrum, "arrangement": "types", "colour": "rgb_mask"}
    yield "DS-MVTec rbg_mask", {**spectrum, "arrangement": "types", "colour": "rbg_mask"}
    yield "DS-DAGM", {**spectrum, "arrangement": "flat"}
    yield "DS-Cotton-Fabric", {**spectrum, "arrangement": "named", "colour": "rbg_mask"}
    yield "DS-VISION, flat", {**spectrum, "arrangement": "flat", "colour": "rbg_mask"}
    yield "DS-VISION, parts", {**spectrum, "arrangement": "parts", "colour": "rbg_mask"}
    yield "synthetic", {**synthetic, "arrangement": "flat", "colour": "masks"}


CASES = {name: partial(draw_index_pair, **options) for name, options in _index_pairs()}
CASES |= {f"images_masks {kind}": partial(draw_images_masks, kind=kind) for kind in MASK_KINDS}
for _kind in ("index", "palette", "black_and_white", "one_bit", "soft"):
    CASES[f"images_masks {_kind}, types"] = partial(draw_images_masks, kind=_kind, arrangement="types")
CASES |= {
    "images_masks, parts": partial(draw_images_masks, kind="index", arrangement="parts"),
    "images_masks, regex": partial(draw_images_masks, kind="soft", arrangement="regex"),
    "img_dir, ann_dir": partial(draw_images_masks, kind="index", arrangement="parts", folders=("img_dir", "ann_dir")),
    "imgs, masks": partial(draw_images_masks, kind="black_and_white", folders=("imgs", "masks")),
    "mask folder per type": draw_mask_folder_per_type,
    "mvtec": draw_mvtec,
    "visa": partial(draw_mvtec, ending=""),
    "dagm, one class": partial(draw_dagm, classes=1),
    "dagm, classes": partial(draw_dagm, classes=3),
    "magnetic tile": partial(draw_type_folders, arrangement="imgs"),
    "type folders, marked": partial(draw_type_folders, arrangement="marked"),
    "type folders, inside": partial(draw_type_folders, arrangement="inside"),
    "flat, marked": partial(draw_flat, ending="_mask", suffix="png", stem="{}_{:03}"),
    "flat, jpg": partial(draw_flat, ending="", suffix="jpg", stem="{}{:03}"),
    "flat, regex": partial(draw_flat, ending="_gt", suffix="bmp", stem="IMG_{1}-{0}", type_regex=r"-(\w+)$"),
}
