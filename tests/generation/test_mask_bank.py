"""New masks like those of a training set: balanced, in their places, on canvases of any size; and where they go in
photographs: apart from each other, where they are allowed, as deep in the part as in training."""

from dataclasses import replace
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
import torch
from scipy.ndimage import label

from guided_diffusion.data.image_datasets import DefectDataset
from guided_diffusion.data.image_files import View, number_regions
from guided_diffusion.generation.mask_bank import LONGEST, MaskBank, _moved, _widened
from guided_diffusion.generation.placement import Placement, part_distance, training_distances, types_to_draw
from guided_diffusion.keyed_random import numpy_generator


def bank_of(masks):
    """A bank of one data set held in memory."""
    layers = {k: np.stack([mask == k for mask in masks if (mask == k).any()]) for k in range(1, masks.max() + 1)}
    return MaskBank(layers, {k: _widened(own.any(axis=0), ()) for k, own in layers.items()}, ())


def anywhere(*layers):
    """A bank of layers bool [16, 16], one of each type, that may lie anywhere."""
    numbered = dict(enumerate(layers, start=1))
    return MaskBank({k: own[None] for k, own in numbered.items()}, {k: np.ones((16, 16), bool) for k in numbered}, ())


def layer(rows, columns):
    own = np.zeros((16, 16), bool)
    own[rows, columns] = True
    return own


def test_bank_masks_are_new_balanced_and_kept_where_the_type_occurs():
    masks = np.zeros((6, 64, 64), np.uint8)
    for k in range(3):
        masks[k, 5 : 12 + k, 20:40] = 1  # at the top
        masks[3 + k, 30:60, 50 : 54 + k] = 2  # a bar at the right
    bank = bank_of(masks)
    drawn = [bank.draw(bank.size, 0, index) for index in range(100)]
    assert [sum((mask == k).any() for mask in drawn) for k in (1, 2)] == [50, 50]
    assert all(len(np.unique(mask)) == 2 for mask in drawn)
    assert len({mask.tobytes() for mask in drawn}) > 95 and not any((mask == m).all() for mask in drawn for m in masks)
    for mask in drawn:
        own = mask > 0
        assert (own & bank.places[mask.max()]).sum() >= 0.9 * own.sum()
        top, left = np.argwhere(own).mean(axis=0)
        assert top < 25 if mask.max() == 1 else left > 40
    areas = [(mask == 1).sum() for mask in drawn if (mask == 1).any()]
    assert 0.5 * 140 <= min(areas) and max(areas) <= 1.3**2 * 180 * 1.15
    assert [np.array_equal(bank.draw(bank.size, seed, 7), drawn[7]) for seed in (0, 1)] == [True, False]


def test_thin_defects_stay_whole_and_round_ones_keep_their_area():
    numbers = [numpy_generator("moves", number) for number in range(40)]
    for turn in range(4):  # lines of one pixel, at any angle
        line = np.zeros((64, 64), np.uint8)
        across, along = (round(16 * side) for side in (np.sin(np.pi * turn / 8), np.cos(np.pi * turn / 8)))
        cv2.line(line, (32 - along, 32 - across), (32 + along, 32 + across), 1)
        pieces = [number_regions(_moved(line > 0, rng, 0.8))[1] for rng in numbers]
        assert np.mean(np.equal(pieces, 1)) > 0.95  # taken from the nearest pixel a fifth of them
    disc = cv2.circle(np.zeros((64, 64), np.uint8), (30, 30), 6, 1, cv2.FILLED) > 0
    areas = [_moved(disc, rng, 0.8).sum() / disc.sum() for rng in numbers]
    assert abs(np.mean(areas) - 1) < 0.1


