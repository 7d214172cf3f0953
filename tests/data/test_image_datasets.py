"""Pixels: file kinds, refusals, resizing, crops, flips, the choice of few shots, and the order of samples."""

import numpy as np
import pytest
import torch
from drawn_formats import save, with_palette
from PIL import Image

from guided_diffusion.data.image_datasets import DefectDataset, epoch_indices
from guided_diffusion.data.image_files import read_index_mask
from guided_diffusion.errors import InputError

GT = "converted_ground_truth"


def save_pair(root, stem, image, mask, folder="", suffix=".png", **options):
    """Write an image and its mask (arrays or Pillow images) of a prepared set."""
    save(root / "test" / folder / f"{stem}{suffix}", image, **options)
    save(root / GT / folder / f"{stem}.png", mask)


def grey(height=8, width=8):
    return np.full((height, width, 3), 100, np.uint8)


def noise(*shape, top=256):
    return np.random.default_rng(0).integers(0, top, shape, dtype=np.uint8)


def some_mask(height=8, width=8, top=3):
    return (np.arange(height * width).reshape(height, width) % (top + 1)).astype(np.uint8)


def load(root, num_defect=3, resolution=(8, 8), **options):
    return DefectDataset.load(str(root), num_defect, resolution, **options)


def test_loads_names_shapes_and_pixels(tmp_path):
    image = noise(8, 8, 3)
    save_pair(tmp_path, "b 1", image, some_mask(), "cut")
    save_pair(tmp_path, "a", grey(), some_mask())
    data = load(tmp_path)
    assert data.names == ["a", "cut/b 1"] and len(data) == 2
    assert data.images[1].dtype == data.masks[1].dtype == torch.uint8
    assert np.array_equal(data.images[1].permute(1, 2, 0).numpy(), image)
    assert np.array_equal(data.masks[1].numpy(), some_mask())


@pytest.mark.parametrize(
    ("make", "top"),
    [(np.asarray, 3), (with_palette, 3), (lambda mask: mask.astype(np.uint16), 3), (lambda mask: mask == 1, 1)],
)
def test_index_masks_of_every_kind(tmp_path, make, top):
    save(tmp_path / "m.png", make(some_mask(top=top)))
    assert np.array_equal(read_index_mask(str(tmp_path / "m.png"), top), some_mask(top=top))


@pytest.mark.parametrize(
    ("picture", "suffix", "expected"),
    [
        (Image.new("L", (8, 8), 80), ".png", [80, 80, 80]),
        (Image.new("RGBA", (8, 8), (10, 20, 30, 0)), ".png", [10, 20, 30]),
        (Image.new("LA", (8, 8), (50, 7)), ".png", [50, 50, 50]),
        (Image.fromarray(np.full((8, 8), 65535, np.uint16)), ".png", [255, 255, 255]),
        (Image.fromarray(np.full((8, 8), 257 * 12, np.uint16)), ".tif", [12, 12, 12]),
        (Image.new("1", (8, 8), 1), ".png", [255, 255, 255]),
        (Image.new("CMYK", (8, 8), (0, 0, 0, 255)), ".tif", [0, 0, 0]),
    ],
)
def test_images_of_every_kind_become_rgb(tmp_path, picture, suffix, expected):
    save_pair(tmp_path, "a", picture, some_mask(), suffix=suffix)
    assert load(tmp_path).images[0][:, 4, 4].tolist() == expected


