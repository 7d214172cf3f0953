"""Bringing pairs to one size and cutting tiles: image and mask stay together, no label appears."""

import numpy as np
import pytest

from guided_diffusion.data.image_files import resize_mask
from guided_diffusion.prepare.shaping import fit, tiles


def coded(height, width):
    """An image that tells each pixel's place, and a mask of three types."""
    y, x = np.mgrid[:height, :width]
    image = np.stack([y % 256, x % 256, (y * 7 + x * 3) % 256], axis=2).astype(np.uint8)
    mask = ((y // 5 + x // 7) % 4 * ((y + x) % 3 == 0)).astype(np.uint8)
    return image, mask


@pytest.mark.parametrize("how", ["stretch", "crop", "pad"])
@pytest.mark.parametrize("size", [(32, 32), (24, 64), (100, 40)])
def test_fit_gives_the_size_and_no_new_label(how, size):
    image, mask = coded(50, 70)
    out, out_mask = fit(image, mask, size, how)
    assert out.shape == (*size, 3) and out_mask.shape == size
    assert set(np.unique(out_mask)) <= set(np.unique(mask))
    assert fit(image, None, size, how)[1] is None
    assert np.array_equal(fit(image[..., 0], mask, size, how)[0].shape, size)
    assert how != "stretch" or np.array_equal(out_mask, resize_mask(mask, size))


def test_crop_keeps_the_window_with_the_most_defect_pixels():
    image, mask = coded(40, 100)
    mask[:] = 0
    mask[:, 70:80] = 2
    mask[:, 5:8] = 1
    out, out_mask = fit(image, mask, (40, 40), "crop")  # no scaling
    assert (out_mask == 2).sum() == 400 and (out_mask == 1).sum() == 0
    left = int(out[0, 0, 1])
    assert np.array_equal(out, image[:, left : left + 40]) and np.array_equal(out_mask, mask[:, left : left + 40])
    middle = fit(image, mask * 0, (40, 40), "crop")[0]
    assert middle[0, 0, 1] in (29, 30)


def test_pad_repeats_the_border_and_calls_it_background():
    image, mask = coded(20, 40)
    mask[:] = 1
    out, out_mask = fit(image, mask, (40, 40), "pad")
    assert np.array_equal(out[10:30], image) and (out[:10] == image[0]).all() and (out[30:] == image[-1]).all()
    assert out_mask[10:30].all() and not out_mask[:10].any() and not out_mask[30:].any()


@pytest.mark.parametrize(("height", "width", "side", "overlap"), [(50, 70, 32, 8), (64, 64, 32, 0), (33, 90, 32, 31)])
def test_tiles_cover_all_and_are_cut_alike(height, width, side, overlap):
    image, mask = coded(height, width)
    seen = np.zeros((height, width), bool)
    for ending, piece, piece_mask in tiles(image, mask, side, overlap, 1.0, "a"):
        top, left = (int(part[1:]) for part in ending.split("_")[1:])
        assert np.array_equal(piece, image[top : top + side, left : left + side]) and piece.shape[:2] == (side, side)
        assert np.array_equal(piece_mask, mask[top : top + side, left : left + side])
        seen[top : top + side, left : left + side] = True
    assert seen.all()


def test_tiles_with_defects_are_all_kept_and_a_share_of_the_others():
    image, mask = coded(512, 512)
    mask[:] = 0
    mask[100, 100] = mask[400:420, 300] = 1
    kept = {ending for ending, _, piece in tiles(image, mask, 32, 0, 0.0, "a")}
    assert kept == {"_y96_x96", "_y384_x288", "_y416_x288"}
    some = [ending for ending, *_ in tiles(image, mask, 32, 0, 0.25, "a")]
    assert kept < set(some) and abs(len(some) - 3 - 0.25 * 253) < 25  # 3.6 standard deviations
    assert some == [ending for ending, *_ in tiles(image, mask, 32, 0, 0.25, "a")]
    assert some != [ending for ending, *_ in tiles(image, mask, 32, 0, 0.25, "b")]
    assert all(piece is None for _, _, piece in tiles(image, None, 32, 0, 0.5, "a"))


def test_an_image_smaller_than_the_tile_is_padded():
    image, mask = coded(20, 40)
    mask[:] = 1
    (ending, piece, piece_mask), second = list(tiles(image, mask, 32, 0, 0.0, "a"))
    assert ending == "_y0_x0" and second[0] == "_y0_x8" and piece.shape == (32, 32, 3)
    assert np.array_equal(piece[6:26], image[:, :32]) and piece_mask.sum() == 20 * 32
