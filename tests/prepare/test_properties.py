"""Every layout, drawn at random: all comes back pixel for pixel, upright, under its type's name, or is refused. Where
one thing is done to a set, each photograph that comes out has its own mask, or one line names what is wrong.
(test_layouts.py damages JSON files.)"""

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
import pytest
from drawn_at_random import ENDINGS, Draw, prepared
from drawn_formats import PHOTOGRAPH, coded
from PIL import Image

from guided_diffusion.cli.prepare import main
from guided_diffusion.errors import InputError
from guided_diffusion.prepare.layouts import FORMATS

DRAWS = 2000
MEMORY = "/dev/shm" if os.path.isdir("/dev/shm") else None


def accepted(layout: str, seed: int, root: Path) -> bool:
    """Whether a draw was prepared, as it must be, and not refused, as it may be."""
    draw = Draw(layout, seed, root / "in")
    try:
        with redirect_stdout(io.StringIO()):
            main([str(root / "in"), str(root / "out"), "--keep_good", "--workers", "1", *draw.args])
    except InputError as error:
        assert draw.excuses and "\n" not in str(error), f"refused: {error}"
        return False
    found = prepared(root / "out")
    assert found.keys() == draw.expected.keys()
    for source, (pixels, regions, part) in draw.expected.items():
        image, own, folder = found[source]
        assert part in (None, folder), f"{source}: in {folder}"
        assert image.shape == pixels.shape, f"{source}: {image.shape} for {pixels.shape}"
        far = np.abs(image - pixels.astype(float)).max()
        assert far <= (0.51 if pixels.dtype == float else 0), f"{source}: pixels differ by {far}"
        assert (own is None) == (regions is None), f"{source}: defect-free or not"
        own = {draw.fold(name): region for name, region in (own or {}).items()}
        regions = {draw.fold(name): region for name, region in (regions or {}).items()}
        assert own.keys() == regions.keys(), f"{source}: shows {[*own]} for {[*regions]}"
        for name, region in regions.items():
            assert np.array_equal(own[name], region), f"{source}: {name} has {own[name].sum()} px of {region.sum()}"
    return True


