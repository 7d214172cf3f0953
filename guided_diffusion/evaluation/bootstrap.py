"""All intervals: over units, which are single images or groups of them, such as the photographs of one object.

A resample draws units with replacement: a row of counts, which weights what was computed once. Sets that share
resamples are compared by paired differences.
"""

import math
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from statistics import NormalDist
from typing import Any

import numpy as np

from ..keyed_random import Key, numpy_generator

Groups = Sequence[Hashable]  # names the unit of each image
Estimate = dict[str, Any]  # {"value": float or None, "interval": [low, high] or None}
LEVEL = 0.95
NUM_RESAMPLES = 2_000


def number_groups(groups: Groups) -> np.ndarray:
    """Numbers int64 [N] from 0, the same for equal groups, in the order of their first appearance."""
    numbers = {group: number for number, group in enumerate(dict.fromkeys(groups))}
    return np.array([numbers[group] for group in groups], np.int64)


@dataclass(frozen=True)
class Resampling:
    """The units of N images, and draws of them; the first has each unit once, for the value, and is the only one of
    fewer than two units, which have no interval."""

    unit: np.ndarray  # int64 [N], of each image
    counts: np.ndarray  # float64 [1 + R, units]

    @classmethod
    def draw(cls, groups: Groups, *key: Key, least: int = 2, num_resamples: int = NUM_RESAMPLES) -> "Resampling":
        """Resample the units of images. least: different units in every resample; 2 for what is computed from pairs."""
        unit, rng = number_groups(groups), numpy_generator(*key)
        size = int(unit.max()) + 1
        counts = rng.multinomial(size, np.full(size, 1 / size), num_resamples if size > 1 else 0)
        while (lonely := (counts > 0).sum(axis=1) < least).any():
            counts[lonely] = rng.multinomial(size, np.full(size, 1 / size), int(lonely.sum()))
        return cls(unit, np.vstack([np.ones(size), counts]))

    @property
    def weights(self) -> np.ndarray:
        """How often each image is in each row, float64 [1 + R, N]."""
        return self.counts[:, self.unit]


def with_interval(values: np.ndarray | float) -> Estimate:
    """The estimate of [1 + R] values of a Resampling: central percentiles, at LEVEL. Resamples that are nan are left
    out. The interval is None without resamples; both are where the value is nan."""
    value, *resampled = np.atleast_1d(values)
    if np.isnan(value):
        return {"value": None, "interval": None}
    ends = np.nanquantile(resampled, [(1 - LEVEL) / 2, (1 + LEVEL) / 2]).tolist() if len(resampled) else None
    return {"value": float(value), "interval": ends}


def mean_interval(values: Sequence[float], groups: Groups, key: Sequence[Key] = ("mean",)) -> Estimate | None:
    """Mean of the values [N] that are not nan, and its interval over groups; None without any. key: of the draws."""
    values = np.asarray(values, dtype=np.float64)
    known = np.flatnonzero(~np.isnan(values))
    if not len(known):
        return None
    weights = Resampling.draw([groups[i] for i in known], *key, least=1).weights
    return with_interval(weights @ values[known] / weights.sum(axis=1))


def share_interval(flags: Sequence[bool], groups: Groups) -> Estimate:
    """The share of true flags [N], its interval Wilson's (1927), None with fewer than two groups. For the effective
    number of flags: what would give independent ones the variance between groups (Korn and Graubard 1998), N at most;
    where all are alike, and a bootstrap says nothing, the number of groups."""
    flags = np.asarray(flags, dtype=np.float64)
    share, units = flags.mean(), len(set(groups))
    if units < 2:
        return with_interval(share)
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


def mean_of_pairs(k: np.ndarray, of: Resampling) -> np.ndarray:
    """Mean of a symmetric matrix [N, N] without its diagonal, float64 [1 + R]. In a resample pairs of two units count
    c * c', pairs within a unit c: copies of one are not compared, as a true new draw has no such pairs."""
    member = np.eye(of.counts.shape[1])[of.unit]  # [N, units]

    def totals(matrix: np.ndarray) -> np.ndarray:
        units = member.T @ matrix @ member
        within = np.diagonal(units) - member.T @ np.diagonal(matrix)
        np.fill_diagonal(units, 0)
        return ((of.counts @ units) * of.counts).sum(axis=1) + of.counts @ within

    return totals(k) / totals(np.ones_like(k))


def halves(groups: Groups, *key: Key) -> tuple[np.ndarray, np.ndarray]:
    """Indices of two disjoint halves of N images, apart by group and as equal in number as the groups allow."""
    names, unit = np.unique(np.array(list(map(str, groups))), return_inverse=True)
    sizes = np.bincount(unit)
    side, filled = np.zeros(len(names), np.int64), np.zeros(2)
    order = numpy_generator("halves", *key).permutation(len(names))
    for number in sorted(order, key=lambda number: -sizes[number]):  # stable: by chance among those of one size
        side[number] = filled.argmin()
        filled[side[number]] += sizes[number]
    return np.flatnonzero(side[unit] == 0), np.flatnonzero(side[unit] == 1)