@pytest.mark.parametrize("large", [False, True])
def test_a_bank_of_whole_images_has_what_no_window_of_training_shows(large):
    """A band from border to border, and a spot; of large images, shrunk to a limit, at the same proportions."""
    height, width, factor = (1200, 900, 1200 / LONGEST) if large else (60, 45, 1)
    band, spot = np.zeros((2, height, width), np.uint8)
    band[height // 3 : height // 2], spot[height // 4 : height // 3, width // 4 : width // 3] = 1, 2
    masks = [torch.from_numpy(mask) for mask in (band, spot)]
    data = DefectDataset([], masks, [], View((16, 16), True))
    config = SimpleNamespace(layout=SimpleNamespace(class_names=("band", "spot")), data=SimpleNamespace(flip="both"))
    bank = MaskBank.of(data, config, "data", whole=True)
    assert bank.size == (height / factor, width / factor) and bank.shrunk == pytest.approx((factor, factor))
    areas = {k: np.mean([bank.draw(bank.size, 0, n, {k}) > 0 for n in range(40)]) for k in (1, 2)}
    assert areas == {1: pytest.approx(1 / 6, rel=0.15), 2: pytest.approx(1 / 144, rel=0.15)}
    assert all(bank.draw(bank.size, 0, n, {1}).any(axis=0).all() for n in range(10))


def test_several_types_per_image():
    masks = np.zeros((3, 32, 32), np.uint8)
    masks[0, 2:8, 2:8], masks[1, 2:8, 20:28], masks[2, 20:28, 10:20] = 1, 2, 3
    bank = bank_of(masks)
    for index in range(20):
        assert set(np.unique(bank.draw(bank.size, 0, index, 3))) == {0, 1, 2, 3}
        assert len(np.unique(bank.draw(bank.size, 0, index, 2))) == 3


def test_bank_masks_lie_all_over_a_larger_canvas():
    bank = anywhere(layer(slice(6, 10), slice(5, 11)), layer(slice(6, 10), slice(5, 11)))
    drawn = [bank.draw((32, 96), 0, index) for index in range(40)]
    assert {mask.shape for mask in drawn} == {(32, 96)}
    defects = sum(label(mask > 0)[1] for mask in drawn)
    assert 0.8 * 120 < defects <= 120  # three for twelve areas of training; some overlap
    assert all((mask == k).any() for mask in drawn for k in (1, 2))  # types take turns, over canvases too
    everywhere = np.mean([mask > 0 for mask in drawn], axis=0).reshape(4, 8, 6, 16).mean(axis=(1, 3))
    assert everywhere.min() > 0
    assert np.array_equal(bank.draw((32, 96), 0, 7), drawn[7])
    assert np.array_equal(bank.draw((16, 16), 0, 7), bank.draw(bank.size, 0, 7))


@pytest.mark.parametrize("rows", [slice(0, 9), slice(9, 16), slice(0, 16)])
def test_a_bank_defect_that_the_border_cuts_is_not_cut_within_the_canvas(rows):
    bank = anywhere(layer(rows, slice(5, 11)))
    for index in range(20):
        drawn = bank.draw((24, 40), 0, index) > 0
        assert drawn[0].any() or rows.start > 0
        assert drawn[-1].any() or rows.stop < 16


def test_bank_defects_that_two_borders_cut_lie_at_their_own():
    bank = anywhere(layer(slice(0, 5), slice(2, 6)), layer(slice(12, 16), slice(9, 13)))
    for index in range(20):
        drawn = bank.draw((32, 32), 0, index, (1, 2))
        for type_, edge in ((1, 0), (2, -1)):
            own = drawn == type_  # of its own length, stretched: not gone on to the other border
            assert own[edge].any() and own.any(axis=1).sum() <= 10


def test_turns_keep_shape_and_area_where_images_are_not_square():
    """By 20 degrees and nothing else; of a bar, by its principal axis."""
    bar = np.zeros((64, 128), np.uint8)
    bar[30:36, 40:80] = 1
    turn = SimpleNamespace(normal=lambda *how: np.zeros(how[-1]))
    turn.uniform = lambda low, high, size=None: np.zeros(size) if size else 1.0
    moved = _moved(bar > 0, turn, 1.0)
    across, along = np.linalg.eigh(np.cov(np.argwhere(moved).T))[1][:, 1]
    assert abs(np.degrees(np.arctan(across / along))) == pytest.approx(20, abs=1.5)
    assert moved.sum() == pytest.approx(bar.sum(), rel=0.05)


def test_a_bank_is_mirrored_as_training_mirrors_and_named_by_all_its_types():
    masks = [torch.zeros(64, 64, dtype=torch.uint8) for _ in range(2)]
    masks[0][4:10, 4:10], masks[1][4:10, 20:26] = 1, 2
    names, banks = SimpleNamespace(class_names=("crack", "hole")), {}
    for flip in ("none", "horizontal", "vertical"):
        config = SimpleNamespace(layout=names, data=SimpleNamespace(flip=flip))
        banks[flip] = MaskBank.of(DefectDataset([], masks, [], View((64, 64))), config, "data", whole=True)
    seen = {flip: [bool(bank.places[1][at]) for at in ((6, 6), (6, 57), (57, 6))] for flip, bank in banks.items()}
    assert seen == {"none": [True, False, False], "horizontal": [True, True, False], "vertical": [True, False, True]}
    other = MaskBank(banks["none"].layers | {2: banks["none"].layers[1]}, banks["none"].places, ())
    assert other.sha256 != banks["none"].sha256


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


@pytest.mark.parametrize("rows", [slice(0, 5), slice(11, 16), slice(0, 16)])
def test_what_a_border_cut_lies_at_that_border_and_goes_from_one_to_the_other(rows):
    places, ends = placement(layer(rows, slice(6, 10)), scale=(2.5, 2)), [rows.start == 0, rows.stop == 16]
    for index in range(10):
        mask = places.draw(GREY, None, 0, index, [1])
        assert [mask[0].any(), mask[-1].any()] == ends
        assert not all(ends) or (mask.any(axis=1).all() and not mask[:, [0, -1]].any())
    whole = placement(layer(slice(0, 16), slice(6, 10)))
    assert not whole.draw(GREY, None, 0, 0, [1]).any()  # 2.5 times as long


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
    assert all(sorted(types_to_draw(bank, (), (2, 2), 0, index)) == [1, 2] for index in range(20))  # by turns
    assert [types_to_draw(bank, ({2}, {1, 2}), (1, 1), 0, index) for index in range(3)] == [[2], [1, 2], [2]]
