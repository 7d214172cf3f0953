"""Colours that differ; outlines; both sheets show what they are given."""

import numpy as np

from guided_diffusion.pictures import Tile, draw_sheet, fit_tile, outline, palette, row_tile, tile_of


def test_colours_are_distinct():
    colours = palette(255)
    assert len({tuple(c) for c in colours.tolist()}) == 256
    assert (palette(3) == colours[:4]).all() and (colours[0] == 0).all()


def test_outlines_lie_around_regions_and_leave_them_visible():
    image, mask = np.full((64, 64, 3), 100, np.uint8), np.zeros((64, 64), np.uint8)
    mask[10, 20], mask[40:50, 30:33] = 1, 2  # one pixel, and a thin one
    shown = outline(image, mask)
    assert (shown[mask > 0] == 100).all() and (image == 100).all()
    for index, pixels in ((1, 8), (2, 12 * 5 - 30)):
        assert (shown == palette(2)[index]).all(axis=2).sum() == pixels
    tile = np.asarray(tile_of(image, mask, "one").outlined)  # enlarged to 128 px: one pixel is 2 x 2
    assert (tile == palette(2)[1]).all(axis=2).sum() == 12 and (tile[20:22, 40:42] == 100).all()
    large = outline(np.zeros((512, 512, 3), np.uint8), np.kron(mask, np.ones((8, 8), np.uint8)))
    assert (large == palette(2)[1]).all(axis=2).sum() == 16 * 16 - 8 * 8


def test_rows_show_each_image_over_its_mask():
    grey = np.full((3, 64, 64, 3), 100, np.uint8) + 10 * np.arange(3, dtype=np.uint8)[:, None, None, None]
    masks = np.zeros((3, 64, 64), np.uint8)
    masks[:, :32] = 2
    rows = [row_tile("one", grey + np.uint8(30 * i), masks) for i in range(4)]
    sheet = np.asarray(draw_sheet("title", ["a note", "another"], ["pit", "stain"], rows, rows=True))
    for i in range(4):
        for k in range(3):
            value = 100 + 10 * k + 30 * i
            assert ((sheet == value).all(axis=2)).sum() >= 128 * 128 + 128 * 127
    assert ((sheet == palette(2)[2]).all(axis=2)).sum() >= 4 * 3 * 128  # a line below each region


def test_marked_tiles_are_framed():
    picture = fit_tile(np.full((32, 32, 3), 90, np.uint8))
    tiles = Tile(picture, picture, "000001"), Tile(picture, picture, 40 * "long ", marked=True)
    plain, red = ((np.asarray(draw_sheet("t", ["s"], ["pit"], [tile])) == (200, 30, 30)).all(axis=2) for tile in tiles)
    assert red.sum() > 2 * (261 + 134) and not plain.any()
    frame = np.flatnonzero(red.sum(axis=1) > 100)[-1]
    assert red[frame + 1 :].any()  # the caption below it, shortened
