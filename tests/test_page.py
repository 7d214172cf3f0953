"""The page of `defect-gen ui` without a browser: photographs, masks, and the folder of what is kept."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from scipy.ndimage import label

from guided_diffusion import DefectGen, InputError
from guided_diffusion import page as page_module
from guided_diffusion.cli import curate, export
from guided_diffusion.data.records import read_manifest
from guided_diffusion.page import Page, canvas_size, close_up, from_layer, gallery, placed, read_photograph, to_layer


def test_photographs_are_bounded_and_errors_name_no_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    photograph = np.arange(4 * 6 * 3, dtype=np.uint8).reshape(4, 6, 3)
    Image.fromarray(photograph).save(tmp_path / "part.png")
    assert np.array_equal(read_photograph(str(tmp_path / "part.png")), photograph)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 11)
    (tmp_path / "text.png").write_text("no image")
    for name, said in (("part.png", ".*exceeds limit of 22 pixels"), ("text.png", "is not an image")):
        with pytest.raises(InputError, match=f"^{name}: {said}"):
            read_photograph(str(tmp_path / name))


@pytest.mark.parametrize("size", [(32, 48), (700, 301), (1500, 20)])
def test_masks_come_back_from_the_canvas(size: tuple[int, int]) -> None:
    """Exactly where it is the larger one; and whatever blends into soft borders."""
    mask = np.random.default_rng(0).integers(0, 10, (size[0] // 4 + 1, size[1] // 4 + 1), np.uint8)
    mask = mask.repeat(4, axis=0).repeat(4, axis=1)[: size[0], : size[1]]
    layer = to_layer(mask)
    assert layer.shape == (*canvas_size(size), 4) and max(layer.shape) == page_module.CANVAS
    read = from_layer(layer, size, 9)
    assert np.array_equal(read, mask) or (max(size) > max(layer.shape) and (read != mask).mean() < 0.2)
    soft = layer.copy()
    soft[..., :3] = 0.8 * soft[..., :3] + 0.2 * 128
    soft[layer[..., 3] == 0, 3] = 127
    assert np.array_equal(from_layer(soft, size, 9), read)


def test_a_mask_is_placed_by_its_centre_and_cut_at_the_border() -> None:
    mask, stencil = np.full((20, 30), 2, np.uint8), np.array([[3, 3, 3], [0, 3, 0], [0, 3, 0]], np.uint8)
    moved = placed(mask, stencil, (0.5, 0.5), (1, 1))
    assert np.array_equal(moved[9:12, 14:17], np.where(stencil, stencil, 2))
    assert (moved != mask).sum() == 5 and (mask == 2).all()
    assert (placed(mask, stencil, (0.5, 0.5), (4, 2)) != mask).sum() == pytest.approx(5 * 4 * 2, rel=0.2)
    assert 0 < (placed(mask, stencil, (1.0, 0.0), (4, 4)) != mask).sum() < 5 * 16
    thin, empty = np.eye(24, dtype=np.uint8), np.zeros((90, 90), np.uint8)
    for size in (0.3, 0.7, 1.4, 3.3):  # a scratch stays whole, and as long as it should be
        moved = placed(empty, thin, (0.5, 0.5), (size, size))
        assert label(moved, np.ones((3, 3)))[1] == 1 and np.ptp(np.nonzero(moved)[0]) == pytest.approx(24 * size, abs=2)


def test_a_close_up_shows_the_defects_and_what_is_around_at_its_own_size() -> None:
    image = np.random.default_rng(0).integers(0, 256, (400, 300, 3), np.uint8)
    mask = np.zeros((400, 300), np.uint8)
    mask[150:160, 100:103], mask[180, 200] = 1, 2
    assert np.array_equal(close_up(image, mask, False), image[150 - 64 : 181 + 64, 100 - 64 : 201 + 64])
    few = close_up(image[140:180, 90:120], mask[140:180, 90:120], True)  # outlines lie beside the defect
    assert few.shape == (40 * 6, 30 * 6, 3) and np.array_equal(few[60:120:6, 60:78:6], image[150:160, 100:103])


def make(page: Page, size: tuple[int, int], seed: int, type_: int, **condition) -> object:
    """Variants of a photograph of `size` that is noise."""
    photograph = np.random.default_rng(seed).integers(60, 200, (*size, 3), np.uint8)
    mask = np.zeros(size, np.uint8)
    mask[10:16, 12:20] = type_
    batch = page.variants(photograph, mask, [seed, seed + 1], step_inference=400, **condition)
    assert np.array_equal(batch.masks, [mask, mask]) and (batch.images[0] != batch.images[1]).any()
    assert np.array_equal(batch.images[0][30:], photograph[30:])
    return batch


def test_what_is_kept_is_a_sample_folder_that_other_commands_read(generator, demo_data, tmp_path) -> None:
    folder = str(tmp_path / "kept")
    page = Page(generator, folder)
    with pytest.raises(InputError, match="^no defect is drawn"):
        page.variants(None, np.zeros((32, 32), np.uint8), [0], step_inference=400)
    free = page.variants(None, np.eye(32, dtype=np.uint8), [7], step_inference=300, background=None)
    assert free.images.shape == (1, 32, 32, 3) and np.array_equal(free.masks[0], np.eye(32))
    batches = [make(page, (48, 64), 1, 1, background="a.png"), make(page, (64, 40), 5, 3, background="b.png"), free]
    for batch, which in zip(batches, ([1], [1, 0], [0]), strict=True):
        batch[which].save(folder)
    rows = read_manifest(folder)
    told = [("a.png", 400, 2), ("b.png", 400, 6), ("b.png", 400, 5), (None, 300, 7)]
    keys = ("background", "step_inference", "seed")
    assert [tuple(row["condition"][key] for key in keys) for row in rows.values()] == told
    for k, (batch, which) in enumerate(((batches[0], 1), (batches[1], 1), (batches[1], 0), (free, 0))):
        assert np.array_equal(Image.open(tmp_path / "kept" / rows[k]["image"]), batch.images[which])
        assert np.array_equal(Image.open(tmp_path / "kept" / rows[k]["index_mask"]), batch.masks[which])
    told = [f"{k:06d} · {page.class_names[0]} · seed {seed}" for k, seed in ((3, 7), (0, 2))]
    assert [text for _, text in gallery(folder)][::3] == told

    Page(generator, folder)  # which may be added to, but not by other settings
    with pytest.raises(InputError, match="holds samples made with scale"):
        Page(generator, folder, scale=[2.0])
    export.main([folder, str(tmp_path / "coco"), "--format", "coco"])
    assert len([*(tmp_path / "coco").rglob("gen_*.png")]) == 4
    flags = {"--samples": folder, "--train": demo_data, "--out": tmp_path / "curated", "--min_agreement": "off"}
    curate.main([str(part) for flag in flags.items() for part in flag])
    assert read_manifest(str(tmp_path / "curated"))


def test_the_bank_gives_masks_of_a_type(generator: DefectGen, tmp_path: Path) -> None:
    page = Page(generator, str(tmp_path / "kept"))
    stencils = [page.stencil(2, number) for number in range(4)]
    assert all(set(np.unique(stencil)) <= {0, 2} for stencil in stencils)
    assert all(stencil.any(axis=axis)[[0, -1]].all() for stencil in stencils for axis in (0, 1))
    assert len({stencil.tobytes() for stencil in stencils}) == 4
