"""Splits: what trains, what is held out, and that no group stands on both sides."""

from collections import Counter

import numpy as np
import pytest

from guided_diffusion.data.image_datasets import DefectDataset
from guided_diffusion.prepare.layouts import write_released
from guided_diffusion.prepare.splits import TRAIN, VAL, FirstShots, Item, by_fraction, by_shots


def items_of(rows):
    """Items from (folder, types, group) rows; folder "good" is defect-free."""
    return [Item(folder, frozenset(types), group, folder == "good") for folder, types, group in rows]


def sides(items, parts):
    """Groups by part."""
    return {part: {item.group for item, p in zip(items, parts, strict=True) if p == part} for part in (TRAIN, VAL)}


def test_shots_take_the_first_of_each_folder_and_leave_out_what_would_straddle():
    rows = [("crack", {1}, "a"), ("crack", {1}, "a"), ("crack", {1}, "a"), ("crack", {1}, "b"), ("hole", {2}, "c")]
    items = items_of([*rows, ("hole", {2}, "b"), ("good", (), "a"), ("good", (), "b"), ("good", (), "z")])
    parts = by_shots(items, 1)
    # The second image of part a would be held out while its part trains; b and good images of b are held out.
    assert parts == [TRAIN, None, None, VAL, TRAIN, VAL, TRAIN, None, TRAIN]
    assert not set.intersection(*sides(items, parts).values())


def test_flat_shots_take_an_image_while_a_type_of_it_has_fewer():
    shots = FirstShots(2)
    types = [{1}, {1}, {1}, {1, 2}, {2}, {2}, set()]
    assert [shots.takes(None, kinds) for kinds in types] == [True, True, False, True, True, False, False]


def test_shots_are_the_images_that_num_image_train_takes(tmp_path):
    rng = np.random.default_rng(0)
    masks = [rng.integers(0, 4, (8, 8), dtype=np.uint8) * (rng.random((8, 8)) < 0.1) for _ in range(12)]
    names = [f"im{i}" for i in range(12)]
    image = rng.integers(0, 255, (8, 8, 3), dtype=np.uint8)
    write_released(
        str(tmp_path), names, [(image, mask.astype(np.uint8)) for mask in masks], {"a": 1, "b": 2, "c": 3}, {}
    )
    for count in (1, 2, 3):
        data = DefectDataset.load(str(tmp_path), 3, (8, 8), num_image_train=count)
        items = [
            Item(None, frozenset(np.unique(mask[mask > 0]).tolist()), name)
            for mask, name in zip(masks, names, strict=True)
        ]
        chosen = [name for name, part in zip(names, by_shots(items, count), strict=True) if part == TRAIN]
        assert data.names == chosen


@pytest.mark.parametrize("seed", range(20))
def test_fraction_is_met_per_type_and_no_group_straddles(seed):
    rng = np.random.default_rng(seed)
    rows = []
    for group in range(60):
        kind = int(rng.choice([1, 2, 3], p=[0.6, 0.3, 0.1]))
        rows += [(None, {kind} | ({4} if group % 10 == 0 else set()), str(group))] * int(rng.integers(1, 5))
    items = items_of(rows)
    parts = by_fraction(items, 0.25, seed)
    assert None not in parts and not set.intersection(*sides(items, parts).values())
    total, held = Counter(), Counter()
    for item, part in zip(items, parts, strict=True):
        total.update(item.types)
        held.update(item.types if part == VAL else ())
    for kind in total:
        several = len({item.group for item in items if kind in item.types}) > 1
        assert (0 if several else -1) < held[kind] < total[kind]
    for kind in (1, 2):  # the common ones: within a group's size of the target
        assert abs(held[kind] - 0.25 * total[kind]) <= 4
    assert by_fraction(items, 0.25, seed) == parts


def test_fraction_depends_on_the_seed_and_keeps_a_type_of_one_group_in_training():
    items = items_of([(None, {1}, str(k)) for k in range(20)] + [(None, {2}, "only")] * 3)
    splits = [by_fraction(items, 0.3, seed) for seed in range(5)]
    assert len({tuple(split) for split in splits}) > 1
    for split in splits:
        assert split[20:] == [TRAIN] * 3 and split.count(VAL) == 6
