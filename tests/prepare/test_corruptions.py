"""Two thousand damaged data sets: prepare_data.py gives the right pairs, or one line that names what is wrong.

Every set has four photographs of 14 x 18 pixels that differ in every pixel, each with one rectangle of a type. One
thing is done to it; then the command runs. Where it succeeds, each photograph that came out must have its own mask.
"""

from __future__ import annotations

import functools
import io
import itertools
import json
import os
import shutil
import unicodedata
import warnings
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from contextlib import redirect_stderr, redirect_stdout, suppress
from dataclasses import dataclass, field
from multiprocessing import get_context
from pathlib import Path

import numpy as np
from PIL import Image

from guided_diffusion.cli.prepare import main
from guided_diffusion.errors import InputError

COUNT = 2000
SIZE = (14, 18)
TYPES = ("crack", "hole")
Files = dict[str, bytes]


@functools.cache
def photograph(k: int) -> np.ndarray:
    """uint8 [H, W, 3]; the four are far apart in every pixel, and not symmetric."""
    y, x = np.mgrid[: SIZE[0], : SIZE[1]]
    levels = (40 * k + 3 * y + 5 * x + 11 * ((x * y + k) % 3)) % 200 + 25
    return np.stack([levels, (levels + 60) % 200 + 25, (levels * 2) % 200 + 25], axis=2).astype(np.uint8)


@functools.cache
def truth(k: int) -> np.ndarray:
    """The index mask of photograph k: one rectangle, not symmetric, another for each."""
    mask = np.zeros(SIZE, np.uint8)
    mask[1 + k : 5 + k, 2 + 2 * k : 9 + k] = 1 + k % 2
    return mask


def encoded(array: np.ndarray | Image.Image, kind: str = "PNG", **options: object) -> bytes:
    buffer = io.BytesIO()
    (array if isinstance(array, Image.Image) else Image.fromarray(array)).save(buffer, format=kind, **options)
    return buffer.getvalue()


@dataclass
class Layout:
    """A sound data set in one layout: its files, and which of them are photograph k and its mask."""

    name: str
    flags: tuple[str, ...] = ()
    files: Files = field(default_factory=dict)
    images: list[str] = field(default_factory=list)
    masks: list[str] = field(default_factory=list)

    def add(self, image: str, image_bytes: bytes, mask: str | None = None, mask_bytes: bytes = b"") -> None:
        self.files |= {image: image_bytes} | ({mask: mask_bytes} if mask else {})
        self.images.append(image)
        self.masks += [mask] if mask else []


def layouts() -> list[Layout]:
    """The layouts that are damaged."""
    released, mvtec, folders = Layout("released"), Layout("mvtec"), Layout("type_folders")
    colours = Layout("images_masks", ("--colormap", "crack=255,0,0", "hole=0,0,255"))
    coco, labelme, flat, index = Layout("coco"), Layout("labelme"), Layout("flat"), Layout("images_masks")
    palette = np.array([[0, 0, 0], [255, 0, 0], [0, 0, 255]], np.uint8)
    content = {"images": [], "annotations": [], "categories": [{"id": 7 + k, "name": n} for k, n in enumerate(TYPES)]}
    for k in range(4):
        photo, mask, name = encoded(photograph(k)), truth(k), TYPES[k % 2]
        binary = encoded((mask > 0).astype(np.uint8) * 255)
        released.add(f"test/{name}/{k}.png", photo, f"converted_ground_truth/{name}/{k}.png", encoded(mask))
        mvtec.add(f"test/{name}/{k:03}.png", photo, f"ground_truth/{name}/{k:03}_mask.png", binary)
        folders.add(f"MT_{name}/Imgs/e{k}.bmp", encoded(photograph(k), "BMP"), f"MT_{name}/Imgs/e{k}.png", binary)
        colours.add(f"images/{k}.png", photo, f"masks/{k}.png", encoded(palette[mask]))
        index.add(f"images/{k}.png", photo, f"masks/{k}_mask.png", encoded(mask))
        flat.add(f"{name}_{k}.png", photo, f"{name}_{k}_mask.png", binary)
        left, top, right, bottom = 2 + 2 * k, 1 + k, 9 + k, 5 + k  # of truth(k), the last two outside
        coco.add(f"train/{k}.png", photo)
        content["images"].append({"id": 10 + k, "file_name": f"{k}.png", "height": SIZE[0], "width": SIZE[1]})
        ring = [left, top, right, top, right, bottom, left, bottom]
        content["annotations"].append({"id": k, "image_id": 10 + k, "category_id": 7 + k % 2, "segmentation": [ring]})
        shape = {"label": name, "shape_type": "rectangle", "points": [[left, top], [right - 1, bottom - 1]]}
        about = {"shapes": [shape], "imagePath": f"p{k}.png", "imageHeight": SIZE[0], "imageWidth": SIZE[1]}
        labelme.add(f"p{k}.png", photo, f"p{k}.json", json.dumps(about).encode())
    coco.files["train/_annotations.coco.json"] = json.dumps(content).encode()
    return [released, mvtec, folders, colours, index, coco, labelme, flat]


