"""The segmenter: learns, repeats itself, predicts at any size; the agreement of masks with it."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from drawn_boxes import TYPES, draw, image_set

from guided_diffusion.evaluation import segmenter
from guided_diffusion.evaluation.segmenter import (
    Pool,
    Segmenter,
    agreement,
    class_weights,
    segmentation_loss,
    train_segmenter,
)


@pytest.fixture(scope="module")
def trained() -> Segmenter:
    with pytest.MonkeyPatch.context() as patch:
        for name, value in {"CHANNELS": 16, "BATCH_SIZE": 4, "NUM_GOOD": 0, "LEARNING_RATE": 0.01}.items():
            patch.setattr(segmenter, name, value)
        return train_segmenter(Pool(image_set(*draw(8, 0)), None, None, (32, 32)), 80, 0)


def test_it_learns_and_shuffled_masks_agree_less(trained: Segmenter) -> None:
    true = image_set(*draw(10, 1))
    shuffled = replace(true, masks=np.roll(true.masks, 3, axis=0))
    (each, found), (each_worse, worse) = agreement(trained, true), agreement(trained, shuffled)
    assert each.shape == (10,) and each.mean() > 0.4 and each_worse.mean() < 0.2
    assert found["mean"]["value"] == pytest.approx(each.mean())
    for name in TYPES:
        assert found["per_type"][name]["interval"][0] > worse["per_type"][name]["interval"][1]


def test_same_seed_same_segmenter_and_other_random_numbers_are_left_alone() -> None:
    pool = Pool(image_set(*draw(4, 0)), image_set(*draw(4, 1)), None, (32, 32))
    torch.manual_seed(7)
    expected = torch.rand(3)
    torch.manual_seed(7)
    first, *others = (train_segmenter(pool, 2, seed).net.segmentation_head[0].weight for seed in (0, 0, 1))
    assert torch.equal(torch.rand(3), expected)
    assert torch.equal(first, others[0]) and not torch.equal(first, others[1])


def test_predicts_each_image_at_its_own_size(trained: Segmenter) -> None:
    rng = np.random.default_rng(0)
    images = [rng.integers(0, 256, (*size, 3), np.uint8) for size in ((32, 32), (21, 45), (32, 32), (7, 9))]
    masks = trained.predict(images)
    assert [mask.shape for mask in masks] == [image.shape[:2] for image in images]
    assert all(mask.dtype == np.uint8 and mask.max() <= 2 for mask in masks)
    np.testing.assert_array_equal(masks[1], trained.predict(images[1:2])[0])
    assert trained.predict([]) == []


def test_loss_is_its_formula_in_float64() -> None:
    rng = np.random.default_rng(0)
    logits, masks = rng.normal(size=(2, 4, 3, 5)), rng.integers(0, 3, (2, 3, 5))  # class 3 is not shown
    weights = np.array([1.0, 4.0, 2.0, 9.0])
    probability = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    of_truth = np.take_along_axis(probability, masks[:, None], axis=1)[:, 0]
    entropy = -(weights[masks] * np.log(of_truth)).sum() / weights[masks].sum()
    both = [(probability[:, k], masks == k) for k in range(3)]
    dice = [2 * (p * y).sum() / (p.sum() + y.sum()) for p, y in both]
    found = segmentation_loss(torch.tensor(logits), torch.tensor(masks), torch.tensor(weights))
    assert float(found) == pytest.approx(entropy + 1 - np.mean(dice))


def test_rare_types_weigh_more() -> None:
    mask = np.zeros((10, 10), np.uint8)
    mask[0, :4], mask[1, :1] = 1, 2
    np.testing.assert_allclose(class_weights([mask], 3), np.sqrt([1, 95 / 4, 95, 95]), rtol=1e-6)
