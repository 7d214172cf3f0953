"""Pixels: file kinds, refusals, resizing, crops, flips, the choice of few shots, and the order of samples."""

import numpy as np
import pytest
import torch
from PIL import Image

from guided_diffusion.data.image_datasets import DefectDataset, epoch_indices
from guided_diffusion.data.index_masks import read_index_mask
from guided_diffusion.errors import InputError


def save_pair(root, stem, image, mask, folder="", suffix=".png", **options):
    """Write an image and its mask (arrays or Pillow images) in the flat or typed Defect Spectrum layout."""
    for part, content, ending, extra in (("image", image, suffix, options), ("mask", mask, ".png", {})):
        path = root / part / folder / f"{stem}{ending}"
        path.parent.mkdir(parents=True, exist_ok=True)
        picture = content if isinstance(content, Image.Image) else Image.fromarray(content)
        picture.save(path, **extra)


def grey(height=8, width=8, value=100):
    return np.full((height, width, 3), value, np.uint8)


def some_mask(height=8, width=8, top=3):
    return (np.arange(height * width).reshape(height, width) % (top + 1)).astype(np.uint8)


def load(root, num_defect=3, resolution=(8, 8), **options):
    return DefectDataset.load(str(root), num_defect, resolution, **options)


def test_loads_names_shapes_and_pixels(tmp_path):
    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, (8, 8, 3), dtype=np.uint8)
    save_pair(tmp_path, "b 1", image, some_mask(), "cut")
    save_pair(tmp_path, "a", grey(), some_mask())
    data = load(tmp_path)
    assert data.names == ["a", "cut/b 1"] and len(data) == 2
    assert data.images[1].dtype == data.masks[1].dtype == torch.uint8
    assert np.array_equal(data.images[1].permute(1, 2, 0).numpy(), image)
    assert np.array_equal(data.masks[1].numpy(), some_mask())


def palette_mask(mask):
    image = Image.frombytes("P", mask.shape[::-1], mask.tobytes())
    image.putpalette([0, 0, 0, 200, 30, 30, 200, 200, 200, 9, 9, 9])
    return image


@pytest.mark.parametrize("make", [Image.fromarray, palette_mask, lambda mask: Image.fromarray(mask.astype(np.uint16))])
def test_index_masks_of_every_kind(tmp_path, make):
    make(some_mask()).save(tmp_path / "m.png")
    assert np.array_equal(read_index_mask(str(tmp_path / "m.png"), 3), some_mask())


def test_one_bit_mask_means_type_one(tmp_path):
    Image.fromarray(some_mask(top=1) == 1).save(tmp_path / "m.png")
    assert np.array_equal(read_index_mask(str(tmp_path / "m.png"), 1), some_mask(top=1))


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
    wide = np.random.default_rng(0).integers(0, 256, (4, 8, 3), dtype=np.uint8)
    for folder, mask in (("raw", some_mask(4, 8)), ("turned", some_mask(8, 4)), ("mirrored", some_mask(4, 8))):
        exif[0x0112] = 2 if folder == "mirrored" else 6
        save_pair(tmp_path / folder, "a", Image.fromarray(wide), mask, exif=exif)
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
    ],
)
def test_refused_masks(tmp_path, mask, words):
    save_pair(tmp_path, "a", grey(), mask)
    with pytest.raises(InputError) as caught:
        load(tmp_path)
    for word in ["mask/a.png", *words]:
        assert word in str(caught.value)


def test_refused_jpeg_masks(tmp_path):
    Image.fromarray(some_mask()).save(tmp_path / "m.jpg")
    with pytest.raises(InputError, match="JPEG"):
        read_index_mask(str(tmp_path / "m.jpg"), 3)


@pytest.mark.parametrize("part", ["image", "mask"])
@pytest.mark.parametrize("damage", ["truncated", "flipped", "text", "empty"])
def test_damaged_files_are_named(tmp_path, part, damage):
    noise = np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8)
    save_pair(tmp_path, "a", noise, some_mask(32, 32))
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