LAYOUTS = layouts()


# What is done: (random numbers, layout, files) -> changes files in place. `Skip` where it does not apply.
class Skip(Exception):
    pass


def pick(rng: np.random.Generator, items: list[str]) -> str:
    if not items:
        raise Skip
    return items[int(rng.integers(len(items)))]


def picture_of(files: Files, path: str) -> Image.Image:
    if path.endswith(".json"):
        raise Skip
    return Image.open(io.BytesIO(files[path]))


def any_file(rng, layout, files):
    return pick(rng, sorted(files))


def truncated(rng, layout, files):
    path = any_file(rng, layout, files)
    files[path] = files[path][: int(rng.integers(len(files[path])))]


def damaged(rng, layout, files):
    """One to four bytes overwritten."""
    path = any_file(rng, layout, files)
    data = bytearray(files[path])
    for _ in range(int(rng.integers(1, 5))):
        data[int(rng.integers(len(data)))] = int(rng.integers(256))
    if path.endswith((".bmp", ".json")):
        raise Skip  # without checksums another level or corner is as good as the true one
    files[path] = bytes(data)


MODES = [(mode, "PNG") for mode in ("P", "RGBA", "LA", "L", "RGB", "I;16")] + [("CMYK", "TIFF"), ("F", "TIFF")]


def in_another_mode(picture: Image.Image, mode: str, kind: str) -> bytes:
    if mode == "I;16":
        return encoded(Image.fromarray(np.asarray(picture.convert("L")).astype(np.uint16)), kind)
    return encoded(picture.convert("L" if mode == "F" else picture.mode).convert(mode), kind)


def another_mode(rng, layout, files):
    path = pick(rng, layout.images + layout.masks)
    picture = picture_of(files, path)
    mode, kind = MODES[int(rng.integers(len(MODES)))]
    if path in layout.images:
        picture = picture.convert("RGB")
    elif picture.mode == "RGB" and mode in ("P", "L", "LA", "F", "I;16"):
        raise Skip  # would lose the colours
    files[path] = in_another_mode(picture, mode, kind)


def wrong_size(rng, layout, files):
    path = pick(rng, layout.images + layout.masks)
    picture = picture_of(files, path)
    width, height = (max(1, side + int(rng.integers(-5, 6))) for side in picture.size)
    if (width, height) == picture.size:
        width += 1
    files[path] = encoded(picture.resize((width, height), Image.Resampling.NEAREST), picture.format)


def exif(rng, layout, files):
    """An orientation in EXIF: the pixels stay, or are turned so that viewers show what was there before."""
    path = pick(rng, layout.images)
    orientation = int(rng.integers(1, 9))
    tag = Image.Exif()
    tag[0x0112] = orientation
    picture = picture_of(files, path).convert("RGB")
    if rng.random() < 0.5 or layout.name == "labelme":  # which is known to follow the tag
        undo = {2: 0, 3: 3, 4: 1, 5: 5, 6: 2, 7: 6, 8: 4}  # PIL's transpositions
        picture = picture.transpose(undo[orientation]) if orientation in undo else picture
    files[path] = encoded(picture, "PNG", exif=tag)


def renamed(rng, layout, files):
    path = any_file(rng, layout, files)
    folder, name = os.path.split(path)
    stem, suffix = os.path.splitext(name)
    forms = ["{0}x{1}", "x{0}{1}", "{0} {1}", "{0}.bak", "{0}_{1}", "0{0}{1}", "{0}.old{1}", ".{0}{1}", "{0}.PNG"]
    files[os.path.join(folder, pick(rng, forms).format(stem, suffix))] = files.pop(path)


def moved(rng, layout, files):
    """A file put into another folder of the set."""
    path = any_file(rng, layout, files)
    target = os.path.join(os.path.dirname(any_file(rng, layout, files)), os.path.basename(path))
    if target in files:
        raise Skip
    files[target] = files.pop(path)


def removed(rng, layout, files):
    del files[any_file(rng, layout, files)]


