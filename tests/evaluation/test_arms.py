"""The pools of the arms: what is in them, how batches are drawn, what copy-paste makes."""

from __future__ import annotations

from collections import Counter
from importlib.util import find_spec

import numpy as np
import pytest
import torch

from guided_diffusion.errors import InputError
from guided_diffusion.evaluation import augmentation
from guided_diffusion.evaluation.arms import copy_paste, make_pool, plan_arms
from guided_diffusion.evaluation.augmentation import DEFECT_SHARE, Pool, cut_window, gamma_and_noise
from guided_diffusion.evaluation.image_sets import ImageSet

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
needs_torchvision = pytest.mark.skipif(not find_spec("torchvision"), reason="torchvision is not installed")


def drawn(pool: Pool, steps: int, batch_size: int = 8) -> list[Counter[int]]:
    """How often each image was drawn, by its red channel, at each step."""
    return [Counter(int(image[0, 0, 0]) for image, _ in pool.draw(batch_size, s, 0)) for s in range(steps)]


def test_arms_are_planned_in_order_and_left_out_where_samples_are_few() -> None:
    wanted = dict(ratios=(0.5, 1, 4), counts=(10,), baselines=("repeat", "copy_paste"), baseline_ratios=(1,))
    arms, notes = plan_arms(6, {"ours": 12}, **wanted, strict=())
    assert [(arm.name, arm.extra) for arm in arms] == [
        ("real", 0), ("repeat_x1", 6), ("copy_paste_x1", 6), ("ours_x0.5", 3), ("ours_x1", 6), ("ours_n10", 10),
    ]  # fmt: skip
    assert notes == ["Left out: ours_x4 needs 24 samples, but ours has 12."]
    with pytest.raises(InputError, match="--ratios: ours_x4 needs 24 samples, but ours has 12; make more"):
        plan_arms(6, {"ours": 12}, **wanted, strict=("ratios",))
    assert plan_arms(6, {"ours": 12}, **wanted, strict=("counts",)) == (arms, notes)


def test_every_arm_has_the_same_defect_free_share_and_size_of_batch() -> None:
    wanted = dict(ratios=(1,), counts=(), baselines=("plain", "repeat", "copy_paste"), baseline_ratios=(1,))
    arms, _ = plan_arms(6, {"ours": 12}, **wanted)
    for arm in arms:
        pool = make_pool(arm, REAL, GOOD, SAMPLES, (16, 16), 3, 0.25, None)
        assert pool.augment == (arm.kind != "plain") and len(pool.extra or ()) == arm.extra
        pairs = [pair for step in range(6) for pair in pool.draw(8, step, 0)]
        assert sum(not mask.any() for _, mask in pairs) == 12 and len(pairs) == 48


def test_all_images_are_drawn_equally_often() -> None:
    pool = Pool(REAL, SAMPLES, GOOD, (16, 16))
    total = sum(drawn(pool, 30), Counter())
    assert {total[i] for i in [*range(6), *range(150, 162)]} == {10} and {total[100 + i] for i in range(5)} == {12}
    alone = sum(drawn(Pool(REAL, None, GOOD, (16, 16)), 2), Counter())
    assert {alone[i] for i in range(6)} == {2}
    assert drawn(pool, 4) == drawn(pool, 4) and pool.draw(8, 0, 0)[3][0] is not pool.draw(8, 0, 1)[3][0]


def test_a_share_of_real_images_is_kept_in_each_batch() -> None:
    for batch in drawn(Pool(REAL, SAMPLES, GOOD, (16, 16), good_share=0.25, real_share=0.5), 5):
        assert sum(n for i, n in batch.items() if i < 100) == sum(n for i, n in batch.items() if i >= 150) == 3


def test_repeating_adds_nothing_but_the_real_images() -> None:
    arms, _ = plan_arms(6, {}, ratios=(), counts=(), baselines=("repeat",), baseline_ratios=(2,))
    extra = make_pool(arms[1], REAL, GOOD, None, (16, 16), 0, 0.25, None).extra
    assert Counter(extra.names) == {name: 2 for name in REAL.names}


@needs_torchvision
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


