"""What the tests of exports share: sets of images with masks that are hard to describe."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from guided_diffusion.cli.export import main
from guided_diffusion.generation.sample_io import SampleFolder
from scripts.draw_demo_data import write_released

TYPES = ("crack", "oil stain", "pit")
SIZE = (24, 36)
SETTINGS = {"seed": 7, "sampler": "ddim", "num_steps": 20, "checkpoints": {"large": "a" * 64, "small": None}}


@dataclass(frozen=True)
class Sets:
    """Folders; masks: the index mask of each image by its exported name; good: the names of defect-free images."""

    samples: str
    real: str
    val: str
    masks: dict[str, np.ndarray]
    good: tuple[str, ...] = ("real_good_whole", "real_good_whole2", "val_good_fine")


def export(sets: Sets, out: Path, form: str, *more: str) -> Path:
    """Export the samples, the real and, where the format has parts, the held-out images."""
    flags = ["--real", sets.real, *(["--val", sets.val] if form != "defect_spectrum" else []), *more]
    main([sets.samples, str(out), "--format", form, *flags])
    return out


def check(found: dict[str, np.ndarray], expected: dict[str, np.ndarray]) -> None:
    """That masks are the same, by name."""
    assert set(found) == set(expected)
    for name, mask in expected.items():
        assert np.array_equal(found[name], mask), name


def index_masks(count: int, seed: int) -> list[np.ndarray]:
    """Index masks of SIZE with all that is hard: the first empty, the second one type everywhere."""
    rng = np.random.default_rng(seed)
    masks = [np.zeros(SIZE, np.uint8), np.full(SIZE, 2, np.uint8)]
    while len(masks) < count:
        coarse = rng.random((SIZE[0] // 2, SIZE[1] // 2)).repeat(2, 0).repeat(2, 1)
        mask = np.where(coarse < 0.2, 1, np.where(coarse < 0.4, 2, 0)).astype(np.uint8)
        mask[rng.random(SIZE) < 0.03] = 3
        if len(masks) % 3 == 0:
            mask[mask != 3] = 0  # a single type
        masks.append(mask)
    return masks


def picture(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (*SIZE, 3), dtype=np.uint8)


def make_sets(root: Path) -> Sets:
    """Six samples and some real images, whose names want care, in three folders below `root`."""
    generated = index_masks(7, seed=1)
    samples = SampleFolder(str(root / "samples"), TYPES, SETTINGS)
    samples.add(range(7), np.stack([picture(i) for i in range(7)]), np.stack(generated))
    manifest = root / "samples" / "manifest.jsonl"  # without the last sample, the rest of a run that was cut off
    manifest.write_text("".join(manifest.read_text().splitlines(keepends=True)[:6]))
    masks = {f"gen_{i:06d}": mask for i, mask in enumerate(generated[:6])}
    real = {"crack/exp1": "real_crack_exp1", "crack/exp10": "real_crack_exp10"}
    real |= {"oil stain/a b": "real_oil_stain_a_b", "oil stain/a_b": "real_oil_stain_a_b_2"}  # alike once they are safe
    real |= {f"pit/{name}": f"real_pit_{name}" for name in ("deep", "grey", "photo")}
    masks |= _write_real(root / "real", real, ["good/whole", "good/whole2"], seed=2)
    masks |= _write_real(root / "val", {"crack/exp1": "val_crack_exp1"}, ["good/fine"], seed=3)

    images = root / "real" / "test"
    exif = Image.Exif()
    exif[0x0112] = 6  # a rotation, which only some readers apply
    Image.open(images / "crack/exp10.png").save(images / "crack/exp10.png", exif=exif)
    xmp = PngInfo()
    xmp.add_itxt("XML:com.adobe.xmp", '<x:xmpmeta xmlns:x="adobe:ns:meta/"><r tiff:Orientation="6"/></x:xmpmeta>')
    Image.open(images / "oil stain/a b.png").save(images / "oil stain/a b.png", pnginfo=xmp)
    Image.fromarray(picture(7)[..., 0]).save(images / "pit/grey.png")
    Image.fromarray(picture(8)[..., 0].astype(np.uint16) * 257).save(images / "pit/deep.png")
    (images / "pit/photo.png").unlink()
    Image.fromarray(picture(9)).save(images / "pit/photo.jpg")
    return Sets(str(root / "samples"), str(root / "real"), str(root / "val"), masks)


def _write_real(root: Path, names: dict[str, str], good: list[str], seed: int) -> dict[str, np.ndarray]:
    masks = index_masks(2 + len(names), seed)[2:]
    pairs = [(picture(100 * seed + k), mask) for k, mask in enumerate([*masks, *[None] * len(good)])]
    write_released(str(root), [*names, *good], pairs, {name: k for k, name in enumerate(TYPES, 1)}, {})
    return dict(zip(names.values(), masks, strict=True))
