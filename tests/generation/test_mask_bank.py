"""New masks like those of a training set: balanced, in their places, on canvases of any size."""

from types import SimpleNamespace

import cv2
import numpy as np
import pytest
import torch
from scipy.ndimage import label

from guided_diffusion.data.image_datasets import DefectDataset
from guided_diffusion.data.image_files import View, number_regions
from guided_diffusion.generation.mask_bank import LONGEST, MaskBank, _moved, _widened
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
    turn = SimpleNamespace(
        uniform=lambda low, high, size=None: np.zeros(size) if size else 1.0, normal=lambda *a: np.zeros(a[-1])
    )
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
