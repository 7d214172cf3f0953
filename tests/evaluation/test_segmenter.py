"""The segmenter: learns, repeats itself, predicts at any size; scores against loops over pixels and scikit-learn."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from evaluating import TYPES, draw, image_set

from guided_diffusion.data.image_files import View
from guided_diffusion.evaluation import segmenter
from guided_diffusion.evaluation.image_sets import ImageSet, RealSets
from guided_diffusion.evaluation.segmenter import Outcome, Pool, Segmenter, agreement, count_pixels, scores


@pytest.fixture(scope="module", params=["deeplab", "unet"])
def trained(request: pytest.FixtureRequest) -> Segmenter:
    rates = dict.fromkeys(segmenter.SEGMENTERS, 0.01)
    with pytest.MonkeyPatch.context() as patch:
        for name, value in {"CHANNELS": 16, "BATCH_SIZE": 4, "NUM_GOOD": 0, "LEARNING_RATES": rates}.items():
            patch.setattr(segmenter, name, value)
        return segmenter.train_segmenter(Pool(image_set(*draw(8, 0)), None, None, (32, 32)), 80, 0, kind=request.param)


def test_it_learns_and_shuffled_masks_agree_less(trained: Segmenter) -> None:
    true = image_set(*draw(10, 1))
    shuffled = replace(true, masks=np.roll(true.masks, 3, axis=0))
    (each, found), (each_worse, worse) = agreement(trained, true), agreement(trained, shuffled)
    assert each.shape == (10,) and each.mean() > 0.4 and each_worse.mean() < 0.2
    assert found["mean"]["value"] == pytest.approx(each.mean())
    for name in TYPES:
        assert found["per_type"][name]["interval"][0] > worse["per_type"][name]["interval"][1]


@pytest.mark.parametrize(("kind", "parameters"), [("deeplab", 131_139), ("unet", 488_035)])
def test_same_seed_same_segmenter_and_other_random_numbers_are_left_alone(kind: str, parameters: int) -> None:
    pool = Pool(image_set(*draw(4, 0)), image_set(*draw(4, 1)), None, (32, 32))
    torch.manual_seed(7)
    expected = torch.rand(3)
    torch.manual_seed(7)
    trainings = [segmenter.train_segmenter(pool, 2, seed, kind=kind).parameters() for seed in (0, 0, 1)]
    first, *others = (torch.cat([part.flatten() for part in own if part.requires_grad]) for own in trainings)
    assert len(first) == parameters
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
    found = segmenter.segmentation_loss(torch.tensor(logits), torch.tensor(masks), torch.tensor(weights))
    assert float(found) == pytest.approx(entropy + 1 - np.mean(dice))


def counts_of(predicted: np.ndarray, truth: np.ndarray) -> np.ndarray:
    pairs = zip(predicted.astype(np.uint8), truth.astype(np.uint8), strict=True)
    return np.stack([count_pixels(p, t, 3) for p, t in pairs])


def test_scores_agree_with_scikit_learn() -> None:
    metrics = pytest.importorskip("sklearn.metrics")
    truth, predicted = (np.random.default_rng(seed).choice(4, (6, 8, 10), p=[0.7, 0.1, 0.1, 0.1]) for seed in (0, 1))
    predicted[:3] = truth[:3]  # not all chance
    counts = counts_of(predicted, truth)
    ours = scores(Outcome(counts, np.zeros(0, int), 20), np.ones((1, 6)))
    flat = {"y_true": truth.ravel(), "y_pred": predicted.ravel(), "labels": [1, 2, 3]}
    np.testing.assert_allclose(ours["iou_types"][0], metrics.jaccard_score(**flat, average=None))
    np.testing.assert_allclose(ours["miou"][0], metrics.jaccard_score(**flat, average="macro"))
    np.testing.assert_allclose(ours["f1"][0], metrics.f1_score(truth.ravel() > 0, predicted.ravel() > 0))


def test_a_type_without_truth_is_left_out_of_means() -> None:
    """Also where it is predicted; and weights choose the images: the second alone holds type 3."""
    truth = np.zeros((2, 4, 4), int)
    truth[:, :2] = 1
    truth[1, 3] = 3
    predicted = np.where(truth == 1, 1, 2)  # all of type 1, else wrong: everywhere type 2, which truth never holds
    found = scores(Outcome(counts_of(predicted, truth), np.zeros(0, int), 1), np.array([[1.0, 0.0], [1.0, 1.0]]))
    np.testing.assert_allclose(found["iou_types"], [[1, np.nan, np.nan], [1, np.nan, 0]])
    np.testing.assert_allclose(found["miou"], [1, 0.5])
    assert np.isnan(found["false_positive_rate"]).all()


def test_images_found_and_false_alarms_count_images() -> None:
    truth, predicted = np.zeros((3, 4, 4), int), np.zeros((3, 4, 4), int)
    truth[:2, 0] = 1
    predicted[0, :2], predicted[1, 0, :2], predicted[2] = 2, 1, 1  # 8, 2 and 16 pixels; the third has no defect
    found = scores(Outcome(counts_of(predicted, truth), np.array([2, 3, 9]), 3), np.ones((1, 6)))
    assert found["image_recall"][0] == 1 / 2 and found["false_positive_rate"][0] == 2 / 3


def test_calibration_keeps_false_alarms_within_their_share() -> None:
    pixels = np.random.default_rng(0).integers(0, 30, 55)
    for share in (0, 0.05, 0.3):
        least = segmenter.calibrate(pixels, share)
        assert np.mean(pixels >= least) <= share < np.mean(pixels >= least - 1) + 1e-9
    assert segmenter.calibrate(np.zeros(10, int), 0.05) == 1


def fixed(predicted: np.ndarray) -> SimpleNamespace:
    """In a segmenter's place: predicts these."""
    return SimpleNamespace(predict=lambda images: list(predicted[: len(images)]))


