"""Intervals: against textbook formulas, plain loops, and how often they hold what they should."""

import numpy as np
import pytest

from guided_diffusion.evaluation.bootstrap import Resampling, halves, mean_interval, share_interval, with_interval

rng = np.random.default_rng


def test_resamples_always_hold_two_units_and_intervals_are_percentiles_of_what_is_known() -> None:
    np.testing.assert_array_equal(Resampling.draw(range(2), 0, num_resamples=200).counts, np.ones((201, 2)))
    assert Resampling.draw(["tile"] * 5, 0).counts.tolist() == [[1]]  # as it is, and no resamples
    assert with_interval(np.array([50, *range(101), np.nan]))["interval"] == pytest.approx([2.5, 97.5])
    assert with_interval(np.array([np.nan, 0.1])) == {"value": None, "interval": None}


def test_the_interval_of_a_mean_is_that_of_its_groups() -> None:
    """Against the textbook's standard error of a mean over groups; values that are no number do not count."""
    values, groups = rng(0).normal(5, 2, 200), np.arange(200) // 4
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


def wilson(share: float, n: float) -> list[float]:
    centre, half = (share + 1.96**2 / (2 * n)), 1.96 * np.sqrt(share * (1 - share) / n + 1.96**2 / (4 * n**2))
    return [(centre - half) / (1 + 1.96**2 / n), (centre + half) / (1 + 1.96**2 / n)]


def test_few_groups_are_worth_as_many_flags_as_their_variance_says() -> None:
    """Two groups of ten with 3 and 7: variance 2 / 1 * (2^2 + 2^2) / 20^2, alone 0.25 / 19. Of alike ones N at most."""
    flags = [k < 3 for k in range(10)] + [k < 7 for k in range(10)]
    expected = wilson(0.5, 20 * (0.25 / 19) / 0.04)
    assert share_interval(flags, [0] * 10 + [1] * 10)["interval"] == pytest.approx(expected, abs=1e-4)
    even = [k % 2 == 0 for k in range(40)]
    even[0] = False
    groups = [k // 10 for k in range(40)]
    assert share_interval(even, groups)["interval"] == pytest.approx(wilson(19 / 40, 40), abs=1e-4)
