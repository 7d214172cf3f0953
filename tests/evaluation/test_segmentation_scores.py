"""The scores against loops over pixels, and scikit-learn where it is there; the bootstrap against a plain one."""

from __future__ import annotations

import numpy as np
import pytest

from guided_diffusion.evaluation.scores import Bootstrap, Outcome, calibrate, count_pixels, estimate, f1, iou, scores

TYPES = 3
MIN_PIXELS = 20


def masks(count: int, seed: int, classes: int = TYPES + 1) -> np.ndarray:
    return np.random.default_rng(seed).choice(classes, (count, 8, 10), p=[0.7, *[0.3 / (classes - 1)] * (classes - 1)])


def counts_of(predicted: np.ndarray, truth: np.ndarray) -> np.ndarray:
    pairs = zip(predicted.astype(np.uint8), truth.astype(np.uint8), strict=True)
    return np.stack([count_pixels(p, t, TYPES) for p, t in pairs])


def test_counts_are_those_of_loops() -> None:
    truth, predicted = masks(1, 0)[0], masks(1, 1)[0]
    expected = np.zeros((TYPES + 1, 3), int)
    for t, p in zip(truth.ravel(), predicted.ravel(), strict=True):
        for row in range(TYPES + 1):
            of_truth, of_predicted = (t > 0, p > 0) if row == 0 else (t == row, p == row)
            expected[row] += [of_truth and of_predicted, of_predicted, of_truth]
    np.testing.assert_array_equal(count_pixels(predicted.astype(np.uint8), truth.astype(np.uint8), TYPES), expected)


def test_scores_agree_with_scikit_learn() -> None:
    metrics = pytest.importorskip("sklearn.metrics")
    truth, predicted = masks(6, 0), masks(6, 1)
    predicted[:3] = truth[:3]  # not all chance
    counts = counts_of(predicted, truth)
    ours = scores(Outcome(counts, np.zeros(0, int), MIN_PIXELS), np.ones((1, 6)))
    flat = {"y_true": truth.ravel(), "y_pred": predicted.ravel(), "labels": [1, 2, 3]}
    np.testing.assert_allclose(ours["iou_types"][0], metrics.jaccard_score(**flat, average=None))
    np.testing.assert_allclose(ours["miou"][0], metrics.jaccard_score(**flat, average="macro"))
    np.testing.assert_allclose(ours["f1_mean"][0], metrics.f1_score(**flat, average="macro"))
    np.testing.assert_allclose(ours["f1"][0], metrics.f1_score(truth.ravel() > 0, predicted.ravel() > 0))
    np.testing.assert_allclose(iou(counts.sum(axis=0)[1:]), ours["iou_types"][0])
    np.testing.assert_allclose(f1(counts.sum(axis=0)[1:]), ours["f1_types"][0])


def test_a_type_without_truth_is_left_out_of_means() -> None:
    """Also where it is predicted; and weights choose the images: the second alone holds type 3."""
    truth = np.zeros((2, 4, 4), int)
    truth[:, :2] = 1
    truth[1, 3] = 3
    predicted = np.where(truth == 1, 1, 2)  # all of type 1, else wrong: everywhere type 2, which truth never holds
    counts = counts_of(predicted, truth)
    found = scores(Outcome(counts, np.zeros(0, int), 1), np.array([[1.0, 0.0], [1.0, 1.0]]))
    np.testing.assert_allclose(found["iou_types"], [[1, np.nan, np.nan], [1, np.nan, 0]])
    np.testing.assert_allclose(found["miou"], [1, 0.5])
    assert np.isnan(found["false_positive_rate"]).all()


def test_images_found_and_false_alarms_count_images() -> None:
    truth, predicted = np.zeros((3, 4, 4), int), np.zeros((3, 4, 4), int)
    truth[:2, 0] = 1
    predicted[0, :2], predicted[1, 0, :2], predicted[2] = 2, 1, 1  # 8, 2 and 16 pixels; the third has no defect
    found = scores(Outcome(counts_of(predicted, truth), np.array([2, 3, 9]), 3), np.ones((1, 6)))
    assert found["image_recall"][0] == 1 / 2 and found["false_positive_rate"][0] == 2 / 3


