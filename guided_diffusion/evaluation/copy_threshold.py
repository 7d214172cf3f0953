"""How near is too near: a distance that fewer than 1 in 100 unseen real images fall under.

Held-out images show what distances to the training images come about without copying. With some tens of them there is
no empirical 1% quantile, so a distribution is fitted and a bound taken that errs on the side of fewer alarms:

1. z = artanh(1 - distance): Fisher's transform (1915), under which the correlation at one place is about normal. The
   nearest of many places, flips and images then is about Gumbel distributed (Fisher and Tippett 1928).
2. Images further than FAR_OUT robust standard deviations (1.4826 times the median absolute deviation, Hampel 1974) from
   the median towards copies are left out, again and again until none is, and named. They show an object that was
   trained, whatever the groups say: photographs of one object in groups of their own are the commonest mistake.
3. The one-sided tolerance bound mean + k std, k such that with CONFIDENCE a share of at least 1 - RATE of unseen images
   is further away. n in k is the number of groups, not of images, as images of one object hardly are independent: with
   few groups the bound is far out.
4. Nor is it above the smallest distance of those not left out.

It assumes that z is no more skewed than a Gumbel variable, and that groups are alike. Whether that holds is judged on
other groups: each group by a threshold from all the others, and every image under it counts as a false alarm, those of
step 2 included. The threshold that samples are held against is from all groups. Planted copies of training images tell
what it finds.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np

from ..keyed_random import numpy_generator
from .bootstrap import share_interval

RATE = 0.01  # of false alarms, at most
CONFIDENCE = 0.9
FAR_OUT = 5.0  # robust standard deviations
LARGEST_R = 0.9999  # where z still is a number
SIMULATED = 20_000  # draws that k comes from
MOST_GROUPS = 200  # k hardly falls beyond
PLANTED = ("flipped", "shifted 3 px", "brightened", "brightened and noisy")  # by 1.2 x + 10, and noise of std 5


@dataclass(frozen=True)
class Threshold:
    """A distance below which something is a copy, and what it was made from.

    value: 0 where there are fewer than two groups: nothing is called a copy. far_out: images left out of the fit.
    false_alarms: {"value", "interval"} of all images, alarms their names; false_alarms_of_rest: of those not far out.
    None where there are fewer than three groups.
    """

    value: float
    calibrated_on: str
    images: int
    groups: int
    far_out: list[str]
    false_alarms: dict[str, Any] | None
    false_alarms_of_rest: dict[str, Any] | None
    alarms: list[str]
    planted_found: dict[str, float] | None = None  # as of find_planted
    rate: float = RATE
    confidence: float = CONFIDENCE


def calibrate(distances: np.ndarray, groups: Sequence[Hashable], names: Sequence[str], calibrated_on: str) -> Threshold:
    """The threshold from distances [N] of real images that are no copies, each group judged by the others."""
    distances, own = np.asarray(distances, dtype=np.float64), np.array([str(group) for group in groups])
    value, far_out = fit(distances, own)
    false_alarms, of_rest, alarms = None, None, []
    if len(set(own)) > 2:
        under = np.zeros(len(own), bool)
        for group in set(own):
            judged = own == group
            under[judged] = distances[judged] < fit(distances[~judged], own[~judged])[0]
        alarms = [names[i] for i in np.flatnonzero(under)]
        false_alarms = share_interval(under, own)
        of_rest = share_interval(under[~far_out], own[~far_out])
    left_out = [names[i] for i in np.flatnonzero(far_out)]
    images, units = len(distances), len(set(own))
    return Threshold(value, calibrated_on, images, units, left_out, false_alarms, of_rest, alarms)


def fit(distances: np.ndarray, groups: np.ndarray) -> tuple[float, np.ndarray]:
    """Threshold from distances [N] and their groups [N], and bool [N] which distances are far out."""
    z = np.arctanh(np.clip(1 - distances, -LARGEST_R, LARGEST_R))
    far_out = np.zeros(len(z), bool)
    while True:
        median = np.median(z[~far_out])
        spread = 1.4826 * np.median(np.abs(z[~far_out] - median))
        further = z > median + FAR_OUT * spread
        if (further <= far_out).all():
            break
        far_out |= further
    n = len(np.unique(groups[~far_out]))
    if n < 2:
        return 0.0, far_out
    kept = z[~far_out]
    bound = 1 - math.tanh(kept.mean() + tolerance_factor(n) * kept.std(ddof=1))
    return min(bound, float(distances[~far_out].min())), far_out


@lru_cache
def tolerance_factor(n: int) -> float:
    """k of the bound mean + k std of n >= 2 Gumbel values, for RATE and CONFIDENCE, by simulation.

    The bound is off by the same k for any location and scale, so that the standard distribution tells.
    """
    values = numpy_generator("tolerance", n).gumbel(size=(SIMULATED, min(n, MOST_GROUPS)))
    aim = -math.log(-math.log1p(-RATE))  # what a share of RATE exceeds
    return float(np.quantile((aim - values.mean(axis=1)) / values.std(axis=1, ddof=1), CONFIDENCE))


def find_planted(images: np.ndarray, distances: Callable[[np.ndarray], np.ndarray], limit: float) -> dict[str, float]:
    """The share of planted copies of training images (or windows) under the limit, by kind.

    images: uint8 [N, H, W, 3]. distances: to the training images, [N, M].
    """
    return {kind: float((distances(plant(images, kind)).min(axis=1) < limit).mean()) for kind in PLANTED}


def plant(images: np.ndarray, kind: str) -> np.ndarray:
    """Copies of images uint8 [N, H, W, 3], altered in one of the ways of PLANTED."""
    x = images.astype(np.float64)
    if kind == "flipped":
        x = x[:, :, ::-1]
    elif kind == "shifted 3 px":
        x = np.pad(x, [(0, 0), (3, 0), (3, 0), (0, 0)], "edge")[:, :-3, :-3]
    else:
        x = 1.2 * x + 10
        if kind == "brightened and noisy":
            x += 5 * numpy_generator("planted").normal(size=x.shape)
    return x.clip(0, 255).round().astype(np.uint8)
