"""Intervals over units: single images, or groups of images that belong together, such as photographs of one object.

The bootstrap draws units with replacement; a resample is a row of counts, which weights what was computed once.

For a statistic that suffers from an image being there twice (FID: fewer different images span fewer dimensions), the
jackknife leaves units out instead, one at a time (Efron and Stein 1981, "The jackknife estimate of variance").
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from statistics import NormalDist
from typing import Any

import numpy as np

from ..keyed_random import Key, numpy_generator

LEVEL = 0.95
NUM_RESAMPLES = 2_000
MOST_LEFT_OUT = 100  # blocks of units of a jackknife: more would cost time and hardly sharpen the interval


@dataclass(frozen=True)
class Resampling:
    """R draws of the units of N images: unit int64 [N] of each image, counts float64 [R, units]."""

    unit: np.ndarray
    counts: np.ndarray

    @classmethod
    def draw(
        cls, groups: Sequence[Hashable], num_resamples: int, rng: np.random.Generator, least: int = 2
    ) -> Resampling:
        """Resample the units of images, `groups` naming the unit of each; at least two different units.

        least: different units in every resample; 2 for what is computed from pairs. Raises ValueError where there are
        too few.
        """
        numbers = {group: number for number, group in enumerate(dict.fromkeys(groups))}
        size = len(numbers)
        if size < 2:
            raise ValueError(f"a bootstrap needs at least 2 units, got {size}")
        counts = rng.multinomial(size, np.full(size, 1 / size), num_resamples)
        # Drawn again: a resample of one unit alone has no pairs. It matters for a handful of units only.
        while (lonely := (counts > 0).sum(axis=1) < least).any():
            counts[lonely] = rng.multinomial(size, np.full(size, 1 / size), int(lonely.sum()))
        return cls(np.array([numbers[group] for group in groups]), counts.astype(np.float64))

    @classmethod
    def leave_out(cls, groups: Sequence[Hashable], rng: np.random.Generator) -> Resampling:
        """All units but one, for each of them; with more than MOST_LEFT_OUT, all but one of so many blocks of units."""
        numbers = {group: number for number, group in enumerate(dict.fromkeys(groups))}
        blocks = rng.permutation(len(numbers)) % MOST_LEFT_OUT
        return cls(np.array([blocks[numbers[group]] for group in groups]), 1 - np.eye(blocks.max() + 1))

    @property
    def weights(self) -> np.ndarray:
        """How often each image is in each resample, float64 [R, N]."""
        return self.counts[:, self.unit]


def interval(values: np.ndarray, level: float = LEVEL) -> tuple[float, float]:
    """The central percentile interval of bootstrap values [R] at this level."""
    low, high = np.quantile(values, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def with_interval(value: float, resampled: np.ndarray | None) -> dict[str, Any]:
    """{"value", "interval"} as results hold them; the interval is None without resamples [R]."""
    return {"value": float(value), "interval": None if resampled is None else list(interval(resampled))}


def mean_interval(
    values: Sequence[float] | np.ndarray,
    groups: Sequence[Hashable],
    num_resamples: int = NUM_RESAMPLES,
    key: Sequence[Key] = ("mean",),
) -> dict[str, Any]:
    """The mean of values [N] and its interval over their groups; nan values do not count.

    The interval is None where fewer than two groups have a value. key: of the random draws, which other means of the
    same images should use too. Raises ValueError where no value is a number.
    """
    values = np.asarray(values, dtype=np.float64)
    known = ~np.isnan(values)
    if not known.any():
        raise ValueError("no value to take the mean of")
    values, groups = values[known], [group for group, there in zip(groups, known, strict=True) if there]
    resampled = None
    if len(set(groups)) >= 2:
        weights = Resampling.draw(groups, num_resamples, numpy_generator(*key), least=1).weights
        resampled = weights @ values / weights.sum(axis=1)
    return with_interval(values.mean(), resampled)


def jackknife_interval(value: float, *left_out: np.ndarray, level: float = LEVEL) -> list[float]:
    """The normal interval of a statistic that is never negative, around its value.

    left_out: for each set of images that it depends on, its values [R] without one of the R units of that set.
    """
    variance = sum((len(values) - 1) * np.var(values) for values in left_out)
    half = NormalDist().inv_cdf((1 + level) / 2) * math.sqrt(variance)
    return [max(0.0, float(value - half)), float(value + half)]


def halves(groups: Sequence[Hashable], *key: Key) -> tuple[np.ndarray, np.ndarray]:
    """Indices of two disjoint halves of N images, apart by group and as equal in number as the groups allow."""
    names, unit = np.unique(np.array(list(map(str, groups))), return_inverse=True)
    sizes = np.bincount(unit)
    side, filled = np.zeros(len(names), np.int64), np.zeros(2)
    order = numpy_generator("halves", *key).permutation(len(names))
    for number in sorted(order, key=lambda number: -sizes[number]):  # stable: by chance among those of one size
        side[number] = filled.argmin()
        filled[side[number]] += sizes[number]
    return np.flatnonzero(side[unit] == 0), np.flatnonzero(side[unit] == 1)


def share_interval(
    flags: Sequence[bool] | np.ndarray, groups: Sequence[Hashable], level: float = LEVEL
) -> dict[str, Any]:
    """The share of true flags [N], as {"value", "interval"}: Wilson's (1927), for the effective number of flags.

    Resamples of flags that are all alike are all alike, and say nothing; this says how large a share may go unseen.
    The effective number is what would give independent flags the variance between groups (Korn and Graubard 1998), N
    at most; where all are alike, the number of groups. The interval is None with fewer than two groups.
    """
    flags = np.asarray(flags, dtype=np.float64)
    share, units = flags.mean(), len(set(groups))
    if units < 2:
        return with_interval(share, None)
    effective = float(units)
    if 0 < share < 1:
        _, unit = np.unique(np.array(list(map(str, groups))), return_inverse=True)
        variance = units / (units - 1) * (np.bincount(unit, flags - share) ** 2).sum() / len(flags) ** 2
        alone = share * (1 - share) / (len(flags) - 1)  # the variance, were each flag a group of its own
        effective = len(flags) * min(1.0, alone / variance) if variance else float(len(flags))
    z = NormalDist().inv_cdf((1 + level) / 2)
    centre = (share + z**2 / (2 * effective)) / (1 + z**2 / effective)
    half = z / (1 + z**2 / effective) * math.sqrt(share * (1 - share) / effective + z**2 / (4 * effective**2))
    return {"value": float(share), "interval": [max(0.0, float(centre - half)), min(1.0, float(centre + half))]}


def mean_of_pairs(k: np.ndarray) -> float:
    """Mean of a symmetric matrix [N, N] without its diagonal."""
    return float((k.sum() - np.trace(k)) / (len(k) * (len(k) - 1)))


def resampled_mean_of_pairs(k: np.ndarray, of: Resampling) -> np.ndarray:
    """The same float64 [R] of every resample: pairs of two units count c * c', pairs within a unit c.

    The copies of a unit that was drawn more than once are not compared with each other: those pairs would be of an
    image with itself (or of one object with itself), of which a true new draw has none.
    """
    member = np.eye(of.counts.shape[1])[of.unit]  # [N, units]

    def totals(matrix: np.ndarray) -> np.ndarray:
        units = member.T @ matrix @ member
        within = np.diagonal(units) - member.T @ np.diagonal(matrix)
        np.fill_diagonal(units, 0)
        return ((of.counts @ units) * of.counts).sum(axis=1) + of.counts @ within

    return totals(k) / totals(np.ones_like(k))
