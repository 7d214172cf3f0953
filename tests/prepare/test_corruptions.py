"""Damaged data sets: prepare_data.py gives the right pairs, or one line that names what is wrong.

One thing is done to a set of drawn_formats; then the command runs. Where it succeeds, each photograph that came out has
its own mask. (test_layouts.py damages JSON files; test_properties.py draws sound sets.)
"""

import io
import os
import random
import shutil
import tempfile
import warnings
from collections import Counter
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path

import numpy as np
from drawn_formats import CASES, COLOURMAP, PHOTOGRAPHS, coded
from PIL import Image

from guided_diffusion.cli.prepare import main
from guided_diffusion.errors import InputError

LUMA = (0.299, 0.587, 0.114)


class Layout:
    """A sound data set: its files, which of them are images and their masks, and what these show."""

    def __init__(self, name: str):
        with tempfile.TemporaryDirectory() as folder:
            rows = CASES[name](Path(folder))
            self.files = {str(path.relative_to(folder)): path.read_bytes() for path in Path(folder).rglob("*.*")}
        self.name, self.images, self.masks = name, [row[0] for row in rows], [row[1] for row in rows]
        self.drawn = [row[2:] for row in rows]
        named = [f"{own}={','.join(map(str, colour))}" for own, colour in COLOURMAP.items()]
        self.flags = ["--colormap", *named] if name == "colours" else []
        self.paths = sorted(self.files)
        self.pictures = [path for path in self.images + self.masks if not path.endswith(".json")]

    def open(self, path: str) -> Image.Image:
        return Image.open(io.BytesIO(self.files[path]))


LAYOUTS = [Layout(name) for name in CASES]
GARBAGE = [b"", b"not an image", b"<html></html>", bytes(200), b"{}", b"[]", b"null", b"\xff\xd8\xff", b"\x89PNG\r\n"]


# What is done to a layout, as chance decides: the files that change, {path: content, None: the file is gone}. None, or
# a file that is there already: it does not apply.
def damaged(layout, rng):
    """Cut off, one to four bytes of a picture overwritten, or other content altogether."""
    path, kind = rng.choice(layout.paths), rng.randrange(3)
    content = layout.files[path]
    if kind == 0:
        return {path: rng.choice(GARBAGE)}
    if kind == 1 or path.endswith(".json"):  # in which another level or corner is as good as the true one
        return {path: content[: rng.randrange(len(content))]}
    data = bytearray(content)
    for _ in range(rng.randint(1, 4)):
        data[rng.randrange(len(data))] = rng.randrange(256)
    return {path: bytes(data)}


def another_mode(layout, rng):
    path, mode = rng.choice(layout.pictures), rng.choice(["P", "RGBA", "LA", "L", "RGB", "I;16", "CMYK", "F"])
    picture = layout.open(path)
    if picture.mode == "RGB" and path in layout.masks and mode not in ("RGBA", "RGB", "CMYK"):
        return None  # would lose the colours
    picture = picture.convert("L") if mode in ("I;16", "F") else picture
    picture = Image.fromarray(np.asarray(picture).astype(np.uint16)) if mode == "I;16" else picture.convert(mode)
    return {path: coded(picture, "tif" if mode in ("CMYK", "F") else "png")}


def wrong_size(layout, rng):
    picture = layout.open(path := rng.choice(layout.pictures))
    size = tuple(side + rng.randint(-5, 5) for side in picture.size)
    return {path: coded(picture.resize(size, Image.Resampling.NEAREST), "png")} if size != picture.size else None


def renamed(layout, rng):
    """A file under another name, in another folder of the set, or hidden."""
    path = rng.choice(layout.paths)
    stem, suffix = os.path.splitext(os.path.basename(path))
    forms = ["{0}x{1}", "x{0}{1}", "{0} {1}", "{0}.bak", "{0}_{1}", "0{0}{1}", "{0}.old{1}", ".{0}{1}", "{0}.PNG"]
    folder, form = rng.choice([(rng.choice(layout.paths), "{0}{1}"), (path, rng.choice(forms))])
    return {os.path.join(os.path.dirname(folder), form.format(stem, suffix)): layout.files[path], path: None}


def swapped(layout, rng):
    """Image and mask exchanged, of one photograph or of all."""
    pairs = list(zip(layout.images, layout.masks, strict=True))
    chosen = rng.choice([pairs, [rng.choice(pairs)], [rng.choice(pairs)]])
    changes = {one: layout.files[other] for pair in chosen for one, other in (pair, pair[::-1])}
    return None if layout.masks[0].endswith(".json") else changes


