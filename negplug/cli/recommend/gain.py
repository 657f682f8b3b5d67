"""What a choice gains over the untouched recipe: differences within seeds, and their interval."""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping
from dataclasses import dataclass

from negplug.cli.sweep.spread import deviation, mean

#: Of the interval.
CONFIDENCE = 0.95


@dataclass(frozen=True)
class Gain:
    """A mean difference with its interval; more is better, also where less of the metric is.

    Attributes:
        mean: Over the seeds.
        low: Lower end of the 95 % interval.
        high: Upper end.
        differences: By seed.
    """

    mean: float
    low: float
    high: float
    differences: Mapping[int, float]

    @property
    def is_clear(self) -> bool:
        """Whether the interval lies above zero."""
        return self.low > 0

    def __str__(self) -> str:
        # Two digits of the interval's half, as many decimals of the rest.
        half = (self.high - self.low) / 2 or abs(self.mean)
        decimals = 4
        if math.isfinite(half) and half > 0:
            decimals = min(max(1 - math.floor(math.log10(half)), 0), 8)
        ends = f"{self.low:+.{decimals}f} to {self.high:+.{decimals}f}"
        return f"{self.mean:+.{decimals}f} (95 % interval {ends}, {len(self.differences)} seeds)"


def paired_gain(
    chosen: Mapping[int, float], untouched: Mapping[int, float], minimize: bool
) -> Gain:
    """Return the mean difference within seeds and the interval of Student's t around it.

    Args:
        chosen: The metric by seed, with the choice.
        untouched: The metric by seed, without; seeds that one of the two lacks are left out.
        minimize: Whether less of the metric is better.

    Raises:
        ValueError: If fewer than two seeds have both.
    """
    from scipy.stats import ttest_rel

    seeds = sorted(chosen.keys() & untouched.keys())
    if len(seeds) < 2:
        raise ValueError(f"an interval takes two seeds or more, and {len(seeds)} have both runs")
    better, worse = (untouched, chosen) if minimize else (chosen, untouched)
    pairs = [better[seed] for seed in seeds], [worse[seed] for seed in seeds]
    differences = {seed: better[seed] - worse[seed] for seed in seeds}
    center = mean(list(differences.values()))
    if deviation(list(differences.values())) <= 1e-9 * abs(center):
        return Gain(center, center, center, differences)  # scipy divides rounding by rounding
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # of runs that diverged
        interval = ttest_rel(*pairs).confidence_interval(CONFIDENCE)
    return Gain(center, float(interval.low), float(interval.high), differences)