def test_exif_rotation_is_followed_where_the_mask_follows_it(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # shown turned by 90 degrees clockwise
    wide = noise(4, 8, 3)
    for folder, mask in (("raw", some_mask(4, 8)), ("turned", some_mask(8, 4)), ("mirrored", some_mask(4, 8))):
        exif[0x0112] = 2 if folder == "mirrored" else 6
        save_pair(tmp_path / folder, "a", wide, mask, exif=exif)
    assert (load(tmp_path / "raw", resolution=(4, 8)).images[0].permute(1, 2, 0).numpy() == wide).all()
    turned = load(tmp_path / "turned", resolution=(8, 4)).images[0].permute(1, 2, 0).numpy()
    assert (turned == np.rot90(wide, -1)).all()
    with pytest.raises(InputError, match="EXIF"):
        load(tmp_path / "mirrored")


@pytest.mark.parametrize(
    ("mask", "words"),
    [
        (some_mask(top=1) * 255, ["255", "num_defect is 3", "0/255 mask?", "prepare_data.py"]),
        (some_mask(top=5), ["value 4", "num_defect is 3", "Set num_defect to 5"]),
        (some_mask(top=60) * 4, ["num_defect is 3", "soft or coloured"]),
        (grey(), ["RGB mask?"]),
        (Image.new("RGBA", (8, 8)), ["RGB mask?"]),
        (some_mask(9, 8), ["8 x 9 pixels", "8 x 8"]),
        (0 * some_mask(), ["masks are empty"]),
    ],
)
def test_refused_masks(tmp_path, mask, words):
    save_pair(tmp_path, "a", grey(), mask)
    with pytest.raises(InputError) as caught:
        load(tmp_path)
    assert all(word in str(caught.value) for word in [str(tmp_path), *words])


@pytest.mark.parametrize("part", ["test", GT])
@pytest.mark.parametrize("damage", ["truncated", "flipped", "text", "empty"])
def test_damaged_files_are_named(tmp_path, part, damage):
    save_pair(tmp_path, "a", noise(32, 32, 3), some_mask(32, 32))
    path = tmp_path / part / "a.png"
    good = path.read_bytes()
    middle = len(good) // 2
    bad = {
        "truncated": good[:middle],
        "flipped": good[:middle] + bytes(255 - byte for byte in good[middle : middle + 8]) + good[middle + 8 :],
        "text": b"not an image",
        "empty": b"",
    }
    path.write_bytes(bad[damage])
    with pytest.raises(InputError, match=f"{part}/a.png"):
        load(tmp_path)


def test_resize_invents_no_labels_and_keeps_images_aligned_with_masks(tmp_path):
    mask = np.zeros((60, 90), np.uint8)
    mask[20:40, 30:75] = 3  # next to 0: any blending would give 1 or 2
    save_pair(tmp_path, "a", np.repeat((mask * 80)[..., None], 3, 2), mask)
    data = load(tmp_path, resolution=(32, 48))
    assert data.images[0].shape == (3, 32, 48) and data.masks[0].unique().tolist() == [0, 3]
    agree = (data.images[0][0] > 120) == (data.masks[0] == 3)
    assert agree.float().mean() > 0.99


def test_random_crops_are_joint_native_and_fit(tmp_path):
    ramp = np.arange(20 * 30).reshape(20, 30)
    mask = (ramp % 251 % 4).astype(np.uint8)
    image = np.stack([ramp // 30, ramp % 30, mask], -1).astype(np.uint8)
    save_pair(tmp_path, "a", image, mask)
    save_pair(tmp_path, "small", grey(6, 12), some_mask(6, 12))
    data = load(tmp_path, resolution=(8, 8), fit="random_crop")
    assert [tuple(m.shape) for m in data.masks] == [(20, 30), (8, 16)]  # enlarged by 8/6, no more
    images, masks = data.batch(np.zeros(64, int), np.random.default_rng(1), flip="both")
    assert images.shape == (64, 3, 8, 8) and masks.shape == (64, 8, 8)
    assert torch.equal(images[:, 2], masks)
    corners = {(int(rows.min()), int(columns.min())) for rows, columns in zip(images[:, 0], images[:, 1], strict=True)}
    assert len(corners) > 30 and max(corner[0] for corner in corners) <= 12
    assert all(int(rows.max() - rows.min()) == 7 for rows in images[:, 0])
    stretched = load(tmp_path, fit="random_crop", crop_from=(16, 12))
    assert stretched.images[0].shape == (3, 16, 12) and stretched.masks[0].shape == (16, 12)
    assert stretched.batch(np.array([0]), np.random.default_rng(0))[1].shape == (1, 8, 8)


def test_crops_around_defects(tmp_path):
    """One defect pixel in 40 x 24: with crop_defect 1 all windows hold it, and all that hold it occur."""
    mask = np.zeros((40, 24), np.uint8)
    mask[2, 20] = 2
    image = noise(40, 24, 3)
    save_pair(tmp_path, "a", image, mask)
    data = load(tmp_path, fit="random_crop", crop_defect=1.0)
    images, masks = data.batch(np.zeros(400, np.int64), np.random.default_rng(1))
    assert (masks == 2).sum(dim=(1, 2)).tolist() == [1] * 400
    places = {tuple((mask == 2).nonzero()[0].tolist()) for mask in masks}
    # The window's top may be 0..2 (the border is near) and its left 13..16: the pixel is then at these places in it.
    assert places == {(row, column) for row in (0, 1, 2) for column in (4, 5, 6, 7)}
    for window, at in zip(images, masks, strict=True):
        row, column = (at == 2).nonzero()[0].tolist()
        assert np.array_equal(window.permute(1, 2, 0).numpy()[row, column], image[2, 20])
    share = load(tmp_path, fit="random_crop", crop_defect=0.5).batch(np.zeros(2000, np.int64), np.random.default_rng(1))
    anywhere = 12 / (33 * 17)  # windows that hold the pixel among all
    expected = 0.5 + 0.5 * anywhere
    assert abs((share[1] == 2).any(dim=2).any(dim=1).float().mean() - expected) < 4 * np.sqrt(expected / 2000)


@pytest.mark.parametrize(("flip", "kinds"), [("none", 1), ("horizontal", 2), ("vertical", 2), ("both", 4)])
def test_flips_are_joint_and_as_asked(tmp_path, flip, kinds):
    mask = noise(8, 8, top=4)
    save_pair(tmp_path, "a", np.repeat(mask[..., None], 3, 2), mask)
    images, masks = load(tmp_path).batch(np.zeros(64, int), np.random.default_rng(0), flip)
    assert torch.equal(images[:, 0], masks)
    assert len(torch.unique(masks, dim=0)) == kinds
    again = load(tmp_path).batch(np.zeros(64, int), np.random.default_rng(0), flip)
    assert torch.equal(images, again[0])
    if flip == "horizontal":
        original = torch.from_numpy(mask)
        assert all(torch.equal(m, original) or torch.equal(m, original.flip(1)) for m in masks)


def test_first_n_of_each_type(tmp_path):
    for folder in ("cut", "hole"):
        for index in (10, 9, 1):
            save_pair(tmp_path / "typed", str(index), grey(), some_mask(), folder)
    assert load(tmp_path / "typed", num_image_train=2).names == ["cut/1", "cut/9", "hole/1", "hole/9"]
    for index, types in enumerate([[1], [1], [1, 2], [1], [2], [0], [3]]):
        mask = np.zeros((8, 8), np.uint8)
        mask[0, : len(types)] = types
        save_pair(tmp_path / "flat", str(index), grey(), mask)
    assert load(tmp_path / "flat", num_image_train=1).names == ["0", "2", "6"]
    assert load(tmp_path / "flat", num_image_train=2).names == ["0", "1", "2", "4", "6"]
    assert len(load(tmp_path / "typed")) == 6 and len(load(tmp_path / "flat")) == 7


@pytest.mark.parametrize(("num_samples", "batch_size", "world_size"), [(25, 4, 1), (25, 4, 3), (3, 8, 2), (1, 5, 1)])
def test_each_epoch_holds_every_sample_once(num_samples, batch_size, world_size):
    steps = 40
    places = [(step, rank) for step in range(steps) for rank in range(world_size)]
    walk = np.concatenate([epoch_indices(num_samples, batch_size, *at, world_size, seed=7) for at in places])
    epochs = walk[: len(walk) // num_samples * num_samples].reshape(-1, num_samples)
    assert (np.sort(epochs, axis=1) == np.arange(num_samples)).all()
    if num_samples > 3:
        assert len(np.unique(epochs, axis=0)) == len(epochs)


def test_epoch_indices_depend_on_the_seed_and_on_nothing_else():
    first = epoch_indices(25, 16, step=1000, rank=1, world_size=2, seed=0)
    assert np.array_equal(first, epoch_indices(25, 16, step=1000, rank=1, world_size=2, seed=0))
    assert not np.array_equal(first, epoch_indices(25, 16, step=1000, rank=1, world_size=2, seed=1))
    # Two ranks with half the batch see together what one process sees.
    halves = [epoch_indices(25, 8, 5, rank, 2, seed=3) for rank in (0, 1)]
    assert np.array_equal(np.concatenate(halves), epoch_indices(25, 16, 5, 0, 1, seed=3))