def test_bootstrap_is_the_plain_one() -> None:
    """Every resample by hand: repeat the images, train again by picking seeds and runs, pool, average."""
    groups = ["a", "a", "b", "c", "good1", "good2"]
    truth = masks(4, 0)
    rng = np.random.default_rng(5)
    outcomes = [
        [Outcome(counts_of(masks(4, 10 * r + s), truth), rng.integers(0, 40, 2), 10 + s) for s in range(3)]
        for r in range(2)
    ]
    bootstrap = Bootstrap.draw(groups, 3, num_resamples=15)
    found = bootstrap.of_arm(outcomes, "set")
    runs = Bootstrap.run_weights(2, 15, "set")
    seen = set()
    for b in range(16):
        drawn_runs, drawn_seeds = (1, 2) if b else (2, 3)
        image_counts = bootstrap.images[b]
        assert image_counts[0] == image_counts[1]  # of one group
        chosen = np.repeat(np.arange(4), image_counts[:4].astype(int))
        chosen_good = np.repeat(np.arange(2), image_counts[4:].astype(int))
        mious, alarms = [], []
        for r in np.repeat(range(2), np.round(runs[b] * drawn_runs).astype(int)):
            for s in np.repeat(range(3), np.round(bootstrap.seeds[b] * drawn_seeds).astype(int)):
                pooled = outcomes[r][s].pixels[chosen].sum(axis=0)[1:].astype(float)
                union = pooled[:, 1] + pooled[:, 2] - pooled[:, 0]
                mious.append(np.mean([pooled[k, 0] / union[k] for k in range(TYPES) if pooled[k, 2]] or [np.nan]))
                alarms.append(np.mean(outcomes[r][s].good[chosen_good] >= 10 + s) if len(chosen_good) else np.nan)
        assert len(mious) == drawn_runs * drawn_seeds
        np.testing.assert_allclose(found["miou"][b], np.mean(mious))
        np.testing.assert_allclose(found["false_positive_rate"][b], np.mean(alarms))
        seen.add((tuple(runs[b]), tuple(bootstrap.seeds[b])))
    assert len(seen) > 5  # runs and seeds are resampled too
    every = [scores(one, np.ones((1, 6)))["miou"][0] for seeds in outcomes for one in seeds]
    assert found["miou"][0] == pytest.approx(np.mean(every))


def test_calibration_keeps_false_alarms_within_their_share() -> None:
    pixels = np.random.default_rng(0).integers(0, 30, 55)
    for share in (0, 0.05, 0.3):
        least = calibrate(pixels, share)
        assert np.mean(pixels >= least) <= share < np.mean(pixels >= least - 1) + 1e-9
    assert calibrate(np.zeros(10, int), 0.05) == 1


def test_seeds_spread_as_their_mean_does() -> None:
    """The variance over resamples is that of a mean of so few seeds: s^2 / n, with n - 1 in s^2."""
    values = np.array([3.0, 5.0, 4.0, 9.0, 1.0])
    means = Bootstrap.draw(["a", "b"], 5, 40_000).seeds[1:] @ values
    assert means.var() == pytest.approx(values.var(ddof=1) / 5, rel=0.03)


def test_estimates_are_percentiles_in_percent() -> None:
    draws = np.random.default_rng(0).normal(0.3, 0.05, 4001)
    found = estimate(np.array([0.31, *draws, np.nan]))
    assert found["value"] == pytest.approx(31)
    assert found["interval"] == pytest.approx([100 * np.quantile(draws, q) for q in (0.025, 0.975)])
    assert estimate(np.array([np.nan, 0.1])) == {"value": None, "interval": None}


def test_one_group_is_too_few() -> None:
    with pytest.raises(ValueError, match="at least 2 units"):
        Bootstrap.draw(["a", "a"], 3)
