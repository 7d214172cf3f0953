"""Damaged data sets: prepare_data.py gives the right pairs, or one line that names what is wrong.

One thing is done to a set of drawn_formats; then the command runs. Where it succeeds, each photograph that came out has
its own mask. (test_layouts.py damages JSON files; test_properties.py draws sound sets.)
"""

import io
import os
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


LAYOUTS = [Layout(name) for name in CASES]


class Skip(Exception):
    """What is drawn does not apply to this layout."""


class Draw:
    """A sound set to be damaged, and what chance decides."""

    def __init__(self, rng: np.random.Generator):
        self.rng = rng
        self.layout = self.pick(LAYOUTS)
        self.files = self.layout.files

    def below(self, limit: int) -> int:
        return int(self.rng.integers(limit))

    def pick(self, items):
        if not items:
            raise Skip
        return items[self.below(len(items))]

    def file(self) -> str:
        return self.pick(sorted(self.files))

    def picture(self, paths: list[str]) -> tuple[str, Image.Image]:
        path = self.pick([path for path in paths if not path.endswith(".json")])
        return path, Image.open(io.BytesIO(self.files[path]))

    def new(self, path: str) -> str:
        if path in self.files:
            raise Skip
        return path


GARBAGE = [b"", b"not an image", b"<html></html>", bytes(200), b"{}", b"[]", b"null", b"\xff\xd8\xff", b"\x89PNG\r\n"]


# What is done: returns the files that change, {path: content, None: the file is gone}.
def damaged(draw):
    """Cut off, one to four bytes of a picture overwritten, or other content altogether."""
    path, kind = draw.file(), draw.below(3)
    if kind == 0:
        return {path: draw.pick(GARBAGE)}
    if kind == 1 or path.endswith(".json"):  # in which another level or corner is as good as the true one
        return {path: draw.files[path][: draw.below(len(draw.files[path]))]}
    data = bytearray(draw.files[path])
    for _ in range(1 + draw.below(4)):
        data[draw.below(len(data))] = draw.below(256)
    return {path: bytes(data)}


def another_mode(draw):
    path, picture = draw.picture(draw.layout.images + draw.layout.masks)
    mode = draw.pick(["P", "RGBA", "LA", "L", "RGB", "I;16", "CMYK", "F"])
    if picture.mode == "RGB" and path in draw.layout.masks and mode not in ("RGBA", "RGB", "CMYK"):
        raise Skip  # would lose the colours
    picture = picture.convert("L") if mode in ("I;16", "F") else picture
    picture = Image.fromarray(np.asarray(picture).astype(np.uint16)) if mode == "I;16" else picture.convert(mode)
    return {path: coded(picture, "tif" if mode in ("CMYK", "F") else "png")}


def wrong_size(draw):
    path, picture = draw.picture(draw.layout.images + draw.layout.masks)
    width, height = (max(1, side + draw.below(11) - 5) for side in picture.size)
    if (width, height) == picture.size:
        raise Skip
    return {path: coded(picture.resize((width, height), Image.Resampling.NEAREST), picture.format)}


def renamed(draw):
    """A file under another name, in another folder of the set, or hidden."""
    path = draw.file()
    stem, suffix = os.path.splitext(os.path.basename(path))
    forms = ["{0}x{1}", "x{0}{1}", "{0} {1}", "{0}.bak", "{0}_{1}", "0{0}{1}", "{0}.old{1}", ".{0}{1}", "{0}.PNG"]
    folder, form = (draw.file(), "{0}{1}") if draw.below(2) else (path, draw.pick(forms))
    return {path: None, draw.new(os.path.join(os.path.dirname(folder), form.format(stem, suffix))): draw.files[path]}


def swapped(draw):
    """Image and mask exchanged, of one photograph or of all."""
    if draw.layout.masks[0].endswith(".json"):
        raise Skip
    pairs = list(zip(draw.layout.images, draw.layout.masks, strict=True))
    chosen = pairs if draw.below(3) == 0 else [draw.pick(pairs)]
    return {one: draw.files[other] for pair in chosen for one, other in (pair, pair[::-1])}


def equal_stems(draw):
    """Another picture under the same stem with another suffix."""
    path, _ = draw.picture(draw.layout.images + draw.layout.masks)
    suffix = draw.pick(["jpg", "bmp", "tif", "webp", "PNG"])
    return {draw.new(f"{os.path.splitext(path)[0]}.{suffix}"): coded(Image.fromarray(draw.pick(PHOTOGRAPHS)), suffix)}


def second_mask(draw):
    """Another file that could be the mask."""
    stem, suffix = os.path.splitext(draw.pick(draw.layout.masks))
    ending = draw.pick(["_mask", "_gt", "_label", "", "_rgb_mask"])
    return {draw.new(f"{stem.removesuffix('_mask')}{ending}{suffix}"): draw.files[draw.pick(draw.layout.masks)]}


def link(draw):
    """A link to itself, to nothing or to a folder, in place of a file or beside one."""
    path = draw.file()
    if draw.below(2):
        return {path: b"LINK:" + draw.pick([os.path.basename(path), "nowhere.png", "."]).encode()}
    path = os.path.join(os.path.dirname(path), draw.pick(["loop", "loop.png", "zzz", "crack"]))
    if any(other.startswith(path) for other in draw.files):
        raise Skip
    return {path: b"LINK:" + draw.pick(["..", ".", "../..", "loop", "nowhere"]).encode()}


CORRUPTIONS = [damaged, another_mode, wrong_size, renamed, swapped, equal_stems, second_mask, link]
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
    rng = np.random.default_rng(number)
    corrupt, changes = CORRUPTIONS[number % len(CORRUPTIONS)], None
    while changes is None:  # until it applies
        try:
            draw = Draw(rng)
            changes = corrupt(draw)
        except Skip:
            continue
    source, out = root / str(number) / "source", root / str(number) / "out"
    source.mkdir(parents=True)
    write(source, draw.files | changes)
    try:
        main([str(source), str(out), *draw.layout.flags, "--workers", "1"])
        outcome = judge(out, draw.layout)
    except InputError as error:
        text = str(error)
        named = any(name in text for name in (str(source), "--colormap", "SOURCE"))
        outcome = "line" if named and "\n" not in text and not out.exists() else f"bad line, or files left: {text}"
    except BaseException as error:
        outcome = f"{type(error).__name__}: {error}"
    if outcome in ("right", "line"):
        shutil.rmtree(source.parent)
    return outcome, f"{corrupt.__name__} of {draw.layout.name}, case {number}"


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
