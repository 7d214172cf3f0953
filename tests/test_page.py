"""The page of `defect-gen ui` without a browser: photographs, masks, and the folder of what is kept."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from guided_diffusion import DefectGen, InputError
from guided_diffusion import page as page_module
from guided_diffusion.cli import curate, export
from guided_diffusion.data.manifest import read_manifest
from guided_diffusion.page import Page, canvas_size, close_up, from_layer, gallery, placed, read_photograph, to_layer
from guided_diffusion.pictures import palette


def test_photographs_are_bounded_and_errors_name_no_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    photograph = np.arange(4 * 6 * 3, dtype=np.uint8).reshape(4, 6, 3)
    Image.fromarray(photograph).save(tmp_path / "part.png")
    assert np.array_equal(read_photograph(str(tmp_path / "part.png")), photograph)
    monkeypatch.setattr(page_module, "MAX_PIXELS", 23)
    (tmp_path / "text.png").write_text("no image")
    for name, said in (("part.png", "has 0 million pixels, above 0; cut it up"), ("text.png", "is not an image")):
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
    mask, stencil = np.full((20, 30), 2, np.uint8), np.array([[1, 1, 1], [0, 3, 0]], np.uint8)
    moved = placed(mask, stencil, (0.5, 0.5), (1, 1))
    assert moved[10, 14:17].tolist() == [1, 1, 1] or moved[9, 14:17].tolist() == [1, 1, 1]
    assert (moved != mask).sum() == 4 and (mask == 2).all()
    assert (placed(mask, stencil, (0.5, 0.5), (4, 2)) != mask).sum() == 4 * 4 * 2
    assert 0 < (placed(mask, stencil, (1.0, 0.0), (4, 4)) != mask).sum() < 4 * 16
