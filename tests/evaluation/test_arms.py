"""The pools of the arms: what is in them, how batches are drawn, what copy-paste makes."""

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
import torch
from evaluating import image_set
from scipy.ndimage import maximum_filter

from guided_diffusion.evaluation import arms
from guided_diffusion.evaluation.arms import ALL, BASELINES, Arm, copy_paste, plan_arms
from guided_diffusion.evaluation.image_sets import ImageSet, View
from guided_diffusion.evaluation.lift import Setup, digest, make_pool, ratios
from guided_diffusion.evaluation.segmenter import DEFECT_SHARE, Pool, cut_window


def boxes(count: int, size: tuple[int, int] = (24, 32), value: int = 0, side: int = 4) -> ImageSet:
    """Images that tell by their red channel which one they are: value + k; a white defect of side x (side - 1) px."""
    images, masks = np.full((count, *size, 3), 60, np.uint8), np.zeros((count, *size), np.uint8)
    images[..., 0] = value + np.arange(count)[:, None, None]
    for k in range(count if side else 0):
        masks[k, 5 + k % 7 : 5 + k % 7 + side, 4 + k : 3 + k + side] = 1 + k % 2
    images[masks > 0, 1:] = 255
    return image_set(list(images), list(masks))


REAL, GOOD, SAMPLES = boxes(6), boxes(5, value=100, side=0), boxes(12, (16, 16), value=150)


def test_arms_are_planned_in_order_and_left_out_where_samples_are_few() -> None:
    arms, notes = plan_arms(6, {"ours": [SAMPLES]}, (0.5, 1, 4), ("repeat", "copy_paste"))
    found = {arm.name: arm.extra for arm in arms}
    assert found == {"real": 0, "repeat_x1": 6, "copy_paste_x1": 6, "ours_x0.5": 3, "ours_x1": 6}
    assert list(found)[0] == "real" and notes == ["Left out: ours_x4 needs 24 samples, but ours has 12."]
    for asked, name in ((ALL, "ours_all"), (2, "ours_x2")):
        arm = Arm(name, "synthetic", 12, 2, "ours")
        assert plan_arms(6, {"ours": [SAMPLES]}, ratios(f"all,{asked}"), ())[0][1:] == [arm]  # never the same twice


def test_every_arm_has_the_same_defect_free_share_and_draws_all_others_equally_often() -> None:
    arms, _ = plan_arms(6, {"ours": [SAMPLES]}, (2,), BASELINES)
    setup = Setup(View((16, 16)), REAL, GOOD, REAL, GOOD, {"ours": [SAMPLES]}, 1, torch.device("cpu"), "")
    pools = {arm.kind: make_pool(arm, 0, 3, setup) for arm in arms}
    for arm in arms:
        pool = pools[arm.kind]
        assert len(pool.extra or ()) == arm.extra
        pairs = [pair for step in range(6) for pair in pool.draw(step, 0)]
        assert sum(not mask.any() for _, mask in pairs) == 12 and len(pairs) == 48
    assert sorted(pools["repeat"].extra.names) == sorted(REAL.names)
    total = Counter(int(image[0, 0, 0]) for step in range(30) for image, _ in pools["synthetic"].draw(step, 0))
    assert total == {i: 12 if 100 <= i < 150 else 10 for i in (*range(6), *range(100, 105), *range(150, 162))}
    assert pool.draw(0, 0)[3][0] is not pool.draw(0, 1)[3][0]


def test_image_and_mask_move_together() -> None:
    """White where there is a defect, up to interpolation at its border."""
    pool = Pool(boxes(6, (40, 48), side=14), None, None, (32, 32))
    agree = []
    for step in range(12):
        images, masks = pool.batch(step, 0)
        assert images.shape == (8, 3, 32, 32) and masks.shape == (8, 32, 32)
        assert images.dtype == masks.dtype == torch.uint8
        for image, mask in zip(images[:, 1:].float().mean(dim=1), masks > 0, strict=True):
            if mask.any():
                white = image > (image.max() + image.median()) / 2
                agree.append((white & mask).sum() / (white | mask).sum())
    assert len(agree) > 60 and np.mean(agree) > 0.85
    again = pool.batch(11, 0)
    assert torch.equal(images, again[0]) and torch.equal(masks, again[1])
    assert not torch.equal(images, pool.batch(11, 1)[0])


