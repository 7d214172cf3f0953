"""The pools of the arms: what is in them, how batches are drawn, what copy-paste makes."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
import torch
from scipy.ndimage import maximum_filter

from guided_diffusion.errors import InputError
from guided_diffusion.evaluation import arms, segmenter
from guided_diffusion.evaluation.arms import copy_paste, plan_arms
from guided_diffusion.evaluation.image_sets import ImageSet, View
from guided_diffusion.evaluation.lift import Setup, make_pool
from guided_diffusion.evaluation.segmenter import DEFECT_SHARE, Pool, cut_window, gamma_and_noise

NAMES = ("scratch", "pit")


def image_set(
    count: int, size: tuple[int, int] = (24, 32), value: int = 0, defects: bool = True, side: int = 4
) -> ImageSet:
    """Images that tell by their red channel which one they are: value + k; a white defect of side x (side - 1) px."""
    images, masks = [], []
    for k in range(count):
        image, mask = np.full((*size, 3), 60, np.uint8), np.zeros(size, np.uint8)
        image[..., 0] = value + k
        if defects:
            top, left = 5 + k % 7, 4 + k
            mask[top : top + side, left : left + side - 1] = 1 + k % 2
            image[mask > 0, 1:] = 255
        images.append(image)
        masks.append(mask)
    names = [f"{value + k}" for k in range(count)]
    return ImageSet(images, masks, names, names, NAMES, "folder")


REAL, GOOD, SAMPLES = image_set(6), image_set(5, value=100, defects=False), image_set(12, (16, 16), value=150)


def drawn(pool: Pool, steps: int, batch_size: int = 8) -> list[Counter[int]]:
    """How often each image was drawn, by its red channel, at each step."""
    return [Counter(int(image[0, 0, 0]) for image, _ in pool.draw(batch_size, s, 0)) for s in range(steps)]


def test_arms_are_planned_in_order_and_left_out_where_samples_are_few() -> None:
    wanted = dict(ratios=(0.5, 1, 4), counts=(10,), baselines=("repeat", "copy_paste"))
    arms, notes = plan_arms(6, {"ours": 12}, **wanted, strict=())
    assert [(arm.name, arm.extra) for arm in arms] == [
        ("real", 0), ("repeat_x1", 6), ("copy_paste_x1", 6), ("ours_x0.5", 3), ("ours_x1", 6), ("ours_n10", 10),
    ]  # fmt: skip
    assert notes == ["Left out: ours_x4 needs 24 samples, but ours has 12."]
    with pytest.raises(InputError, match="--ratios: ours_x4 needs 24 samples, but ours has 12; make more"):
        plan_arms(6, {"ours": 12}, **wanted, strict=("ratios",))
    assert plan_arms(6, {"ours": 12}, **wanted, strict=("counts",)) == (arms, notes)


def test_every_arm_has_the_same_defect_free_share_and_size_of_batch() -> None:
    wanted = dict(ratios=(1,), counts=(), baselines=("plain", "repeat", "copy_paste"))
    arms, _ = plan_arms(6, {"ours": 12}, **wanted)
    setup = Setup(View((16, 16)), REAL, GOOD, REAL, GOOD, {"ours": [SAMPLES]})
    pools = {arm.kind: make_pool(arm, 0, 3, setup) for arm in arms}
    for arm in arms:
        pool = pools[arm.kind]
        assert pool.augment == (arm.kind != "plain") and len(pool.extra or ()) == arm.extra
        pairs = [pair for step in range(6) for pair in pool.draw(8, step, 0)]
        assert sum(not mask.any() for _, mask in pairs) == 12 and len(pairs) == 48
    assert sorted(pools["repeat"].extra.names) == sorted(REAL.names)
    assert pools["synthetic"].extra.names == SAMPLES.names[:6]


def test_all_images_are_drawn_equally_often_and_real_ones_by_their_share() -> None:
    pool = Pool(REAL, SAMPLES, GOOD, (16, 16))
    total = sum(drawn(pool, 30), Counter())
    assert {total[i] for i in [*range(6), *range(150, 162)]} == {10} and {total[100 + i] for i in range(5)} == {12}
    alone = sum(drawn(Pool(REAL, None, GOOD, (16, 16)), 2), Counter())
    assert {alone[i] for i in range(6)} == {2}
    assert drawn(pool, 4) == drawn(pool, 4) and pool.draw(8, 0, 0)[3][0] is not pool.draw(8, 0, 1)[3][0]
    for batch in drawn(Pool(REAL, SAMPLES, GOOD, (16, 16), good_share=0.25, real_share=0.5), 5):
        assert sum(n for i, n in batch.items() if i < 100) == sum(n for i, n in batch.items() if i >= 150) == 3


def test_image_and_mask_move_together() -> None:
    """White where there is a defect: after every augmentation, up to blur and interpolation at its border."""
    pool = Pool(image_set(6, (40, 48), side=14), None, None, (32, 32))
    agree = []
    for step in range(12):
        images, masks = pool.batch(8, step, 0)
        assert images.shape == (8, 3, 32, 32) and masks.shape == (8, 32, 32)
        assert images.dtype == masks.dtype == torch.uint8
        bright = images[:, 1:].float().mean(dim=1)
        for image, mask in zip(bright, masks > 0, strict=True):
            if mask.any():
                white = image > (image.max() + image.median()) / 2
                agree.append((white & mask).sum() / (white | mask).sum())
    assert len(agree) > 60 and np.mean(agree) > 0.85
    again = pool.batch(8, 11, 0)
    assert torch.equal(images, again[0]) and torch.equal(masks, again[1])
    assert not torch.equal(images, pool.batch(8, 11, 1)[0])


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
    plain = Pool(ImageSet([image], [mask], ["a"], ["a"], NAMES, ""), None, None, (10, 12), augment=False)
    assert all(x.permute(1, 2, 0).contiguous().numpy().tobytes() in pieces for x in plain.batch(6, 0, 0)[0])
    small = np.arange(4 * 5 * 3, dtype=np.uint8).reshape(4, 5, 3)
    window, mask = cut_window(small, small[..., 0], (6, 9), rng)  # larger than its image: mirrored
    np.testing.assert_array_equal(window, np.pad(small, ((1, 1), (2, 2), (0, 0)), mode="symmetric"))
    np.testing.assert_array_equal(mask, window[..., 0])


def test_gamma_and_noise_are_each_images_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(segmenter, "GAMMA", 1.4)
    monkeypatch.setattr(segmenter, "NOISE", 0.04)
    torch.manual_seed(0)
    changed = gamma_and_noise(torch.full((64, 3, 16, 16), 128, dtype=torch.uint8)).float()
    means, spread = changed.mean(dim=(1, 2, 3)), changed.std(dim=(1, 2, 3))
    # 255 (128 / 255) ** gamma for gammas of 1 / 1.4 to 1.4: 97 to 156; 255 * 0.04 is 10.2
    assert 96 < means.min() < 104 and 149 < means.max() < 157
    assert spread.min() < 1 and 9 < spread.max() < 11


def test_pasted_defects_are_those_of_real_images_in_good_ones() -> None:
    pasted = copy_paste(REAL, GOOD, 40, np.random.default_rng(0))
    origins = Counter(int(np.bincount(image[..., 0].ravel()).argmax()) for image in pasted.images)
    assert origins == {100 + i: 8 for i in range(5)}  # the defect-free images, equally often
    for image, mask in zip(pasted.images, pasted.masks, strict=True):
        assert 6 <= (mask > 0).sum() <= 24 and len(np.unique(mask)) == 2  # 12, scaled
        assert (image[mask > 0][:, 1:] > 120).all()  # the defect is there
    assert abs(np.diff(np.bincount([mask.max() for mask in pasted.masks])[1:])) <= 4


def test_pasting_is_exact_where_nothing_is_scaled_or_blended(monkeypatch: pytest.MonkeyPatch) -> None:
    """A square of 200 on 60, put on 90: 30 brighter as its surroundings are, to the pixel, up to its border."""
    monkeypatch.setattr(arms, "PASTE_SCALE", 1)
    real, good = image_set(1, side=8), image_set(1, defects=False)
    good.images[0][:] = 90
    real.images[0][:] = 60
    real.images[0][real.masks[0] > 0] = 200
    pasted = copy_paste(real, good, 20, np.random.default_rng(0))
    assert pasted.names == [f"copy_paste/{k}" for k in range(20)] and pasted.class_names == NAMES
    for image, mask in zip(pasted.images, pasted.masks, strict=True):
        assert (mask > 0).sum() == 8 * 7 and set(np.unique(mask)) == {0, 1}
        assert (image[mask > 0] == 230).all()
        assert (image[maximum_filter(mask, 9) == 0] == 90).all()


def test_pasting_avoids_defects_and_makes_what_is_larger_fit() -> None:
    pasted = copy_paste(REAL, None, 12, np.random.default_rng(1))
    assert min(int((mask > 0).sum()) for mask in pasted.masks) >= 12 + 6  # its own and the pasted one, apart
    large = ImageSet([np.full((24, 32, 3), 200, np.uint8)], [np.ones((24, 32), np.uint8)], ["a"], ["a"], NAMES, "")
    pasted = copy_paste(large, image_set(1, (10, 12), defects=False), 1, np.random.default_rng(0))
    assert pasted.images[0].shape == (10, 12, 3) and pasted.masks[0].any()
