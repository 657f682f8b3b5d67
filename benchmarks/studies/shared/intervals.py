"""Differences of two settings, paired by seed, with their 95 % interval (Student's t)."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from scipy import stats


@dataclass(frozen=True)
class Interval:
    """An estimate with its 95 % interval; NaN where there are too few values for one.

    Attributes:
        middle: The estimate.
        low: Where the interval begins.
        high: Where it ends.
        count: Values that it comes from.
    """

    middle: float
    low: float
    high: float
    count: int

    def __str__(self) -> str:
        """Return it as tables print it."""
        digits = 2 if abs(self.middle) >= 0.1 else 3
        middle, low, high = (f"{v:+.{digits}f}" for v in (self.middle, self.low, self.high))
        return middle if math.isnan(self.low) else f"{middle} [{low}, {high}]"

    @property
    def verdict(self) -> int:
        """Return 1 where all of it is above 0, −1 where all is below, and 0 otherwise."""
        return (self.low > 0) - (self.high < 0)


def paired(ours: Mapping[int, float], theirs: Mapping[int, float]) -> Interval:
    """Return the mean of the differences of equal seeds.

    Args:
        ours: Seed → value.
        theirs: Seed → what is subtracted from it.
    """
    return mean([ours[seed] - theirs[seed] for seed in sorted(ours.keys() & theirs.keys())])


def mean(values: Sequence[float]) -> Interval:
    """Return the mean of values.

    Raises:
        ValueError: If there are none.
    """
    if not values:
        raise ValueError("there are no values of equal seeds to take the mean of")
    middle = sum(values) / len(values)
    if len(values) < 2:
        return Interval(middle, math.nan, math.nan, len(values))
    error = float(stats.sem(values))
    half = error * float(stats.t.ppf(0.975, len(values) - 1))
    return Interval(middle, middle - half, middle + half, len(values))


def rank_correlation(first: Sequence[float], second: Sequence[float]) -> Interval:
    """Return Spearman's ρ, its interval by Fisher's transform of n − 3 runs' ranks."""
    rho = float(stats.spearmanr(first, second).statistic)
    if len(first) < 4 or math.isnan(rho):
        return Interval(rho, math.nan, math.nan, len(first))
    if abs(rho) == 1:
        return Interval(rho, rho, rho, len(first))
    # 1.06: ranks vary more than normal values do (Fieller, Hartley & Pearson 1957).
    half = 1.96 * math.sqrt(1.06 / (len(first) - 3))
    low, high = (math.tanh(math.atanh(rho) + sign * half) for sign in (-1, 1))
    return Interval(rho, low, high, len(first))