@pytest.mark.parametrize("layout", FORMATS)
def test_draws_come_back_or_are_refused_with_reason(layout):
    """SEED=17 in the environment runs one draw alone."""
    seeds = [int(os.environ["SEED"])] if "SEED" in os.environ else range(-(-DRAWS // len(FORMATS)))
    wrong, count = [], 0
    for seed in seeds:
        with tempfile.TemporaryDirectory(dir=MEMORY) as folder:
            try:
                count += accepted(layout, seed, Path(folder))
            except Exception as error:
                wrong.append(f"layout {layout}, SEED={seed}: {type(error).__name__}: {str(error).splitlines()[0]}")
    assert not wrong, "\n".join(wrong)
    assert count >= 0.5 * len(seeds) or len(seeds) == 1


GARBAGE = [b"", b"not an image", b"<html></html>", bytes(200), b"{}", b"[]", b"null", b"\xff\xd8\xff", b"\x89PNG\r\n"]
LUMA = (0.299, 0.587, 0.114)


class Sound:
    """A set of files of which each tells what it is: no photograph of 16 bits or turned, no two of one name."""

    def __init__(self, rng: random.Random, root: Path):
        while True:
            shutil.rmtree(root, ignore_errors=True)
            self.draw = draw = Draw(rng.choice(FORMATS), rng.randrange(10**6), root)
            small = any(min(pixels.shape[:2]) < 8 for pixels, *_ in draw.expected.values())
            if not (draw.excuses or draw.turns or draw.deep or draw.twins or small):
                break
        self.files = {str(path.relative_to(root)): path.read_bytes() for path in root.rglob("*.*") if path.is_file()}
        # Pillow misreads 0 and 1 in a BMP.
        paths = (path for path in (*draw.expected, *draw.masks.values()) if not path.lower().endswith(".bmp"))
        self.pictures = list(paths) or list(draw.expected)
        tables = [path for path in self.files if path.endswith(".json") and path != "dataset.json"]
        self.telling = self.pictures + tables  # in others a part is as good as the whole

    def open(self, path: str) -> Image.Image:
        return Image.open(io.BytesIO(self.files[path]))


# What is done to a set, as chance decides: the files that change, {path: content, None: the file is gone}, a new one
# first; nothing where it does not apply.
def damaged(sound, rng):
    """Cut off, one to four bytes of a picture overwritten, or other content altogether."""
    path, kind = rng.choice(sound.telling), rng.randrange(3)
    content = sound.files[path]
    if kind == 0:
        return {path: rng.choice(GARBAGE)}
    if kind == 1 or not path.lower().endswith(".png"):  # no other format tells that a level is another
        return {path: content[: rng.randrange(len(content) - 1)]}
    data = bytearray(content)
    for _ in range(rng.randint(1, 4)):
        data[rng.randrange(len(data))] = rng.randrange(256)
    return {path: bytes(data)}


def another_mode(sound, rng):
    path, mode = rng.choice(sound.pictures), rng.choice(["P", "RGBA", "LA", "L", "RGB", "I;16", "CMYK", "F"])
    picture = sound.open(path)
    if picture.mode == "RGB" and path in sound.draw.masks.values() and mode not in ("RGBA", "RGB", "CMYK"):
        return {}  # would lose the colours
    picture = picture.convert({"I;16": "L", "F": "L", "CMYK": "RGB"}.get(mode, picture.mode))
    picture = Image.fromarray(np.asarray(picture).astype(np.uint16)) if mode == "I;16" else picture.convert(mode)
    return {path: coded(picture, "tif" if mode in ("CMYK", "F") else "png")}


def wrong_size(sound, rng):
    drawn = [source for source, (_, regions, _) in sound.draw.expected.items() if regions is not None]
    picture = sound.open(path := rng.choice([*drawn, *sound.draw.masks.values()]))
    size = tuple(side + rng.randint(-5, 5) for side in picture.size)
    if size == picture.size or sound.draw.layout in ("yolo", "severstal"):  # which do not say it
        return {}
    return {path: coded(picture.resize(size, Image.Resampling.NEAREST), picture.format)}


def renamed(sound, rng):
    """A file under another name, in another folder of the set, or hidden."""
    path = rng.choice(sound.telling)
    stem, suffix = os.path.splitext(os.path.basename(path))
    forms = ["{0}x{1}", "x{0}{1}", "{0} {1}", "{0}.bak", "{0}_{1}", "0{0}{1}", "{0}.old{1}", ".{0}{1}", "{0}.PNG"]
    folder, form = rng.choice([(rng.choice(sound.telling), "{0}{1}"), (path, rng.choice(forms))])
    return {os.path.join(os.path.dirname(folder), form.format(stem, suffix)): sound.files[path], path: None}


def swapped(sound, rng):
    """Image and mask exchanged, of one photograph or of all."""
    pairs = [pair for pair in sound.draw.masks.items() if sound.open(pair[0]).mode != "P"]  # may be a mask
    chosen = rng.choice([pairs, pairs[:1], pairs[-1:]])
    return {one: sound.files[other] for pair in chosen for one, other in (pair, pair[::-1])}


def equal_stems(sound, rng):
    """Another picture under the same stem with another suffix."""
    stem, suffix = os.path.splitext(rng.choice(sound.pictures))[0], rng.choice(["jpg", "bmp", "tif", "webp", "PNG"])
    return {f"{stem}.{suffix}": coded(Image.fromarray(PHOTOGRAPH), suffix)}


def second_mask(sound, rng):
    """Another file that could be the mask."""
    masks = list(sound.draw.masks.values())
    if not masks:
        return {}
    stem, suffix = os.path.splitext(rng.choice(masks))
    ending = rng.choice([*ENDINGS, "_rgb_mask"])
    return {f"{stem.removesuffix('_mask')}{ending}{suffix}": sound.files[rng.choice(masks)]}


def link(sound, rng):
    """A link to itself, to nothing or to a folder, in place of a file or beside one."""
    path = rng.choice(sound.telling)
    if rng.random() < 0.5:
        return {path: b"LINK:" + rng.choice([os.path.basename(path), "nowhere.png", "."]).encode()}
    path = os.path.join(os.path.dirname(path), rng.choice(["loop", "loop.png", "zzz", "crack"]))
    taken = any(other.startswith(path) for other in sound.files)
    return {} if taken else {path: b"LINK:" + rng.choice(["..", ".", "../..", "loop", "nowhere"]).encode()}


CORRUPTIONS = [damaged, another_mode, wrong_size, renamed, swapped, equal_stems, second_mask, link]
ADDING = (renamed, equal_stems, second_mask)  # which must take no name that is there
COUNT = 90 * len(CORRUPTIONS)


def write(root: Path, changes: dict[str, bytes | None]) -> None:
    for path, data in changes.items():
        (root / path).unlink(missing_ok=True)
        if data is not None and data.startswith(b"LINK:"):
            (root / path).symlink_to(data[5:].decode())
        elif data is not None:
            (root / path).write_bytes(data)


def judge(out: Path, draw: Draw) -> str:
    """ "right" where every image that came out has its own mask."""
    found = prepared(out)
    for source, (image, own, _) in found.items():
        seen = [(pixels, regions) for pixels, regions, _ in draw.expected.values() if pixels.shape == image.shape]
        errors = [np.abs((pixels - image.astype(float)) @ LUMA).mean() for pixels, _ in seen]
        if not errors or min(errors) > 25:
            return f"unknown image {source}"
        regions = seen[int(np.argmin(errors))][1]
        if own is None and (regions is None or draw.free):
            continue
        own, regions = ({draw.fold(name): one for name, one in (some or {}).items()} for some in (own, regions))
        if own.keys() != regions.keys() or not all(np.array_equal(own[name], regions[name]) for name in own):
            return f"wrong mask for {source}"
    return "right" if found else "nothing came out"


def verdict(number: int, root: Path) -> tuple[str, str]:
    """Outcome of one case, "right", "line" or what is wrong; and which case it is."""
    rng, corrupt, changes = random.Random(number), CORRUPTIONS[number % len(CORRUPTIONS)], {}
    source, out = root / "source", root / "out"
    while not changes:  # until it applies
        sound = Sound(rng, source)
        changes = corrupt(sound, rng)
        if corrupt in ADDING and next(iter(changes), None) in sound.files:
            changes = {}
    write(source, changes)
    try:
        main([str(source), str(out), "--keep_good", "--workers", "1", *sound.draw.args])
        outcome = judge(out, sound.draw)
    except InputError as error:
        text = str(error)
        named = any(name in text for name in (str(source), "--", "SOURCE"))
        outcome = "line" if named and "\n" not in text and not out.exists() else f"bad line, or files left: {text}"
    except BaseException as error:
        outcome = f"{type(error).__name__}: {error}"
    return outcome, f"{corrupt.__name__} of {sound.draw.layout}, case {number}"


def test_no_corruption_gives_a_traceback_or_a_wrong_pair(monkeypatch):
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)  # thousands of small files
    results = []
    with warnings.catch_warnings(), redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):
        warnings.simplefilter("error")  # a warning on stderr is a line nobody asked for
        warnings.simplefilter("ignore", DeprecationWarning)  # Python shows none of a library's
        for number in range(COUNT):
            with tempfile.TemporaryDirectory(dir=MEMORY) as folder:
                results.append(verdict(number, Path(folder)))
    outcomes = Counter(outcome for outcome, _ in results)
    wrong = [f"{what}: {outcome}" for outcome, what in results if outcome not in ("right", "line")]
    assert not wrong, "\n".join([f"{len(wrong)} of {len(results)}", *wrong[:20]])
    # Both happen often, so that neither refusing everything nor taking everything would pass.
    assert outcomes["right"] > COUNT / 6 and outcomes["line"] > COUNT / 3
