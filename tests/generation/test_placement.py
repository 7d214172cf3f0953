"""Where new defects go: apart from each other, where they are allowed, as deep in the part as in training."""

from dataclasses import replace

import numpy as np
import pytest
from scipy.ndimage import label
from test_mask_bank import anywhere, layer

from guided_diffusion.generation.placement import Placement, part_distance, training_distances, types_to_draw

SPOT, BAR = layer(slice(6, 10), slice(6, 10)), layer(slice(7, 9), slice(4, 12))
GREY = np.full((80, 120, 3), 100, np.uint8)


def placement(*layers, scale=(2.0, 2.0), distances=None):
    return Placement(anywhere(*layers), scale, 2, distances or {})


def part(top=20, bottom=100, left=30, right=130, defect=None):
    """uint8 [120, 160, 3]: a bright part on a dark background, and the defect's mask."""
    image, mask = np.full((120, 160, 3), 20, np.uint8), np.zeros((120, 160), np.uint8)
    image[top:bottom, left:right] = 180
    if defect is not None:
        image[defect], mask[defect] = 30, 1
    return image, mask


def test_defects_lie_apart_and_anywhere():
    places = placement(SPOT, BAR)
    masks = [places.draw(GREY, None, 0, index, [1, 2, 1]) for index in range(60)]
    for mask in masks:
        pieces, count = label(mask > 0)
        assert 1 <= count <= 3
        for k in range(1, count + 1):  # nothing within twice the margin
            rows, columns = np.nonzero(pieces == k)
            around = pieces[max(0, rows.min() - 8) : rows.max() + 9, max(0, columns.min() - 8) : columns.max() + 9]
            assert set(np.unique(around)) <= {0, k}
    assert np.mean([label(mask > 0)[1] for mask in masks]) > 2.5
    assert np.mean([mask > 0 for mask in masks], axis=0).reshape(4, 20, 4, 30).mean(axis=(1, 3)).min() > 0
    areas = [places.draw(GREY, None, 1, index, [1]).astype(bool).sum() for index in range(30)]
    assert 0.5 * 64 < np.mean(areas) < 1.7 * 64  # twice as large along each axis as in training
    assert np.array_equal(places.draw(GREY, None, 0, 7, [1, 2, 1]), masks[7])


def test_room_is_used():
    """Eight defects of 8 pixels and their margins have room on 400 for certain, whatever comes first."""
    places, wide = placement(SPOT), np.full((64, 400, 3), 100, np.uint8)
    assert all(label(places.draw(wide, None, 0, index, [1] * 8))[1] == 8 for index in range(40))


def test_defects_smaller_than_a_pixel_are_one():
    mask = placement(SPOT, scale=(0.001, 0.001)).draw(GREY, None, 0, 0, [1])
    assert mask.sum() == 1


def test_defects_lie_where_they_are_allowed():
    allowed = np.zeros((80, 120), bool)
    allowed[50:, 80:] = True
    places = placement(SPOT)
    for index in range(20):
        mask = places.draw(GREY, allowed, 0, index, [1])
        assert mask.any() and not mask[~allowed].any()
    allowed[:] = False
    assert not places.draw(GREY, allowed, 0, 0, [1]).any()


@pytest.mark.parametrize("rows", [slice(0, 5), slice(11, 16)])
def test_what_a_border_cut_lies_at_that_border(rows):
    places = placement(layer(rows, slice(6, 10)))
    for index in range(10):
        mask = places.draw(GREY, None, 0, index, [1])
        assert mask[0 if rows.start == 0 else -1].any() and not mask[-1 if rows.start == 0 else 0].any()


def test_what_goes_from_border_to_border_does_so_in_the_photograph():
    across = placement(layer(slice(0, 16), slice(6, 10)), scale=(2.5, 2))
    for index in range(10):
        mask = across.draw(GREY, None, 0, index, [1])
        assert mask.any(axis=1).all() and not mask[:, [0, -1]].any()
    assert not placement(layer(slice(0, 16), slice(6, 10))).draw(GREY, None, 0, 0, [1]).any()  # 2.5 times as long


def test_a_shrunk_bank_gives_defects_of_their_own_size():
    bank = replace(anywhere(SPOT), shrunk=(2.0, 3.0))
    areas = [Placement(bank, (2.0, 1.0), 2, {}).draw(GREY, None, 0, k, [1]).sum() for k in range(30)]
    assert np.mean(areas) == pytest.approx(16 * 4 * 3, rel=0.2)


def test_a_part_is_told_from_its_background():
    image, _ = part(defect=(slice(50, 60), slice(60, 70)))
    inside = part_distance(image)
    assert inside.max() == pytest.approx(40, abs=1) and inside[55, 65] > 30  # a dark defect is of the part
    assert (inside[:20] == 0).all() and inside[20, 80] == 1 and part_distance(255 - image) is not None
    noise = np.random.default_rng(0).integers(0, 256, (60, 60, 3), dtype=np.uint8)
    assert part_distance(noise) is None and part_distance(GREY) is None


def test_defects_lie_as_deep_in_the_part_as_in_training():
    edge = [part(defect=(slice(21, 27), slice(50 + k, 56 + k))) for k in range(5)]
    distances = training_distances(*zip(*edge, strict=True))
    assert distances == {1: (2, pytest.approx(7, abs=0.5))}
    good = np.repeat(np.repeat(part(10, 110, 10, 90)[0], 2, axis=0), 2, axis=1)
    places = placement(SPOT, distances={1: (2.0, 9.0)})
    inside = np.repeat(np.repeat(part_distance(good[::2, ::2]), 2, axis=0), 2, axis=1)
    for index in range(10):
        depths = inside[places.draw(good, None, 0, index, [1]) > 0]
        assert 2 <= depths.min() and depths.max() <= 9
    assert training_distances([GREY], [GREY[..., 0]]) == {}


def test_types_of_a_photograph():
    bank = anywhere(SPOT, BAR)
    drawn = [types_to_draw(bank, (), (1, 3), 0, index) for index in range(200)]
    assert {len(types) for types in drawn} == {1, 2, 3}
    assert 0.4 < np.mean([kind == 1 for types in drawn for kind in types]) < 0.6
    assert [types_to_draw(bank, ({2}, {1, 2}), (1, 1), 0, index) for index in range(3)] == [[2], [1, 2], [2]]


def test_types_take_turns_over_defects_and_photographs():
    bank = anywhere(SPOT, BAR)
    assert all(sorted(types_to_draw(bank, (), (2, 2), 0, index)) == [1, 2] for index in range(20))