def swapped(rng, layout, files):
    """Image and mask exchanged, of one photograph or of all."""
    if not layout.masks or layout.name == "labelme":
        raise Skip
    chosen = range(4) if rng.random() < 0.3 else [int(rng.integers(4))]
    for k in chosen:
        image, mask = layout.images[k], layout.masks[k]
        files[image], files[mask] = files[mask], files[image]


GARBAGE = (
    b"",
    b"not an image",
    b"<html></html>",
    bytes(200),
    b"\xff\xd8\xff",
    b"{}",
    b"[]",
    b"null",
    b"\x89PNG\r\n\x1a\n",
)


def garbage(rng, layout, files):
    files[any_file(rng, layout, files)] = GARBAGE[int(rng.integers(len(GARBAGE)))]


def odd_names(rng, layout, files):
    """The whole set under names with spaces, accents, signs; accents of image and mask composed or not."""
    word = pick(rng, ["Bild é ", "图像 ", "a b  c ", "ü'%&#", "über-", "(1) ", "-n ", "$x"])
    if layout.name == "coco":
        raise Skip
    for path in sorted(files):
        folder, name = os.path.split(path)
        files[os.path.join(folder, unicodedata.normalize(pick(rng, ["NFC", "NFD"]), word) + name)] = files.pop(path)


def equal_stems(rng, layout, files):
    """Another picture under the same stem with another suffix."""
    path = pick(rng, layout.images + layout.masks)
    if path.endswith(".json"):
        raise Skip
    kinds = {".jpg": "JPEG", ".bmp": "BMP", ".tif": "TIFF", ".webp": "WEBP", ".PNG": "PNG"}
    suffix = pick(rng, list(kinds))
    twin = os.path.splitext(path)[0] + suffix
    if twin in files:
        raise Skip
    files[twin] = encoded(photograph(int(rng.integers(4))), kinds[suffix])


def second_mask(rng, layout, files):
    """Another file that could be the mask."""
    path = pick(rng, layout.masks)
    stem, suffix = os.path.splitext(path)
    twin = f"{stem.removesuffix('_mask')}{pick(rng, ['_mask', '_gt', '_label', '', '_rgb_mask'])}{suffix}"
    if twin in files:
        raise Skip
    files[twin] = files[pick(rng, layout.masks)]


def junk(rng, layout, files):
    """Files that operating systems leave behind."""
    folder = os.path.dirname(any_file(rng, layout, files))
    name = pick(rng, ["Thumbs.db", ".DS_Store", "._0.png", "desktop.ini", "notes.txt", "README.md"])
    files[os.path.join(folder, name)] = b"\x00\x05\x16\x07junk"


MISSING = object()


def edited_json(rng, layout, files):
    """A value of an annotation file dropped or replaced by another kind of value."""
    path = pick(rng, [path for path in sorted(files) if path.endswith(".json")])
    content = json.loads(files[path])
    places = []

    def walk(value):
        for key, inner in value.items() if isinstance(value, dict) else enumerate(value):
            places.append((value, key))
            if isinstance(inner, (dict, list)):
                walk(inner)

    walk(content)
    owner, key = places[int(rng.integers(len(places)))]
    if isinstance(owner[key], (int, float)) and key in (0, 1, 2, 3, 4, 5, 6, 7):
        raise Skip  # another corner is as good as the true one
    if key in ("label", "name", "category_id", "shapes", "annotations", "segmentation", "shape_type", "image_id", "id"):
        choices = [None, [], {}, "", True]  # not another name: that is as good as the true one
    else:
        choices = [None, -1, 10**9, [], {}, "x", True, 1.5]
    owner[key] = (choices + [MISSING])[int(rng.integers(len(choices) + 1))]
    if owner[key] is MISSING:
        del owner[key]
    files[path] = json.dumps(content).encode()


def link(rng, layout, files):
    """A link to itself, to nothing or to a folder, in place of a file or beside one."""
    path = any_file(rng, layout, files)
    targets = [os.path.basename(path), "nowhere.png", "."]
    if rng.random() < 0.5:
        path = os.path.join(os.path.dirname(path), pick(rng, ["loop", "loop.png", "zzz", "crack"]))
        targets = ["..", ".", "../..", "loop", "nowhere"]
        if any(other.startswith(path) for other in files):
            raise Skip
    files[path] = b"LINK:" + pick(rng, targets).encode()


CORRUPTIONS: list[Callable] = [
    truncated, damaged, another_mode, wrong_size, exif, renamed, moved, removed, swapped, garbage, odd_names,
    equal_stems, second_mask, junk, edited_json, link,
]  # fmt: skip


def write(root: Path, files: Files) -> None:
    for path, data in files.items():
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        if data.startswith(b"LINK:"):
            (root / path).symlink_to(data[5:].decode())
        else:
            (root / path).write_bytes(data)


