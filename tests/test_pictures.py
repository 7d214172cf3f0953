"""Colours that differ; overlays; both sheets show what they are given."""

import numpy as np

from guided_diffusion.pictures import Tile, draw_sheet, fit_tile, overlay, palette, row_tile


def test_colours_are_distinct_and_overlays_leave_the_rest():
    colours = palette(255)
    assert len({tuple(c) for c in colours.tolist()}) == 256
    assert (palette(3) == colours[:4]).all() and (colours[0] == 0).all()
    mixed = overlay(np.full((1, 3, 3), 100, np.uint8), np.array([[0, 1, 2]], np.uint8), alpha=0.5)
    assert (mixed[0] == [[100] * 3, *((100 + colours[1:3].astype(int)) / 2).round()]).all()


def test_rows_show_each_image_over_its_mask():
    grey = np.full((3, 64, 64, 3), 100, np.uint8) + 10 * np.arange(3, dtype=np.uint8)[:, None, None, None]
    masks = np.zeros((3, 64, 64), np.uint8)
    masks[:, :32] = 2
    rows = [row_tile("one", grey + np.uint8(30 * i), masks) for i in range(4)]
    sheet = np.asarray(draw_sheet("title", ["a note", "another"], ["pit", "stain"], rows, rows=True))
    for i in range(4):
        for k in range(3):
            value = 100 + 10 * k + 30 * i
            assert ((sheet == value).all(axis=2)).sum() >= 128 * 128 * 1.4  # image, and the clear half of its overlay
            blended = np.round(0.3 * value + 0.7 * palette(2)[2].astype(float))
            assert ((sheet == blended).all(axis=2)).sum() == 128 * 64


def test_marked_tiles_are_framed():
    picture = fit_tile(np.full((32, 32, 3), 90, np.uint8))
    tiles = Tile(picture, picture, "000001"), Tile(picture, picture, 40 * "long ", marked=True)
    plain, red = ((np.asarray(draw_sheet("t", ["s"], ["pit"], [tile])) == (200, 30, 30)).all(axis=2) for tile in tiles)
    assert red.sum() > 2 * (261 + 134) and not plain.any()
    frame = np.flatnonzero(red.sum(axis=1) > 100)[-1]
    assert red[frame + 1 :].any()  # the caption below it, shortened