def test_windows_are_pieces_of_the_image_and_hold_a_defect_as_often_as_said() -> None:
    mask = np.zeros((60, 60), np.uint8)
    mask[50, 3] = 2
    image = np.random.default_rng(0).integers(0, 256, (60, 60, 3), np.uint8)
    rng = np.random.default_rng(0)
    windows = [cut_window(image, mask, (10, 12), rng) for _ in range(600)]
    pieces = {image[t : t + 10, left : left + 12].tobytes() for t in range(51) for left in range(49)}
    assert all(window.tobytes() in pieces for window, _ in windows)
    assert np.mean([own.any() for _, own in windows]) == pytest.approx(DEFECT_SHARE, abs=0.06)
    places = {tuple(np.argwhere(own)[0]) for _, own in windows if own.any()}
    assert len(places) == 10 * 4  # anywhere in the window that the border of the image leaves
    small = image[:4, :5]
    window, mask = cut_window(small, small[..., 0], (6, 9), rng)  # larger than its image: mirrored
    np.testing.assert_array_equal(window, np.pad(small, ((1, 1), (2, 2), (0, 0)), mode="symmetric"))
    np.testing.assert_array_equal(mask, window[..., 0])


def test_pasting_is_exact_where_nothing_is_scaled_or_blended(monkeypatch: pytest.MonkeyPatch) -> None:
    """Squares of 255 on 60, put on 40: 20 darker as their surroundings are, to the pixel, up to their border."""
    monkeypatch.setattr(arms, "PASTE_SCALE", 1)
    real, good = boxes(2, side=8), boxes(5, value=100, side=0)
    for image in good.images:
        image[..., 1:] = 40
    pasted = copy_paste(real, good, 20, np.random.default_rng(0))
    assert Counter(int(image[0, 0, 0]) for image in pasted.images) == {100 + i: 4 for i in range(5)}
    assert Counter(int(mask.max()) for mask in pasted.masks) == {1: 10, 2: 10}
    for image, mask in zip(pasted.images, pasted.masks, strict=True):
        assert (mask > 0).sum() == 8 * 7 and len(np.unique(mask)) == 2
        assert (image[..., 0] == image[0, 0, 0]).all() and (image[mask > 0, 1:] == 235).all()
        assert (image[maximum_filter(mask, 9) == 0, 1:] == 40).all()


def test_pasting_avoids_defects_and_makes_what_is_larger_fit() -> None:
    pasted = copy_paste(REAL, None, 12, np.random.default_rng(1))
    sizes = [int((mask > 0).sum()) for mask in pasted.masks]
    assert 12 + 6 <= min(sizes) < 12 + 12 < max(sizes) <= 12 + 24  # its own and the pasted one, apart and scaled
    large = image_set([np.full((24, 32, 3), 200, np.uint8)], [np.ones((24, 32), np.uint8)])
    pasted = copy_paste(large, boxes(1, (10, 12), side=0), 1, np.random.default_rng(0))
    assert pasted.images[0].shape == (10, 12, 3) and pasted.masks[0].any()


def test_all_that_decides_a_training_is_in_the_name_of_its_file() -> None:
    pool = Pool(REAL, SAMPLES, GOOD, (16, 16))
    relabelled = replace(REAL, masks=[mask[::-1].copy() for mask in REAL.masks])
    changes = {"real": relabelled}, {"extra": REAL}, {"extra": None}, {"good": None}, {"size": (8, 8)}
    found = [digest(pool, 1, "unet"), digest(pool, 2, "unet"), digest(pool, 1, "deeplab")]
    found += [digest(replace(pool, **change), 1, "unet") for change in changes]
    assert len(set(found)) == len(found) == 8


def test_each_run_of_a_generator_trains_on_its_own_samples_and_seeds_paste_anew() -> None:
    runs = [SAMPLES, boxes(12, (16, 16), value=200)]
    setup = Setup(View((16, 16)), REAL, GOOD, REAL, GOOD, {"ours": runs}, 1, torch.device("cpu"), "")
    arm, pasted = Arm("ours_x1", "synthetic", 6, 1, "ours", 2), Arm("copy_paste_x1", "copy_paste", 6, 1)
    reds = [int(make_pool(arm, run, 0, setup).extra.images[0][0, 0, 0]) for run in (0, 1)]
    assert reds == [150, 200]
    extra = [make_pool(pasted, 0, seed, setup).extra.images for seed in (0, 1)]
    assert {int(image[0, 0, 0]) // 100 for image in extra[0]} == {1}  # into defect-free ones
    assert any((one != other).any() for one, other in zip(*extra, strict=True))


def test_where_no_place_is_free_pasting_covers_fewest_defects_and_erases_none() -> None:
    """Left of column 60 all is defective, right of it a pixel in sixteen."""
    mask = np.zeros((24, 120), np.uint8)
    mask[:, :60], mask[::4, 60::4] = 2, 2
    ground = image_set([np.full((24, 120, 3), 60, np.uint8)], [mask])
    for own in copy_paste(boxes(1), ground, 10, np.random.default_rng(0)).masks:
        assert (own[mask > 0] > 0).all() and np.argwhere(own == 1)[:, 1].min() > 50
