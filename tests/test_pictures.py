"""Colours that differ, also for colour-blind readers; overlays; both sheets show what they are given."""

import numpy as np
import pytest

from guided_diffusion.pictures import Row, Tile, colorize, draw_rows, draw_sheet, fit_tile, overlay, palette


def test_palette_is_distinct_and_stable():
    colours = palette(255)
    assert len({tuple(c) for c in colours.tolist()}) == 256
    assert (palette(3) == colours[:4]).all() and (colours[0] == 0).all()


# Machado, Oliveira, Fernandes, "A physiologically-based model for simulation of color vision deficiency" (2009),
# severity 1.0, on linear RGB.
SEEN_BY = {
    "everyone": np.eye(3),
    "protanopes": [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]],
    "deuteranopes": [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]],
    "tritanopes": [[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602], [0.004733, 0.691367, 0.303900]],
}


def cielab(linear):
    """CIE 1976 L*a*b* (D65) of linear RGB [N, 3] in [0, 1]."""
    to_xyz = [[0.4124564, 0.3575761, 0.1804375], [0.2126729, 0.7151522, 0.0721750], [0.0193339, 0.1191920, 0.9503041]]
    xyz = linear @ np.transpose(to_xyz) / [0.95047, 1.0, 1.08883]
    f = np.where(xyz > 0.008856, np.cbrt(xyz), 7.787 * xyz + 16 / 116)
    return np.stack([116 * f[:, 1] - 16, 500 * (f[:, 0] - f[:, 1]), 200 * (f[:, 1] - f[:, 2])], axis=1)


@pytest.mark.parametrize("eyes", SEEN_BY)
def test_the_first_eight_colours_differ_for_colour_blind_readers(eyes):
    srgb = palette(8) / 255
    linear = np.where(srgb <= 0.04045, srgb / 12.92, ((srgb + 0.055) / 1.055) ** 2.4)
    lab = cielab(np.clip(linear @ np.transpose(SEEN_BY[eyes]), 0, 1))
    distance = np.linalg.norm(lab[:, None] - lab[None], axis=2) + np.diag(np.full(9, np.inf))
    assert distance.min() > 15  # 2.3 is just noticeable


def test_overlay_colours_defects_and_leaves_the_rest():
    image = np.full((2, 2, 3), 100, np.uint8)
    mask = np.array([[0, 1], [2, 0]], np.uint8)
    mixed = overlay(image, mask, alpha=0.5)
    assert (mixed[mask == 0] == 100).all()
    assert (mixed[0, 1] == ((100 + colorize(mask)[0, 1].astype(int)) / 2).round()).all()


def test_rows_show_each_image_over_its_mask():
    grey = np.full((3, 64, 64, 3), 100, np.uint8) + 10 * np.arange(3, dtype=np.uint8)[:, None, None, None]
    masks = np.zeros((3, 64, 64), np.uint8)
    masks[:, :32] = 2
    rows = [Row(["one", "two"], grey + np.uint8(30 * i), masks) for i in range(4)]
    sheet = np.asarray(draw_rows("title", ["a note", "another"], ["pit", "stain"], rows))
    for i in range(4):
        for k in range(3):
            value = 100 + 10 * k + 30 * i
            assert ((sheet == value).all(axis=2)).sum() >= 128 * 128 * 1.4  # image, and the clear half of its overlay
            blended = np.round(0.3 * value + 0.7 * palette(2)[2].astype(float))
            assert ((sheet == blended).all(axis=2)).sum() == 128 * 64


def test_tiles_are_shown_and_marked_ones_are_framed():
    def tile(value, **options):
        pictures = [fit_tile(np.full((32, 32, 3), level, np.uint8)) for level in (value, value + 1)]
        return Tile(*pictures, "000001", {1: "pit"}, **options)

    plain, framed = (np.asarray(draw_sheet("t", "s", ["pit"], [tile(90), tile(94, marked=m)])) for m in (False, True))
    for value in (90, 91, 94, 95):
        assert ((plain == value).all(axis=2)).sum() >= 128 * 128
    red = (framed == (200, 30, 30)).all(axis=2).sum()
    assert red > 2 * (261 + 134) and not (plain == (200, 30, 30)).all(axis=2).any()