def test_agreement_is_the_mean_iou_of_what_occurs() -> None:
    truth, predicted = np.zeros((4, 2, 4), np.uint8), np.zeros((4, 2, 4), np.uint8)
    truth[0, 0], predicted[0, 0, :3] = 1, 1  # 3 of 4
    truth[1, 0], predicted[1] = 1, 2  # type 1 missed, type 2 invented
    truth[2, 0], truth[2, 1], predicted[2, 0], predicted[2, 1, :2] = 1, 2, 1, 2  # 1 and 1 / 2
    samples = ImageSet(np.zeros((4, 2, 4, 3), np.uint8), truth, list("abcd"), list("aabc"), ("dark", "bright"), "")
    each, found = agreement(fixed(predicted), samples)
    np.testing.assert_allclose(each, [0.75, 0, 0.75, np.nan])
    assert found["mean"]["value"] == pytest.approx(0.5) and found["images"] == 4
    assert found["per_type"]["dark"]["value"] == pytest.approx(7 / 12)
    assert found["per_type"]["bright"]["value"] == pytest.approx(2 / 12)  # what is invented counts
    empty = replace(samples, masks=np.zeros_like(truth))
    assert agreement(fixed(predicted), empty)[1]["per_type"]["dark"] is None


def test_the_agreement_segmenter_is_judged_on_groups_it_has_not_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    images, true = np.zeros((12, 4, 4, 3), np.uint8), np.ones((12, 4, 4), np.uint8)
    train = ImageSet(images, true, list("abcdefghijkl"), [str(k // 2) for k in range(12)], ("dark",), "")
    trained_on = []
    monkeypatch.setattr(segmenter, "train_segmenter", lambda pool, *rest: trained_on.append(pool.real) or fixed(true))
    sets = RealSets(View((4, 4)), {"real": train}, train, train.take([]), train, None)

    def judged_on(sets: RealSets) -> dict:
        sets = segmenter.reserve(sets, 0)
        return agreement(segmenter.train_agreement_segmenter(sets, 0, "cpu"), sets.held_out)[1]

    reference, other = judged_on(sets), judged_on(replace(sets, held_out=train.take([0, 1, 2])))
    assert len(trained_on[0]) == 10 and reference["images"] == 2 and reference["mean"]["value"] == 1
    assert len(set(train.groups) - set(trained_on[0].groups)) == 1  # of 6 groups one is left out
    assert len(trained_on[1]) == 12 and other["images"] == 3
    assert len(segmenter.reserve(replace(sets, train=train.take(range(8))), 0).held_out) == 0  # of 4 groups none


def test_rare_types_weigh_more_by_the_real_masks(monkeypatch: pytest.MonkeyPatch) -> None:
    mask = np.array([[1] * 4 + [2] + [0] * 95], np.uint8)
    np.testing.assert_allclose(segmenter.class_weights([mask], 3), np.sqrt([1, 95 / 4, 95, 95]), rtol=1e-6)
    seen, real = [], image_set(*draw(4, 0))
    monkeypatch.setattr(segmenter, "segmentation_loss", lambda logits, _, weights: seen.append(weights) or logits.sum())
    segmenter.train_segmenter(Pool(real, None, None, (32, 32)), 1, 0, kind="unet")
    assert torch.equal(seen[0], segmenter.class_weights(real.masks, 2)) and seen[0].max() > 2
