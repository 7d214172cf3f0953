"""Intervals: against textbook formulas, plain loops, and how often they hold what they should."""

from __future__ import annotations

import numpy as np
import pytest

from guided_diffusion.evaluation.bootstrap import (
    Bootstrap,
    Resampling,
    _unit_weights,
    estimate,
    halves,
    mean_interval,
    share_interval,
    with_interval,
)
from guided_diffusion.evaluation.scores import Outcome, count_pixels, scores


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def test_resamples_always_hold_two_units() -> None:
    np.testing.assert_array_equal(Resampling.draw(range(2), 200, rng()).counts, np.ones((200, 2)))
    with pytest.raises(ValueError, match="at least 2 units"):
        Resampling.draw(["tile"] * 5, 10, rng())
    with pytest.raises(ValueError, match="at least 2 units"):
        Bootstrap.draw(["a", "a"], 3)


def test_intervals_are_percentiles_of_what_is_known() -> None:
    assert with_interval(50, np.array([*range(101), np.nan]))["interval"] == pytest.approx([2.5, 97.5])
    draws = rng().normal(0.3, 0.05, 4001)
    found = estimate(np.array([0.31, *draws, np.nan]))
    assert found["value"] == pytest.approx(31)
    assert found["interval"] == pytest.approx([100 * np.quantile(draws, q) for q in (0.025, 0.975)])
    assert estimate(np.array([np.nan, 0.1])) == {"value": None, "interval": None}


def test_the_interval_of_a_mean_is_that_of_its_groups() -> None:
    """Against the textbook's standard error of a mean over groups; values that are no number do not count."""
    values, groups = rng().normal(5, 2, 200), np.arange(200) // 4
    values += np.repeat(rng(1).normal(0, 3, 50), 4)
    result = mean_interval(values, groups)
    means = values.reshape(50, 4).mean(axis=1)
    half = 1.96 * means.std(ddof=1) / np.sqrt(50)
    assert result["value"] == pytest.approx(means.mean())
    assert result["interval"] == pytest.approx([means.mean() - half, means.mean() + half], abs=0.1 * half)
    with_gaps = np.concatenate([values, [np.nan] * 3])
    assert mean_interval(with_gaps, [*groups, 7, 8, 99]) == result == mean_interval(values, groups)
    assert mean_interval([1, 3], ["a", "b"])["interval"] == [1, 3]
    assert mean_interval([1, 3], ["a", "a"]) == {"value": 2, "interval": None}
    assert mean_interval([np.nan], ["a"]) is None


def test_the_interval_of_a_share_is_wilsons() -> None:
    """By the figures of Newcombe 1998, table I (81 of 263, 0 of 20), and where all agree no wider claim than due."""
    assert share_interval(np.arange(263) < 81, range(263))["interval"] == pytest.approx([0.2553, 0.3662], abs=1e-4)
    assert share_interval([False] * 20, range(20))["interval"] == pytest.approx([0, 0.1611], abs=1e-4)
    assert share_interval([True] * 20, range(20))["interval"] == pytest.approx([0.8389, 1], abs=1e-4)
    flags = np.arange(60) % 4 == 0
    in_groups = share_interval(np.repeat(flags, 5), np.arange(300) // 5)  # five copies of each: as sure as without
    assert in_groups["interval"] == pytest.approx(share_interval(flags, range(60))["interval"], abs=0.01)
    assert share_interval([False] * 20, [0, 1] * 10)["interval"] == pytest.approx([0, 0.6576], abs=1e-3)
    assert share_interval([True, False], ["a", "a"]) == {"value": 0.5, "interval": None}


def test_halves_are_apart_by_group_and_of_one_size() -> None:
    groups = [f"tile {number}" for number in (1, 1, 1, 1, 2, 2, 3, 3, 4, 4, 4, 5)]
    one, other = halves(groups, 0)
    assert sorted([*one, *other]) == list(range(12)) and len(one) == 6
    assert not {groups[i] for i in one} & {groups[i] for i in other}
    assert any(set(halves(range(20), seed)[0]) != set(halves(range(20), 0)[0]) for seed in (1, 2))


def test_images_seeds_and_runs_are_resampled_as_by_hand() -> None:
    """Every resample written out: repeat the images, train again by picking seeds and runs, pool, average."""
    types, groups = 3, ["a", "a", "b", "c", "good1", "good2"]

    def masks(seed: int) -> np.ndarray:
        return rng(seed).choice(types + 1, (4, 8, 10), p=[0.7, 0.1, 0.1, 0.1]).astype(np.uint8)

    def outcome(seed: int, min_pixels: int) -> Outcome:
        pixels = np.stack([count_pixels(p, t, types) for p, t in zip(masks(seed), masks(0), strict=True)])
        return Outcome(pixels, rng(seed).integers(0, 40, 2), min_pixels)

    outcomes = [[outcome(10 * r + s + 1, 10 + s) for s in range(3)] for r in range(2)]
    bootstrap = Bootstrap.draw(groups, 3, num_resamples=15)
    found = bootstrap.of_arm(outcomes, "set", scores)
    runs = _unit_weights(2, 15, "lift", "runs", "set")
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
                mious.append(np.mean([pooled[k, 0] / union[k] for k in range(types) if pooled[k, 2]] or [np.nan]))
                alarms.append(np.mean(outcomes[r][s].good[chosen_good] >= 10 + s) if len(chosen_good) else np.nan)
        assert len(mious) == drawn_runs * drawn_seeds
        np.testing.assert_allclose(found["miou"][b], np.mean(mious))
        np.testing.assert_allclose(found["false_positive_rate"][b], np.mean(alarms))
        seen.add((tuple(runs[b]), tuple(bootstrap.seeds[b])))
    assert len(seen) > 5  # runs and seeds are resampled too


def test_seeds_spread_as_their_mean_does() -> None:
    """The variance over resamples is that of a mean of so few seeds: s^2 / n, with n - 1 in s^2."""
    values = np.array([3.0, 5.0, 4.0, 9.0, 1.0])
    means = Bootstrap.draw(["a", "b"], 5, 40_000).seeds[1:] @ values
    assert means.var() == pytest.approx(values.var(ddof=1) / 5, rel=0.03)