def test_crops_around_defects(tmp_path):
    """One defect pixel in 40 x 24: with crop_defect 1 all windows hold it, and all that hold it occur."""
    mask = np.zeros((40, 24), np.uint8)
    mask[2, 20] = 2
    image = np.random.default_rng(0).integers(0, 256, (40, 24, 3), dtype=np.uint8)
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


def test_crops_out_of_stretched_images(tmp_path):
    save_pair(tmp_path, "a", grey(10, 30), some_mask(10, 30))
    data = load(tmp_path, fit="random_crop", crop_from=(16, 12))
    assert data.images[0].shape == (3, 16, 12) and data.masks[0].shape == (16, 12)
    assert data.batch(np.array([0]), np.random.default_rng(0))[1].shape == (1, 8, 8)


def test_without_the_new_keys_crops_are_what_they_were(tmp_path):
    """Windows come from the same two draws per image as before crop_defect."""
    save_pair(tmp_path, "a", np.random.default_rng(0).integers(0, 256, (20, 30, 3), dtype=np.uint8), some_mask(20, 30))
    data = load(tmp_path, fit="random_crop")
    images, _ = data.batch(np.zeros(5, np.int64), np.random.default_rng(7))
    draws = np.random.default_rng(7)
    for image in images:
        top, left = int(draws.integers(0, 13)), int(draws.integers(0, 23))
        assert torch.equal(image, data.images[0][:, top : top + 8, left : left + 8])


@pytest.mark.parametrize(("flip", "kinds"), [("none", 1), ("horizontal", 2), ("vertical", 2), ("both", 4)])
def test_flips_are_joint_and_as_asked(tmp_path, flip, kinds):
    mask = np.random.default_rng(3).integers(0, 4, (8, 8), dtype=np.uint8)
    save_pair(tmp_path, "a", np.repeat(mask[..., None], 3, 2), mask)
    images, masks = load(tmp_path).batch(np.zeros(64, int), np.random.default_rng(0), flip)
    assert torch.equal(images[:, 0], masks)
    assert len(torch.unique(masks, dim=0)) == kinds
    again = load(tmp_path).batch(np.zeros(64, int), np.random.default_rng(0), flip)
    assert torch.equal(images, again[0])
    if flip == "horizontal":
        original = torch.from_numpy(mask)
        assert all(torch.equal(m, original) or torch.equal(m, original.flip(1)) for m in masks)


def test_first_n_of_each_type_folder(tmp_path):
    for folder in ("cut", "hole"):
        for index in (10, 9, 1):
            save_pair(tmp_path, str(index), grey(), some_mask(), folder)
    assert load(tmp_path, num_image_train=2).names == ["cut/1", "cut/9", "hole/1", "hole/9"]
    assert len(load(tmp_path)) == 6


def test_first_n_of_each_type_in_a_flat_layout(tmp_path):
    contents = [[1], [1], [1, 2], [1], [2], [0], [3]]
    for index, types in enumerate(contents):
        mask = np.zeros((8, 8), np.uint8)
        mask[0, : len(types)] = types
        save_pair(tmp_path, str(index), grey(), mask)
    assert load(tmp_path, num_image_train=1).names == ["0", "2", "6"]
    assert load(tmp_path, num_image_train=2).names == ["0", "1", "2", "4", "6"]
    assert len(load(tmp_path)) == 7


def test_flat_layout_without_any_defect_is_refused(tmp_path):
    save_pair(tmp_path, "0", grey(), np.zeros((8, 8), np.uint8))
    with pytest.raises(InputError, match="masks are empty"):
        load(tmp_path, num_image_train=1)


def test_to_device_keeps_everything(tmp_path):
    save_pair(tmp_path, "a", grey(), some_mask())
    data = load(tmp_path)
    assert data.to("cpu") is data and data.masks[0].device.type == "cpu"


@pytest.mark.parametrize(("num_samples", "batch_size", "world_size"), [(25, 4, 1), (25, 4, 3), (3, 8, 2), (1, 5, 1)])
def test_each_epoch_holds_every_sample_once(num_samples, batch_size, world_size):
    steps = 40
    walk = np.concatenate(
        [
            epoch_indices(num_samples, batch_size, step, rank, world_size, seed=7)
            for step in range(steps)
            for rank in range(world_size)
        ]
    )
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