def equal_stems(layout, rng):
    """Another picture under the same stem with another suffix."""
    stem, suffix = os.path.splitext(rng.choice(layout.pictures))[0], rng.choice(["jpg", "bmp", "tif", "webp", "PNG"])
    return {f"{stem}.{suffix}": coded(Image.fromarray(rng.choice(PHOTOGRAPHS)), suffix)}


def second_mask(layout, rng):
    """Another file that could be the mask."""
    stem, suffix = os.path.splitext(rng.choice(layout.masks))
    ending = rng.choice(["_mask", "_gt", "_label", "", "_rgb_mask"])
    return {f"{stem.removesuffix('_mask')}{ending}{suffix}": layout.files[rng.choice(layout.masks)]}


def link(layout, rng):
    """A link to itself, to nothing or to a folder, in place of a file or beside one."""
    path = rng.choice(layout.paths)
    if rng.random() < 0.5:
        return {path: b"LINK:" + rng.choice([os.path.basename(path), "nowhere.png", "."]).encode()}
    path = os.path.join(os.path.dirname(path), rng.choice(["loop", "loop.png", "zzz", "crack"]))
    taken = any(other.startswith(path) for other in layout.files)
    return None if taken else {path: b"LINK:" + rng.choice(["..", ".", "../..", "loop", "nowhere"]).encode()}


CORRUPTIONS = [damaged, another_mode, wrong_size, renamed, swapped, equal_stems, second_mask, link]
ADDING = (renamed, equal_stems, second_mask)  # which must take no name that is there
COUNT = 90 * len(CORRUPTIONS)


def write(root: Path, files: dict[str, bytes | None]) -> None:
    for path, data in files.items():
        if data is None:
            continue
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        if data.startswith(b"LINK:"):
            (root / path).symlink_to(data[5:].decode())
        else:
            (root / path).write_bytes(data)


def judge(out: Path, layout: Layout) -> str:
    """ "right" where every image that came out has its own mask."""
    greys = [drawn @ LUMA for drawn, _ in layout.drawn]
    paths = list(out.rglob("test/**/*.png"))
    for path in paths:
        grey = np.array(Image.open(path).convert("RGB")) @ LUMA
        mask = np.array(Image.open(str(path).replace("/test/", "/converted_ground_truth/")))
        errors = [np.abs(seen - grey).mean() if seen.shape == grey.shape else np.inf for seen in greys]
        k = int(np.argmin(errors))
        if errors[k] > 20:
            return f"unknown image {path.name}"
        if not np.array_equal(mask, layout.drawn[k][1]):
            return f"wrong mask for {path.name}, which is {layout.images[k]}"
    return "right" if paths else "nothing came out"


def verdict(number: int, root: Path) -> tuple[str, str]:
    """Outcome of one case, "right", "line" or what is wrong; and which case it is."""
    rng, corrupt, changes = random.Random(number), CORRUPTIONS[number % len(CORRUPTIONS)], None
    while not changes:  # until it applies
        layout = rng.choice(LAYOUTS)
        changes = corrupt(layout, rng)
        if corrupt in ADDING and next(iter(changes)) in layout.files:
            changes = None
    source, out = root / str(number) / "source", root / str(number) / "out"
    source.mkdir(parents=True)
    write(source, layout.files | changes)
    try:
        main([str(source), str(out), *layout.flags, "--workers", "1"])
        outcome = judge(out, layout)
    except InputError as error:
        text = str(error)
        named = any(name in text for name in (str(source), "--colormap", "SOURCE"))
        outcome = "line" if named and "\n" not in text and not out.exists() else f"bad line, or files left: {text}"
    except BaseException as error:
        outcome = f"{type(error).__name__}: {error}"
    if outcome in ("right", "line"):
        shutil.rmtree(source.parent)
    return outcome, f"{corrupt.__name__} of {layout.name}, case {number}"


def test_no_corruption_gives_a_traceback_or_a_wrong_pair(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)  # thousands of small files
    with warnings.catch_warnings(), redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):
        warnings.simplefilter("error")  # a warning on stderr is a line nobody asked for
        warnings.simplefilter("ignore", DeprecationWarning)  # Python shows none of a library's
        results = [verdict(number, tmp_path) for number in range(COUNT)]
    outcomes = Counter(outcome for outcome, _ in results)
    wrong = [f"{what}: {outcome}" for outcome, what in results if outcome not in ("right", "line")]
    assert not wrong, "\n".join([f"{len(wrong)} of {len(results)}", *wrong[:20]])
    # Both happen often, so that neither refusing everything nor taking everything would pass.
    assert outcomes["right"] > COUNT / 6 and outcomes["line"] > COUNT / 3
