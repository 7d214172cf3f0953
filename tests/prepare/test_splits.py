"""Splits: what trains, what is held out, and that no group stands on both sides."""

from collections import Counter

import numpy as np
import pytest

from guided_diffusion.data.image_datasets import DefectDataset
from guided_diffusion.data.image_files import View
from guided_diffusion.data.prepared import TRAIN, Sample
from guided_diffusion.prepare.check import Record, TypeFacts
from guided_diffusion.prepare.splits import VAL, Item, group_alike, split_by_fraction, split_by_shots
from scripts.draw_demo_data import write_released


def split(rows, function, *arguments):
    """The parts of (folder, types, group) rows, folder "good" being defect-free; no group may be on both sides."""
    items = []
    for i, (folder, types, group) in enumerate(rows):
        record = Record("", "", "", folder, good=folder == "good", types={k: TypeFacts(1, 1) for k in types})
        items.append(Item(Sample(f"{i}.png", None), "", group, record=record))
    function(items, *arguments)
    sides = [{item.group for item in items if item.part == part} for part in (TRAIN, VAL)]
    assert not sides[0] & sides[1]
    return [item.part for item in items]


def test_shots_take_the_first_of_each_folder_and_leave_out_what_would_straddle():
    rows = [("crack", {1}, "a"), ("crack", {1}, "a"), ("crack", {1}, "a"), ("crack", {1}, "b"), ("hole", {2}, "c")]
    rows += [("hole", {2}, "b"), ("good", (), "a"), ("good", (), "b"), ("good", (), "z")]
    # The second image of part a would be held out while its part trains; b and good images of b are held out.
    assert split(rows, split_by_shots, 1) == [TRAIN, None, None, VAL, TRAIN, VAL, TRAIN, None, TRAIN]


@pytest.mark.parametrize("count", [1, 2, 3])
def test_shots_are_the_images_that_num_image_train_takes(tmp_path, count):
    rng = np.random.default_rng(0)
    masks = [(rng.integers(0, 4, (8, 8)) * (rng.random((8, 8)) < 0.1)).astype(np.uint8) for _ in range(12)]
    names = [f"im{i}" for i in range(12)]
    image = rng.integers(0, 255, (8, 8, 3), dtype=np.uint8)
    write_released(str(tmp_path), names, [(image, mask) for mask in masks], {"a": 1, "b": 2, "c": 3}, {})
    data = DefectDataset.load(str(tmp_path), 3, View((8, 8)), num_image_train=count)
    rows = [(None, set(mask[mask > 0].tolist()), name) for mask, name in zip(masks, names, strict=True)]
    parts = split(rows, split_by_shots, count)
    assert data.names == [name for name, part in zip(names, parts, strict=True) if part == TRAIN]


@pytest.mark.parametrize("seed", range(10))
def test_fraction_is_met_per_type_and_no_group_straddles(seed):
    rng = np.random.default_rng(seed)
    rows = []
    for group in range(60):
        kind = int(rng.choice([1, 2, 3], p=[0.6, 0.3, 0.1]))
        rows += [(None, {kind} | ({4} if group % 10 == 0 else set()), str(group))] * int(rng.integers(1, 5))
    rows += [(None, {5}, "only")] * 3  # which must train
    parts = split(rows, split_by_fraction, 0.25, seed)
    total, held = Counter(), Counter()
    for (_, types, _), part in zip(rows, parts, strict=True):
        total.update(types)
        held.update(types if part == VAL else ())
    for kind in total:
        several = len({group for _, types, group in rows if kind in types}) > 1
        assert (0 if several else -1) < held[kind] < total[kind]
    for kind in (1, 2):  # the common ones: within a group's size of the target
        assert abs(held[kind] - 0.25 * total[kind]) <= 4
    assert None not in parts and split(rows, split_by_fraction, 0.25, seed) == parts
    assert split(rows, split_by_fraction, 0.25, seed + 1) != parts


@pytest.mark.parametrize(
    ("bits", "grouped"),  # in which each image differs from the first
    [
        ([0, 1, 12, 64, 64 + 12, 100], [3, 2, 1]),  # chains of pairs at most 12 apart
        ([0, 4, 8, 12, 16, 20, 24, 28, 32, 36], []),  # most are alike at 12 to 4 bits, none at 2
        ([0] * 12, [2, 2, *[1] * 8]),  # one pose: the hash cannot tell, not even at 2; two files are there twice
        ([0, 0], []),
        ([0, 0, 60], [2, 1]),
    ],
)
def test_look_alikes_are_grouped_unless_most_look_so(bits, grouped):
    items = []
    for k, count in enumerate(bits):
        record = Record("", "", "", sha256=f"{k % 10}", perceptual_hash=f"{(1 << 127) + (1 << count) - 1:032x}")
        items.append(Item(Sample(f"{k}.png", None), f"{k}", record=record))
    assert group_alike(items) == sum(count for count in grouped if count > 1)
    assert sorted(Counter(item.object for item in items).values(), reverse=True) == (grouped or [1] * len(bits))


def test_no_type_loses_all_its_groups_to_another_and_good_images_are_spread_apart_from_empty_ones():
    rows = [(None, {1, 2}, "a"), (None, {1}, "b"), (None, {1}, "c"), (None, {1}, "d")]
    others = [("good", (), f"g{k}") for k in range(8)] + [(None, (), f"e{k}") for k in range(8)]
    for seed in range(30):
        assert split(rows, split_by_fraction, 0.25, seed)[0] == TRAIN  # the only one of type 2
        parts = split(others, split_by_fraction, 0.25, seed)
        assert parts[:8].count(VAL) == parts[8:].count(VAL) == 2
