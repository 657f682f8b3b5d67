"""A metric over training: read from what a run recorded, and averaged over seeds."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from itertools import pairwise

from negplug.cli.sweep.spread import deviation, mean
from negplug.hosts.trainer.recording import Record

#: Steps and values, in the order of the steps.
Curve = Sequence[tuple[int, float]]

# A picture has no more columns than these, and some databases keep no more than 64 KiB of text.
_MOST_POINTS = 500


def curve_of(records: Iterable[Record], metric: str) -> Curve:
    """Return a metric by training step, at most 500 points.

    Args:
        records: Lines of a run's metrics file; those without ``step`` are left out.
        metric: Name of the metric.

    Returns:
        What the first Trainer that logged the metric logged: later ones evaluate. A value that
        stays exactly the same was not logged anew and is left out.
    """
    trainers: dict[int, dict[int, float]] = {}
    for record in records:
        value = record.get("metrics", {}).get(metric)
        if value is not None and "step" in record:
            trainers.setdefault(record.get("trainer", 0), {})[record["step"]] = value
    if not trainers:
        return []
    by_step = sorted(trainers[min(trainers)].items())
    points = by_step[:1] + [new for old, new in pairwise(by_step) if new[1] != old[1]]
    stride = math.ceil(len(points) / _MOST_POINTS)
    return points[::-1][::stride][::-1]  # counted from the end, which is kept


def averaged(curves: Sequence[Curve]) -> list[tuple[int, float, float]]:
    """Return step, mean and standard deviation over the curves, where all have a value."""
    tables = [dict(curve) for curve in curves if curve]
    if not tables:
        return []
    averages = []
    for step in sorted(set.intersection(*map(set, tables))):
        values = [table[step] for table in tables]
        averages.append((step, mean(values), deviation(values)))
    return averages