def which(image: np.ndarray) -> tuple[int, int] | None:
    """(k, view) of the photograph that an image shows; view: one of eight turns and flips."""
    grey = image if image.ndim == 2 else image @ (0.299, 0.587, 0.114)
    views = {(k, v): viewed(photograph(k) @ (0.299, 0.587, 0.114), v) for k in range(4) for v in range(8)}
    errors = {key: np.abs(seen - grey).mean() for key, seen in views.items() if seen.shape == grey.shape}
    best = min(errors, key=errors.get, default=None)
    return best if best and errors[best] < 40 else None


def viewed(array: np.ndarray, view: int) -> np.ndarray:
    array = np.rot90(array, view % 4)
    return array[:, ::-1] if view >= 4 else array


def verdict(number: int, root: str) -> tuple[str, str, str]:
    """(corruption, outcome, what happened) of one case: outcome "right", "line", or what is wrong."""
    os.fsync = lambda descriptor: None  # thousands of small files
    warnings.simplefilter("error")  # a warning on stderr is a line nobody asked for
    warnings.simplefilter("ignore", DeprecationWarning)  # Python shows none of a library's
    rng = np.random.default_rng(number)
    corrupt = CORRUPTIONS[number % len(CORRUPTIONS)]
    while True:  # until it applies
        layout = LAYOUTS[int(rng.integers(len(LAYOUTS)))]
        files = dict(layout.files)
        with suppress(Skip, FileNotFoundError):
            corrupt(rng, layout, files)
            break
    source, out = Path(root, str(number), "source"), Path(root, str(number), "out")
    source.mkdir(parents=True)
    write(source, files)
    try:
        main([str(source), str(out), *layout.flags, "--workers", "1"])
        outcome = judge(out)
    except InputError as error:
        text = str(error)
        named = any(name in text for name in (str(source), "--colormap", "SOURCE"))
        outcome = "line" if named and "\n" not in text and not out.exists() else f"bad line, or files left: {text}"
    except BaseException as error:
        outcome = f"{type(error).__name__}: {error}"
    if outcome in ("right", "line"):
        shutil.rmtree(source.parent)
    return corrupt.__name__, outcome, f"{corrupt.__name__} of {layout.name} {layout.flags}, case {number}"


def judge(out: Path) -> str:
    """ "right" where every image that came out has its own mask."""
    paths = list(out.rglob("test/**/*.png"))
    for path in paths:
        mask_path = Path(str(path).replace("/test/", "/converted_ground_truth/"))
        image, mask = (np.array(Image.open(p)) for p in (path, mask_path))
        if (found := which(image)) is None:
            return f"unknown image {path.name}"
        k, view = found
        if not np.array_equal(mask > 0, viewed(truth(k), view) > 0) or (mask.max() != truth(k).max() and mask.any()):
            return f"wrong mask for {path.name}, which is photograph {k}"
    return "right" if paths else "nothing came out"


def run_chunk(numbers: list[int], root: str) -> list[tuple[str, str, str]]:
    with open(os.devnull, "w") as nowhere, redirect_stdout(nowhere), redirect_stderr(nowhere):
        return [verdict(number, root) for number in numbers]


def test_no_corruption_gives_a_traceback_or_a_wrong_pair(tmp_path):
    chunks = [list(range(start, COUNT, 8)) for start in range(8)]
    with ProcessPoolExecutor(2, mp_context=get_context("spawn")) as pool:
        results = list(itertools.chain.from_iterable(pool.map(run_chunk, chunks, [str(tmp_path)] * 8)))
    outcomes = Counter(outcome for _, outcome, _ in results)
    wrong = [f"{what}: {outcome}" for _, outcome, what in results if outcome not in ("right", "line")]
    assert not wrong, "\n".join([f"{len(wrong)} of {len(results)}", *wrong[:20]])
    assert len(results) == COUNT
    # Both happen often, so that neither refusing everything nor taking everything would pass.
    assert outcomes["right"] > COUNT / 6 and outcomes["line"] > COUNT / 3
    by_kind = Counter(kind for kind, outcome, _ in results)
    assert len(by_kind) == len(CORRUPTIONS) and min(by_kind.values()) == COUNT // len(CORRUPTIONS)


def test_sound_sets_come_out_right(tmp_path, capsys):
    for number, layout in enumerate(LAYOUTS):
        source, out = tmp_path / f"s{number}", tmp_path / f"o{number}"
        write(source, layout.files)
        main([str(source), str(out), *layout.flags])
        assert judge(out) == "right" and len(list(out.rglob("test/**/*.png"))) == 4
