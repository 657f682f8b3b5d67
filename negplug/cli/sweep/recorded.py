"""What a run's records say of its course: the batch size, the time of a step, metrics over time."""

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


def batch_size_of(records: Iterable[Record]) -> int | None:
    """Return the batch size of the first Trainer that says it."""
    sizes = (record.get("batch_size", 0) for record in records)
    return next((size for size in sizes if size > 0), None)


def step_seconds_of(records: Iterable[Record]) -> float | None:
    """Return the time of a training step of the first Trainer that says it.

    What comes before the first record, compilation for one, is left out where there is a second.
    """
    trainers: dict[int, list[tuple[int, float]]] = {}
    for record in records:
        if record.get("step", 0) > 0 and "train_seconds" in record:
            points = trainers.setdefault(record.get("trainer", 0), [])
            points.append((record["step"], record["train_seconds"]))
    if not trainers:
        return None
    points = trainers[min(trainers)]
    (first, begin), (last, end) = points[0], points[-1]
    return (end - begin) / (last - first) if last > first else end / last


def values_by_epoch(records: Iterable[Record], metric: str) -> dict[int, float]:
    """Return a metric by the number of epochs done, as far as it is known.

    Args:
        records: Lines of a run's metrics file.
        metric: Name of the metric.

    Returns:
        What the first Trainer logged: later ones evaluate. Lightning's validations come within an
        epoch, so the record of its end has their values.
    """
    values: dict[int, float] = {}
    trainer: int | None = None
    for record in records:
        trainer = record.get("trainer", 0) if trainer is None else trainer
        value = record.get("metrics", {}).get(metric)
        if value is None or record.get("trainer", 0) != trainer:
            continue
        if record.get("event") not in ("validation_end", "test_end"):
            values[_epochs_done(record, len(values))] = value
    return dict(sorted(values.items()))


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


def _epochs_done(record: Record, before: int) -> int:
    if "epoch" not in record:
        return before + 1
    return record["epoch"] + (record.get("event") != "fit_end")
