"""All intervals: over units, which are single images or groups of them, such as the photographs of one object.

A resample draws units with replacement: a row of counts, which weights what was computed once. Sets that share
resamples are compared by paired differences.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from statistics import NormalDist
from typing import Any

import numpy as np

from ..keyed_random import Key, numpy_generator

LEVEL = 0.95
NUM_RESAMPLES = 2_000


def number_groups(groups: Sequence[Hashable]) -> np.ndarray:
    """Numbers int64 [N] from 0, the same for equal groups, in the order of their first appearance."""
    numbers: dict[Hashable, int] = {}
    return np.array([numbers.setdefault(group, len(numbers)) for group in groups], np.int64)


@dataclass(frozen=True)
class Resampling:
    """R draws of the units of N images: unit int64 [N] of each image, counts float64 [R, units]."""

    unit: np.ndarray
    counts: np.ndarray

    @classmethod
    def draw(
        cls, groups: Sequence[Hashable], num_resamples: int, rng: np.random.Generator, least: int = 2
    ) -> Resampling:
        """Resample the units of images, `groups` naming the unit of each. Raises ValueError for fewer than two units.

        least: different units in every resample; 2 for what is computed from pairs.
        """
        unit = number_groups(groups)
        size = int(unit.max(initial=-1)) + 1
        if size < 2:
            raise ValueError(f"a bootstrap needs at least 2 units, got {size}")
        counts = rng.multinomial(size, np.full(size, 1 / size), num_resamples)
        while (lonely := (counts > 0).sum(axis=1) < least).any():
            counts[lonely] = rng.multinomial(size, np.full(size, 1 / size), int(lonely.sum()))
        return cls(unit, counts.astype(np.float64))

    @property
    def weights(self) -> np.ndarray:
        """How often each image is in each resample, float64 [R, N]."""
        return self.counts[:, self.unit]


@dataclass(frozen=True)
class Bootstrap:
    """Validation images, training seeds and generator runs, resampled together, each from its own units.

    R + 1 weightings, the first of which is the sample itself: of images [R + 1, N], of seeds [R + 1, S].
    """

    images: np.ndarray
    seeds: np.ndarray

    @classmethod
    def draw(cls, groups: Sequence[str], num_seeds: int, num_resamples: int = NUM_RESAMPLES) -> Bootstrap:
        """groups: of the images. Raises ValueError for fewer than two different ones."""
        images = Resampling.draw(groups, num_resamples, numpy_generator("lift", "images"), least=1).weights
        return cls(np.vstack([np.ones(len(groups)), images]), _unit_weights(num_seeds, num_resamples, "lift", "seeds"))

    def of_arm(
        self,
        outcomes: Sequence[Sequence[Any]],
        name: str,
        measure: Callable[[Any, np.ndarray], Mapping[str, np.ndarray]],
    ) -> dict[str, np.ndarray]:
        """Measures [R + 1, ...] of an arm under each weighting: means over its generator runs and seeds, weighted too.

        outcomes: [generator runs][seeds]. name: of the set whose runs these are, which keys their resamples.
        measure(outcome, weights [R + 1, N]) gives {name: [R + 1, ...]}.
        """
        runs = _unit_weights(len(outcomes), len(self.images) - 1, "lift", "runs", name)
        total: dict[str, np.ndarray] = {}
        for r, seeds in enumerate(outcomes):
            for s, one in enumerate(seeds):
                weight = runs[:, r] * self.seeds[:, s]
                for key, value in measure(one, self.images).items():
                    share = weight.reshape(-1, *[1] * (value.ndim - 1))
                    total[key] = total.get(key, 0) + np.where(share > 0, value, 0) * share
        return total


def _unit_weights(size: int, num_resamples: int, *key: str) -> np.ndarray:
    """Shares float64 [num_resamples + 1, size] of units in resamples of them; the first row is even.

    A resample has one unit less than there are, for an unbiased variance of means (Hesterberg 2004).
    """
    drawn = max(size - 1, 1)
    counts = numpy_generator(*key).multinomial(drawn, np.full(size, 1 / size), num_resamples)
    return np.vstack([np.full(size, 1 / size), counts / drawn])


def with_interval(value: float, resampled: np.ndarray | None) -> dict[str, Any]:
    """{"value", "interval"} as results hold them: central percentiles, at LEVEL, of resamples [R] that are not nan.

    The interval is None without resamples.
    """
    ends = None if resampled is None else np.nanquantile(resampled, [(1 - LEVEL) / 2, (1 + LEVEL) / 2]).tolist()
    return {"value": float(value), "interval": ends}


def estimate(values: np.ndarray) -> dict[str, Any]:
    """{"value", "interval"} from values [R + 1] of a Bootstrap, in percent; both None for what is not known."""
    if np.isnan(values[0]) or np.isnan(values[1:]).all():
        return {"value": None, "interval": None}
    return with_interval(values[0] * 100, values[1:] * 100)


def mean_interval(
    values: Sequence[float] | np.ndarray, groups: Sequence[Hashable], key: Sequence[Key] = ("mean",)
) -> dict[str, Any] | None:
    """The mean of values [N] that are not nan and its interval over their groups; None where all are nan.

    The interval is None for fewer than two groups. key: of the random draws.
    """
    values = np.asarray(values, dtype=np.float64)
    known = np.flatnonzero(~np.isnan(values))
    if not len(known):
        return None
    values, groups = values[known], [groups[i] for i in known]
    resampled = None
    if len(set(groups)) >= 2:
        weights = Resampling.draw(groups, NUM_RESAMPLES, numpy_generator(*key), least=1).weights
        resampled = weights @ values / weights.sum(axis=1)
    return with_interval(values.mean(), resampled)


def share_interval(flags: Sequence[bool] | np.ndarray, groups: Sequence[Hashable]) -> dict[str, Any]:
    """The share of true flags [N], as {"value", "interval"}: Wilson's (1927), None with fewer than two groups.

    For the effective number of flags: what would give independent ones the variance between groups (Korn and Graubard
    1998), N at most; where all are alike, and a bootstrap says nothing, the number of groups.
    """
    flags = np.asarray(flags, dtype=np.float64)
    share, units = flags.mean(), len(set(groups))
    if units < 2:
        return with_interval(share, None)
    effective = float(units)
    if 0 < share < 1:
        between = (np.bincount(number_groups(groups), flags - share) ** 2).sum()
        variance = units / (units - 1) * between / len(flags) ** 2
        alone = share * (1 - share) / (len(flags) - 1)  # the variance, were each flag a group of its own
        effective = len(flags) * min(1.0, alone / variance) if variance else float(len(flags))
    z = NormalDist().inv_cdf((1 + LEVEL) / 2)
    centre = (share + z**2 / (2 * effective)) / (1 + z**2 / effective)
    half = z / (1 + z**2 / effective) * math.sqrt(share * (1 - share) / effective + z**2 / (4 * effective**2))
    return {"value": float(share), "interval": [max(0.0, float(centre - half)), min(1.0, float(centre + half))]}


def mean_of_pairs(k: np.ndarray) -> float:
    """Mean of a symmetric matrix [N, N] without its diagonal."""
    return float((k.sum() - np.trace(k)) / (len(k) * (len(k) - 1)))


def resampled_mean_of_pairs(k: np.ndarray, of: Resampling) -> np.ndarray:
    """The same float64 [R] of every resample: pairs of two units count c * c', pairs within a unit c.

    Copies of a unit that was drawn more than once are not compared: a true new draw has no such pairs.
    """
    member = np.eye(of.counts.shape[1])[of.unit]  # [N, units]

    def totals(matrix: np.ndarray) -> np.ndarray:
        units = member.T @ matrix @ member
        within = np.diagonal(units) - member.T @ np.diagonal(matrix)
        np.fill_diagonal(units, 0)
        return ((of.counts @ units) * of.counts).sum(axis=1) + of.counts @ within

    return totals(k) / totals(np.ones_like(k))


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
