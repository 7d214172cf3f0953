"""Held masks and photographs: what is known comes out to the bit, whatever the sampler; the rest is drawn."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from guided_diffusion import DefectGen, InputError
from guided_diffusion.diffusion.conditioning import Known, known_masks
from guided_diffusion.diffusion.samplers import SAMPLERS
from guided_diffusion.generation.mask_bank import MaskBank, _widened
from guided_diffusion.joint_tensor import JointLayout

LAYOUTS = [JointLayout(("a", "b"), background) for background in (True, False)]


@pytest.fixture(scope="module")
def generator(trained_pair):
    return DefectGen.load(trained_pair.large, trained_pair.small, device="cpu", precision="fp32")


def some_masks(count, size=(32, 32), types=3):
    """Index masks uint8 [count, H, W] with a rectangle each, of types in turn."""
    masks = np.zeros((count, *size), np.uint8)
    for k in range(count):
        masks[k, 4 + 2 * k : 14 + 2 * k, 6 : 12 + 3 * k] = 1 + k % types
    return masks


def some_photographs(count, size=(32, 32)):
    return np.random.default_rng(0).integers(0, 256, (count, *size, 3), dtype=np.uint8)


def far_from(mask, margin):
    """bool [H, W]: further than `margin` pixels, along either axis, from every defect pixel. By brute force."""
    far = np.ones(mask.shape, bool)
    for y, x in np.argwhere(mask):
        far[max(0, y - margin) : y + margin + 1, max(0, x - margin) : x + margin + 1] = False
    return far


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("margin", [0, 3])
def test_what_is_held(layout, margin):
    masks, photographs = some_masks(3, (20, 24), 2), some_photographs(3, (20, 24))
    known = known_masks(layout, masks, photographs, margin, torch.device("cpu"))
    assert known.where[:, 3:].all()
    for k, mask in enumerate(masks):
        assert np.array_equal(known.where[k, :3].numpy(), np.broadcast_to(far_from(mask, margin), (3, 20, 24)))
    images, decoded = layout.decode(known.values)
    assert np.array_equal(images, photographs) and np.array_equal(decoded, masks)
    free = known_masks(layout, masks, None, margin, torch.device("cpu"))
    assert not free.where[:, :3].any() and free.where[:, 3:].all()


def test_the_start_is_known_parts_at_their_noise_level():
    generator = torch.Generator().manual_seed(0)
    values, noise = (torch.randn(1, 4, 200, 200, generator=generator) for _ in range(2))
    known = Known(torch.full_like(values, 0.5), torch.rand(values.shape, generator=generator) < 0.5)
    x = known.start(noise, 0.36)
    assert torch.equal(x[~known.where], noise[~known.where])
    held = x[known.where].double()  # mean sqrt(0.36) * 0.5, standard deviation sqrt(1 - 0.36)
    assert abs(held.mean() - 0.3) < 0.02 and abs(held.std() - 0.8) < 0.02


@pytest.mark.parametrize("sampler", SAMPLERS)
@pytest.mark.parametrize("step_inference", [0, 400, 1000])
def test_known_pixels_come_out_to_the_bit(generator, sampler, step_inference):
    masks, photographs = some_masks(4), some_photographs(4)
    batch = generator.generate(
        4, step_inference, num_steps=6, sampler=sampler, masks=masks, backgrounds=photographs, margin=2
    )
    assert np.array_equal(batch.masks, masks)
    for image, photograph, mask in zip(batch.images, photographs, masks, strict=True):
        far = far_from(mask, 2)
        assert np.array_equal(image[far], photograph[far])
        assert (image[mask > 0] != photograph[mask > 0]).mean() > 0.9


def test_samples_of_x_t_keep_to_the_known_at_every_level(generator):
    """A deterministic sampler carries sqrt(alpha_bar) m + sqrt(1 - alpha_bar) eps with one eps all the way."""
    layout, diffusion = generator.layout, generator.diffusion
    masks = some_masks(1)
    known = known_masks(layout, masks, None, 0, torch.device("cpu"))
    noise = torch.randn(known.values.shape, generator=torch.Generator().manual_seed(1))
    pairs = [(999, 700), (700, 300), (300, 20)]
    seen = []

    def predict_x0(x_t, t):
        seen.append((t, x_t))
        return torch.zeros_like(x_t)

    x = known.start(noise, diffusion.alpha_bar(999))
    SAMPLERS["ddim"](x, pairs, known.wrap(predict_x0), lambda x: x, diffusion.alpha_bar, None)
    for t, x_t in seen:
        a = diffusion.alpha_bar(t)
        expected = a**0.5 * known.values + (1 - a) ** 0.5 * noise
        assert (x_t - expected)[known.where].abs().max() < 1e-4


def test_without_a_defect_the_photograph_comes_back(generator):
    photographs = some_photographs(2)
    batch = generator.generate(2, num_steps=4, masks=np.zeros((2, 32, 32), np.uint8), backgrounds=photographs)
    assert np.array_equal(batch.images, photographs) and not batch.masks.any()


def test_sample_i_takes_mask_i_in_turn_whatever_the_batch(generator):
    masks = some_masks(3)
    whole = generator.generate(5, num_steps=4, masks=masks, batch_size=5)
    assert np.array_equal(whole.masks, masks[[0, 1, 2, 0, 1]])
    parts = generator.generate([3, 1], num_steps=4, masks=masks, batch_size=1)
    assert np.array_equal(parts.masks, masks[[0, 1]])
    assert np.abs(parts.images.astype(int) - whole.images[[3, 1]]).max() <= 1


def test_held_masks_change_the_image_and_none_changes_nothing(generator):
    free = generator.generate(2, num_steps=4)
    again = generator.generate(2, num_steps=4, masks=None, backgrounds=None)
    assert np.array_equal(free.images, again.images) and np.array_equal(free.masks, again.masks)
    assert (generator.generate(2, num_steps=4, masks=some_masks(2)).images != free.images).any()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"masks": some_masks(1, (16, 16))}, "expected uint8"),
        ({"masks": some_masks(1).astype(np.int64)}, "expected uint8"),
        ({"masks": some_masks(1) * 9}, "networks know 3"),
        ({"masks": some_masks(1)[:0]}, "expected uint8"),
        ({"masks": some_masks(2), "backgrounds": some_photographs(1)}, "expected uint8"),
        ({"backgrounds": some_photographs(1)}, "need masks"),
        ({"masks": some_masks(1), "margin": -1}, "--margin"),
    ],
)
def test_wrong_arrays_are_refused(generator, arguments, words):
    with pytest.raises(InputError, match=words):
        generator.generate(1, num_steps=4, **arguments)


# --- the command line ----------------------------------------------------------------------------------------------


def save(folder, arrays, names):
    folder.mkdir(parents=True, exist_ok=True)
    for name, array in zip(names, arrays, strict=True):
        Image.fromarray(array).save(folder / f"{name}.png")


@pytest.fixture
def run(run_script, trained_pair, tmp_path):
    save(tmp_path / "masks", some_masks(3), "abc")
    save(tmp_path / "photos", some_photographs(2), "xy")

    def run_here(*flags, status=0, out="out"):
        networks = ("--large_recep", trained_pair.large, "--small_recep", trained_pair.small)
        quick = ("--num_steps", 4, "--precision", "fp32", "--compile", "off", "--batch_size", 4)
        result = run_script("inference.py", *networks, "--sample_dir", tmp_path / out, *quick, *flags)
        assert result.returncode == status, result.stdout + result.stderr
        return result, tmp_path / out

    return run_here


def test_files_go_in_and_the_manifest_says_which(run, tmp_path):
    _, out = run("--masks", tmp_path / "masks", "--background", tmp_path / "photos", "--margin", 1)
    rows = [json.loads(line) for line in (out / "manifest.jsonl").open()]
    assert [row["condition"] for row in rows] == [
        {"mask": "a.png", "background": "x.png"},
        {"mask": "b.png", "background": "y.png"},
        {"mask": "c.png", "background": "x.png"},
    ]
    assert rows[0]["settings"]["conditions"]["masks"] == 3 and rows[0]["settings"]["conditions"]["margin"] == 1
    masks, photographs = some_masks(3), some_photographs(2)[[0, 1, 0]]
    for k in range(3):
        image, mask = (np.array(Image.open(out / rows[k][key])) for key in ("image", "index_mask"))
        far = far_from(masks[k], 1)
        assert np.array_equal(mask, masks[k]) and np.array_equal(image[far], photographs[k][far])
    assert (out / "contact_sheet.png").exists()


def test_photographs_named_like_the_masks_belong_to_them(run, tmp_path):
    save(tmp_path / "named", some_photographs(3)[::-1], "cba")
    _, out = run("--masks", tmp_path / "masks", "--background", tmp_path / "named")
    rows = [json.loads(line) for line in (out / "manifest.jsonl").open()]
    assert all(row["condition"]["mask"] == row["condition"]["background"] for row in rows)


def test_a_folder_is_not_continued_with_other_masks(run, tmp_path):
    run("--masks", tmp_path / "masks")
    run("--masks", tmp_path / "masks", "--num_samples", 4)
    save(tmp_path / "others", some_masks(3)[:, ::-1], "abc")
    result, _ = run("--masks", tmp_path / "others", "--num_samples", 5, status=2)
    assert "made with conditions" in result.stderr
    result, _ = run("--num_samples", 5, status=2)
    assert "conditions" in result.stderr


def test_bad_conditions_end_in_one_line(run, tmp_path):
    def refused(*flags):
        result, out = run(*flags, status=2, out="refused")
        assert result.stderr.count("\n") == 1 and "Traceback" not in result.stderr and not Path(out).exists()
        return result.stderr

    save(tmp_path / "small", some_masks(1, (16, 16)), "a")
    assert "a.png: is 16 x 16" in refused("--masks", tmp_path / "small")
    save(tmp_path / "labels", some_masks(1) * 9, "a")
    assert "a.png: holds value 9" in refused("--masks", tmp_path / "labels")
    save(tmp_path / "wide", some_photographs(1, (32, 48)), "a")
    masks = ("--masks", tmp_path / "masks")
    assert "a.png: is 32 x 48" in refused(*masks, "--background", tmp_path / "wide")
    assert "--background: needs --masks" in refused("--background", tmp_path / "photos")
    assert "is not a folder" in refused("--masks", tmp_path / "gone")
    (tmp_path / "empty").mkdir()
    assert "holds no image files" in refused("--masks", tmp_path / "empty")
    assert "--margin -1" in refused(*masks, "--margin", -1)


# --- the mask bank -------------------------------------------------------------------------------------------------


def bank_of(masks, flip="none"):
    """A bank of one data set held in memory."""
    layers = {k: np.stack([mask == k for mask in masks if (mask == k).any()]) for k in range(1, masks.max() + 1)}
    mirrored = {"none": (), "both": (0, 1)}[flip]
    return MaskBank(layers, {k: _widened(own.any(axis=0), mirrored) for k, own in layers.items()}, mirrored)


def test_bank_masks_are_new_balanced_and_kept_where_the_type_occurs():
    masks = np.zeros((6, 64, 64), np.uint8)
    for k in range(3):
        masks[k, 5 : 12 + k, 20:40] = 1  # at the top
        masks[3 + k, 30:60, 50 : 54 + k] = 2  # a bar at the right
    bank = bank_of(masks)
    drawn = [bank.draw(0, index, 1) for index in range(100)]
    assert [sum((mask == k).any() for mask in drawn) for k in (1, 2)] == [50, 50]
    assert all(len(np.unique(mask)) == 2 for mask in drawn)
    assert len({mask.tobytes() for mask in drawn}) > 95 and not any((mask == m).all() for mask in drawn for m in masks)
    for mask in drawn:
        for k in (1, 2):
            own = mask == k
            assert not own.any() or (own & bank.places[k]).sum() >= 0.9 * own.sum()
            top, left = np.argwhere(own).mean(axis=0) if own.any() else (None, None)
            assert top is None or (top < 25 if k == 1 else left > 40)
    areas = [(mask == 1).sum() for mask in drawn if (mask == 1).any()]
    assert 0.5 * 140 <= min(areas) and max(areas) <= 1.3**2 * 180 * 1.15
    assert np.array_equal(bank.draw(0, 7, 1), drawn[7]) and not np.array_equal(bank.draw(1, 7, 1), drawn[7])


def test_a_bank_defect_that_the_border_cuts_goes_on_beyond_it():
    mask = np.zeros((1, 64, 64), np.uint8)
    mask[0, :40, 20:44] = 1
    bank = bank_of(mask)
    for index in range(30):
        drawn = bank.draw(0, index, 1)
        assert drawn[0].any()  # never a cut edge inside the image


def test_several_types_per_image():
    masks = np.zeros((3, 32, 32), np.uint8)
    masks[0, 2:8, 2:8], masks[1, 2:8, 20:28], masks[2, 20:28, 10:20] = 1, 2, 3
    bank = bank_of(masks)
    for index in range(20):
        assert set(np.unique(bank.draw(0, index, 3))) == {0, 1, 2, 3}
        assert len(np.unique(bank.draw(0, index, 2))) == 3


def test_the_bank_on_the_command_line_grows_and_is_balanced(run, demo_data, tmp_path):
    bank = ("--masks", "bank", "--bank_data", demo_data)
    run(*bank, "--num_samples", 3)
    _, out = run(*bank, "--num_samples", 6)
    _, whole = run(*bank, "--num_samples", 6, out="whole")
    for folder in ("images", "masks_converted_dir"):
        pixels = [[np.array(Image.open(root / folder / f"{k:06d}.png")) for k in range(6)] for root in (out, whole)]
        assert all(np.abs(a.astype(int) - b).max() <= 1 for a, b in zip(*pixels, strict=True))
    rows = [json.loads(line) for line in (out / "manifest.jsonl").open()]
    counts = [sum(name in row["types"] for row in rows) for name in ("scratch", "stain", "pit")]
    assert counts == [2, 2, 2] and rows[0]["settings"]["conditions"]["masks"] == "bank"
    result, _ = run(*bank, "--types_per_image", 9, status=2)
    assert "--types_per_image 9: must be from 1 to 3" in result.stderr
    result, _ = run("--types_per_image", 2, status=2)
    assert "--types_per_image: goes with --masks bank only" in result.stderr
    result, _ = run(*bank, "--image_size", 16, 16, status=2, out="other")
    assert "--masks bank: makes masks of the training's 32 x 32" in result.stderr