@needs_torchvision
def test_plain_windows_are_pieces_of_the_images() -> None:
    image = np.random.default_rng(0).integers(0, 256, (20, 20, 3), np.uint8)
    mask = np.zeros((20, 20), np.uint8)
    mask[4, 5] = 1
    pool = Pool(ImageSet([image], [mask], ["a"], ["a"], NAMES, ""), None, None, (12, 12), augment=False)
    pieces = {image[t : t + 12, left : left + 12].tobytes() for t in range(9) for left in range(9)}
    for window in pool.batch(6, 0, 0)[0]:
        assert window.permute(1, 2, 0).contiguous().numpy().tobytes() in pieces


def test_windows_hold_a_defect_as_often_as_said() -> None:
    mask = np.zeros((60, 60), np.uint8)
    mask[50, 3] = 2
    image = np.repeat(mask[..., None], 3, axis=2)
    rng = np.random.default_rng(0)
    windows = [cut_window(image, mask, (10, 12), rng) for _ in range(600)]
    assert {m.shape for _, m in windows} == {(10, 12)} and all((i[..., 0] == m).all() for i, m in windows)
    assert np.mean([m.any() for _, m in windows]) == pytest.approx(DEFECT_SHARE, abs=0.06)
    places = {tuple(np.argwhere(m)[0]) for _, m in windows if m.any()}
    assert len(places) == 10 * 4  # anywhere in the window that the border of the image leaves


def test_a_window_larger_than_its_image_is_mirrored() -> None:
    image = np.arange(4 * 5 * 3, dtype=np.uint8).reshape(4, 5, 3)
    window, mask = cut_window(image, image[..., 0], (6, 9), np.random.default_rng(0))
    np.testing.assert_array_equal(window, np.pad(image, ((1, 1), (2, 2), (0, 0)), mode="symmetric"))
    np.testing.assert_array_equal(mask, window[..., 0])


def test_gamma_and_noise_are_each_images_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(augmentation, "GAMMA", 1.4)
    monkeypatch.setattr(augmentation, "NOISE", 0.04)
    torch.manual_seed(0)
    changed = gamma_and_noise(torch.full((64, 3, 16, 16), 128, dtype=torch.uint8)).float()
    means, spread = changed.mean(dim=(1, 2, 3)), changed.std(dim=(1, 2, 3))
    # 255 (128 / 255) ** gamma for gammas of 1 / 1.4 to 1.4: 97 to 156; 255 * 0.04 is 10.2
    assert 96 < means.min() < 104 and 149 < means.max() < 157
    assert spread.min() < 1 and 9 < spread.max() < 11


def test_pasted_defects_are_those_of_real_images_in_good_ones() -> None:
    pasted = copy_paste(REAL, GOOD, 40, np.random.default_rng(0))
    origins, shapes = Counter(), Counter()
    for image, mask in zip(pasted.images, pasted.masks, strict=True):
        origins[int(np.bincount(image[..., 0].ravel()).argmax())] += 1
        assert image.shape == (24, 32, 3) and 6 <= (mask > 0).sum() <= 24  # 12, scaled
        assert len(np.unique(mask)) == 2
        assert (image[mask > 0][:, 1:] > 120).all()  # the defect is there
        far = np.ones_like(mask, bool)
        for y, x in np.argwhere(mask):
            far[max(0, y - 4) : y + 5, max(0, x - 4) : x + 5] = False
        assert (image[far] == image[0 if far[0, 0] else -1, 0 if far[0, 0] else -1]).all() or far.sum() == 0
        shapes[int(mask.max())] += 1
    assert origins == {100 + i: 8 for i in range(5)}  # the defect-free images, equally often
    assert abs(shapes[1] - shapes[2]) <= 4


def test_pasting_without_good_images_avoids_defects() -> None:
    pasted = copy_paste(REAL, None, 12, np.random.default_rng(1))
    areas = [int((mask > 0).sum()) for mask in pasted.masks]
    assert min(areas) >= 12 + 6  # its own and the pasted one, apart


def test_a_defect_larger_than_the_image_is_made_to_fit() -> None:
    mask = np.ones((24, 32), np.uint8)
    large = ImageSet([np.full((24, 32, 3), 200, np.uint8)], [mask], ["a"], ["a"], NAMES, "")
    small = image_set(1, (10, 12), defects=False)
    pasted = copy_paste(large, small, 1, np.random.default_rng(0))
    image, mask = pasted.images[0], pasted.masks[0]
    assert image.shape == (10, 12, 3) and mask.any()
