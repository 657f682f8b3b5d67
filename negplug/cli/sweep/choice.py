"""The best setting of a sampler: the grid point with the best mean over its seeds.

This is the protocol of Mitrovic, McWilliams & Rey 2020, "Less can be more in contrastive learning"
(PMLR v137): temperature, learning rate and α are swept for every number of negatives, and the
best is reported.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

from negplug.cli.sweep.spread import mean
from negplug.cli.sweep.trials import Point, Result


def values_of(results: Iterable[Result], metric: str) -> list[float]:
    """Return a metric's values, one per run that logged it."""
    return [result.metrics[metric] for result in results if metric in result.metrics]


def ranked(
    results: Iterable[Result], metric: str | None, minimize: bool
) -> list[tuple[Point, list[Result]]]:
    """Rank the grid points of one sampler.

    Args:
        results: Its finished runs.
        metric: What decides; ``None`` leaves the points as they come.
        minimize: Whether lower is better.

    Returns:
        Each grid point with its runs, the best first. A point for which fewer seeds logged the
        metric than for another comes behind all that are complete, because its mean may be luck;
        among equals a mean that is not finite (a run diverged) comes last; ties stay in the order
        in which they ran.
    """
    grouped: dict[Point, list[Result]] = {}
    for result in results:
        grouped.setdefault(result.run.point, []).append(result)
    if metric is None:
        return list(grouped.items())
    logged = {point: values_of(runs, metric) for point, runs in grouped.items()}
    most = max(map(len, logged.values()), default=0)

    def place(entry: tuple[Point, Sequence[Result]]) -> tuple[bool, bool, float]:
        values = logged[entry[0]]
        cost = mean(values) if minimize else -mean(values)
        finite = math.isfinite(cost)
        return len(values) < most, not finite, cost if finite else 0.0

    return sorted(grouped.items(), key=place)
