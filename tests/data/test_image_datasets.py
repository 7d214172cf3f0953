"""Pixels: file kinds, refusals, resizing, crops, flips, the choice of few shots, and the order of samples."""

import json

import numpy as np
import pytest
import torch
from drawn_formats import refusal, save

from guided_diffusion.data.image_datasets import DefectDataset, epoch_indices
from guided_diffusion.data.image_files import View

GT = "converted_ground_truth"
GREY = np.full((8, 8, 3), 100, np.uint8)


def save_pair(root, name, image, mask, suffix=".png", **options):
    """Write an image and its mask (arrays or Pillow images) of a prepared set."""
    save(root / "test" / f"{name}{suffix}", image, **options)
    save(root / GT / f"{name}.png", mask)


def noise(*shape, top=256):
    return np.random.default_rng(0).integers(0, top, shape, dtype=np.uint8)


def some_mask(height=8, width=8, top=3):
    return (np.arange(height * width).reshape(height, width) % (top + 1)).astype(np.uint8)


def load(root, num_defect=3, size=(8, 8), windows=False, crop_from=(), crop_defect=0.0, **options):
    return DefectDataset.load(str(root), num_defect, View(size, windows, crop_from, crop_defect), **options)


@pytest.mark.parametrize(
    ("mask", "words"),
    [
        (some_mask(top=1) * 255, ["255", "num_defect is 3", "0/255 mask", "--mask_values binary"]),
        (some_mask(top=5), ["value 4", "num_defect is 3", "Set num_defect to 5"]),
        (some_mask(top=60) * 4, ["num_defect is 3", "soft or coloured"]),
        (GREY * np.array([1, 2, 1], np.uint8), ["RGB mask?"]),
        (some_mask(9, 8), ["8 x 9 pixels", "8 x 8"]),
        (0 * some_mask(), ["masks are empty"]),
    ],
)
def test_refused_masks(tmp_path, mask, words):
    save_pair(tmp_path, "a", GREY, mask)
    line = refusal(load, tmp_path)
    assert all(word in line for word in [str(tmp_path), *words])


def test_resize_invents_no_labels_and_keeps_images_aligned_with_masks(tmp_path):
    mask = np.zeros((60, 90), np.uint8)
    mask[20:40, 30:75] = 3  # next to 0: any blending would give 1 or 2
    save_pair(tmp_path, "a", mask * 80, mask)
    data = load(tmp_path, size=(32, 48))
    assert data.images[0].shape == (3, 32, 48) and data.masks[0].unique().tolist() == [0, 3]
    assert ((data.images[0][0] > 120) == (data.masks[0] == 3)).float().mean() > 0.99


def test_how_much_larger_the_photographs_were(tmp_path):
    for name, height, width in (("a", 24, 32), ("b", 32, 16), ("c", 40, 80)):
        save_pair(tmp_path, name, np.zeros((height, width, 3), np.uint8), some_mask(height, width))
    assert load(tmp_path, size=(8, 8)).scale == (4, 4)  # the median's, down and across
    assert load(tmp_path, windows=True).scale == (1, 1)
    before = [{"image": f"test/{name}.png", "scale": [2, 3.5]} for name in "abc"]  # what prepare_data.py did to them
    (tmp_path / "dataset.json").write_text(json.dumps({"images": before}))
    assert load(tmp_path, size=(8, 8)).scale == (8, 14)


