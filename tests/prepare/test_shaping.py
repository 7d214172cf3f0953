"""Bringing pairs to one size and cutting tiles: image and mask stay together, no label appears."""

import numpy as np
import pytest

from guided_diffusion.data.image_files import resize_mask
from guided_diffusion.prepare.shaping import fit, tiles


def coded(height, width, types=True):
    """An image that tells each pixel's place, and a mask of three types, or of one that is everywhere."""
    y, x = np.mgrid[:height, :width]
    image = np.stack([y % 256, x % 256, (y * 7 + x * 3) % 256], axis=2).astype(np.uint8)
    mask = (y // 5 + x // 7) % 4 * ((y + x) % 3 == 0) if types else np.ones_like(y)
    return image, mask.astype(np.uint8)


@pytest.mark.parametrize("how", ["stretch", "crop", "pad"])
@pytest.mark.parametrize("size", [(32, 32), (24, 64), (100, 40)])
def test_fit_gives_the_size_and_no_new_label(how, size):
    image, mask = coded(50, 70)
    out, out_mask = fit(image, mask, size, how)
    assert out.shape == (*size, 3) and out_mask.shape == size and set(np.unique(out_mask)) <= {0, 1, 2, 3}
    assert np.array_equal(fit(image[..., 0], mask, size, how)[0].shape, size)
    assert how != "stretch" or np.array_equal(out_mask, resize_mask(mask, size))


def test_crop_keeps_the_window_with_the_most_defect_pixels():
    image, mask = coded(40, 100)
    mask[:] = 0
    mask[:, 70:80], mask[:, 5:8] = 2, 1
    out, out_mask = fit(image, mask, (40, 40), "crop")  # no scaling
    left = int(out[0, 0, 1])
    assert np.array_equal(out, image[:, left : left + 40]) and np.array_equal(out_mask, mask[:, left : left + 40])
    assert (out_mask == 2).sum() == 400 and (out_mask == 1).sum() == 0
    assert fit(image, mask * 0, (40, 40), "crop")[0][0, 0, 1] in (29, 30)  # the middle


def test_pad_repeats_the_border_and_calls_it_background():
    image, mask = coded(20, 40, types=False)
    out, out_mask = fit(image, mask, (40, 40), "pad")
    assert np.array_equal(out[10:30], image) and (out[:10] == image[0]).all() and (out[30:] == image[-1]).all()
    assert out_mask[10:30].all() and not out_mask[:10].any() and not out_mask[30:].any()
    (ending, piece, piece_mask), second = tiles(image, mask, 32, 0, 0.0, "a")  # smaller than the tile
    assert ending == "_y0_x0" and second[0] == "_y0_x8" and piece.shape == (32, 32, 3)
    assert np.array_equal(piece[6:26], image[:, :32]) and piece_mask.sum() == 20 * 32


@pytest.mark.parametrize(("height", "width", "overlap"), [(50, 70, 8), (64, 64, 0), (33, 90, 31)])
def test_tiles_cover_all_and_are_cut_alike(height, width, overlap):
    image, mask = coded(height, width)
    seen = np.zeros((height, width), bool)
    for ending, piece, piece_mask in tiles(image, mask, 32, overlap, 1.0, "a"):
        top, left = (int(part[1:]) for part in ending.split("_")[1:])
        window = slice(top, top + 32), slice(left, left + 32)
        assert np.array_equal(piece, image[window]) and piece.shape[:2] == (32, 32)
        assert np.array_equal(piece_mask, mask[window])
        seen[window] = True
    assert seen.all()


def test_tiles_with_defects_are_all_kept_and_a_share_of_the_others():
    image, mask = coded(512, 512)
    mask[:] = 0
    mask[100, 100] = mask[400:420, 300] = 1
    defective = {"_y96_x96", "_y384_x288", "_y416_x288"}
    none, some, again, others = (
        [ending for ending, *_ in tiles(image, mask, 32, 0, share, key)]
        for share, key in ((0.0, "a"), (0.25, "a"), (0.25, "a"), (0.25, "b"))
    )
    assert set(none) == defective and defective < set(some) and some == again != others
    assert abs(len(some) - 3 - 0.25 * 253) < 25  # 3.6 standard deviations