def test_random_crops_are_joint_native_and_fit(tmp_path):
    ramp = np.arange(20 * 30).reshape(20, 30)
    mask = (ramp % 251 % 4).astype(np.uint8)
    image = np.stack([ramp // 30, ramp % 30, mask], -1).astype(np.uint8)
    save_pair(tmp_path, "a", image, mask)
    save_pair(tmp_path, "small", noise(6, 12, 3), some_mask(6, 12))
    data = load(tmp_path, size=(8, 8), windows=True)
    assert [tuple(m.shape) for m in data.masks] == [(20, 30), (8, 16)]  # enlarged by 8/6, no more
    images, masks = data.batch(np.zeros(64, int), np.random.default_rng(1), flip="both")
    assert images.shape == (64, 3, 8, 8) and masks.shape == (64, 8, 8)
    assert torch.equal(images[:, 2], masks)
    corners = {(int(rows.min()), int(columns.min())) for rows, columns in zip(images[:, 0], images[:, 1], strict=True)}
    assert len(corners) > 30 and max(corner[0] for corner in corners) <= 12
    assert all(int(rows.max() - rows.min()) == 7 for rows in images[:, 0])
    assert load(tmp_path, windows=True, crop_from=(16, 12)).images[0].shape == (3, 16, 12)


def test_crops_around_defects(tmp_path):
    """One defect pixel in 40 x 24: with crop_defect 1 all windows hold it, and all that hold it occur."""
    mask, image = np.zeros((40, 24), np.uint8), noise(40, 24, 3)
    mask[2, 20] = 2
    save_pair(tmp_path, "a", image, mask)
    images, masks = load(tmp_path, windows=True, crop_defect=1.0).batch(np.zeros(400, int), np.random.default_rng(1))
    places = (masks == 2).nonzero()
    assert places[:, 0].tolist() == list(range(400))
    # The window's top may be 0..2 (the border is near) and its left 13..16: the pixel is then at these places in it.
    assert set(map(tuple, places[:, 1:].tolist())) == {(row, column) for row in (0, 1, 2) for column in (4, 5, 6, 7)}
    assert (images[places[:, 0], :, places[:, 1], places[:, 2]].numpy() == image[2, 20]).all()
    share = load(tmp_path, windows=True, crop_defect=0.5).batch(np.zeros(2000, int), np.random.default_rng(1))[1]
    expected = 0.5 + 0.5 * 12 / (33 * 17)  # windows that hold the pixel among all
    assert abs((share == 2).any(dim=2).any(dim=1).float().mean() - expected) < 4 * np.sqrt(expected / 2000)


@pytest.mark.parametrize(("flip", "kinds"), [("none", 1), ("horizontal", 2), ("vertical", 2), ("both", 4)])
def test_flips_are_joint_and_as_asked(tmp_path, flip, kinds):
    mask = noise(8, 8, top=4)
    save_pair(tmp_path, "a", mask, mask)
    images, masks = load(tmp_path).batch(np.zeros(64, int), np.random.default_rng(0), flip)
    assert torch.equal(images[:, 0], masks)
    assert len(torch.unique(masks, dim=0)) == kinds
    assert flip != "horizontal" or {m.tobytes() for m in masks.numpy()} == {mask.tobytes(), mask[:, ::-1].tobytes()}


def test_first_n_of_each_type(tmp_path):
    names = [f"{folder}/{index}" for folder in ("cut", "hole") for index in (10, 9, 1)]
    for name in names:
        save_pair(tmp_path / "typed", name, GREY, some_mask())
    for index, types in enumerate([[1], [1], [1, 2], [1], [2], [0], [3]]):
        save_pair(tmp_path / "flat", str(index), GREY, np.resize(types, (8, 8)).astype(np.uint8))
    assert load(tmp_path / "typed", num_image_train=2).names == ["cut/1", "cut/9", "hole/1", "hole/9"]
    assert load(tmp_path / "flat", num_image_train=1).names == ["0", "2", "6"]
    assert load(tmp_path / "flat", num_image_train=2).names == ["0", "1", "2", "4", "6"]
    assert len(load(tmp_path / "typed")) == 6 and len(load(tmp_path / "flat")) == 7


@pytest.mark.parametrize(("num_samples", "batch_size", "world_size"), [(25, 4, 1), (25, 4, 3), (3, 8, 2), (1, 5, 1)])
def test_each_epoch_holds_every_sample_once(num_samples, batch_size, world_size):
    places = [(step, rank) for step in range(40) for rank in range(world_size)]
    walk = np.concatenate([epoch_indices(num_samples, batch_size, *at, world_size, seed=7) for at in places])
    epochs = walk[: len(walk) // num_samples * num_samples].reshape(-1, num_samples)
    assert (np.sort(epochs, axis=1) == np.arange(num_samples)).all()
    if num_samples > 3:
        assert len(np.unique(epochs, axis=0)) == len(epochs)
        assert not np.array_equal(epochs[0], epoch_indices(num_samples, num_samples, 0, 0, 1, seed=8))
    halves = [epoch_indices(25, 8, 5, rank, 2, seed=3) for rank in (0, 1)]
    assert np.array_equal(np.concatenate(halves), epoch_indices(25, 16, 5, 0, 1, seed=3))  # ranks share one walk
