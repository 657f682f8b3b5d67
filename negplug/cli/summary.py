"""The numbers of a sweep: finished runs grouped by sampler, and ``results.csv``."""

from __future__ import annotations

import csv
import math
import os
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from negplug.cli.study import Result
from negplug.cli.treatment import BASELINE

# More columns than these do not fit a page; results.csv has them all.
_SIDE_METRICS = 3


@dataclass(frozen=True)
class Summary:
    """Finished runs, grouped by sampler: the baseline first, then in the order given.

    Args:
        results: The finished runs.
        order: Samplers in the order in which they are to appear; those left out come last.
        wanted_metric: The metric shown first, or ``None`` for an accuracy.
    """

    results: Sequence[Result]
    order: Sequence[str]
    wanted_metric: str | None = None

    @cached_property
    def samplers(self) -> list[str]:
        """Samplers with at least one finished run."""
        finished = [result.run.sampler for result in self.results]
        return [
            name for name in dict.fromkeys([BASELINE, *self.order, *finished]) if name in finished
        ]

    @cached_property
    def repeated(self) -> bool:
        """Whether some sampler ran with several seeds, so that there is a spread to show."""
        return len(self.results) > len(self.samplers)

    @cached_property
    def metrics(self) -> list[str]:
        """Names of all metrics, in the order in which they were logged."""
        return list(dict.fromkeys(name for result in self.results for name in result.metrics))

    @cached_property
    def metric(self) -> str | None:
        """The metric shown first: the one asked for, else an accuracy, else the first logged."""
        accuracies = [n for n in self.metrics if "acc" in n.lower() or "top1" in n.lower()]
        evaluated = [name for name in accuracies if "train" not in name.lower()]
        for name in (self.wanted_metric, "linear_acc", *evaluated, *accuracies):
            if name in self.metrics:
                return name
        return self.metrics[0] if self.metrics else None

    @cached_property
    def columns(self) -> list[str]:
        """Metrics that the tables show."""
        # Lightning logs `loss_step` and `loss_epoch` beside `loss`, which is the latter.
        echoes = {name + end for name in self.metrics for end in ("_step", "_epoch")}
        others = [name for name in self.metrics if name != self.metric and name not in echoes]
        return ([self.metric] if self.metric else []) + others[:_SIDE_METRICS]

    def sorted_results(self) -> list[Result]:
        """Return the finished runs by sampler, then seed."""
        return sorted(self.results, key=lambda r: (self.samplers.index(r.run.sampler), r.run.seed))

    def values(self, sampler: str, metric: str) -> list[float]:
        """Return a metric of one sampler, one value per seed that logged it."""
        runs = (result for result in self.sorted_results() if result.run.sampler == sampler)
        return [result.metrics[metric] for result in runs if metric in result.metrics]

    def header(self) -> list[str]:
        """Return the column names of the tables."""
        return ["sampler", *self.columns, "seconds", "runs"]

    def rows(self) -> list[list[str]]:
        """Return the cells of the tables, one row per sampler."""
        rows = []
        for sampler in self.samplers:
            seconds = [r.seconds for r in self.results if r.run.sampler == sampler]
            cells = [mean_and_deviation(self.values(sampler, name)) for name in self.columns]
            rows.append([sampler, *cells, mean_and_deviation(seconds), str(len(seconds))])
        return rows

    def note(self) -> str:
        """Return what the numbers in the tables are."""
        what = "Mean ± standard deviation over the seeds." if self.repeated else "One run each."
        hidden = len(self.metrics) > len(self.columns)
        return f"{what} All {len(self.metrics)} metrics are in results.csv." if hidden else what


def write_csv(summary: Summary, path: Path) -> None:
    """Write one row per finished run: sampler, seed, seconds, then every metric."""
    # Swapped in whole: another process of the same sweep may be writing too.
    partial = path.with_name(f"{path.name}.{os.getpid()}")
    with partial.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["sampler", "seed", "seconds", *summary.metrics])
        for result in summary.sorted_results():
            values = [result.metrics.get(name, "") for name in summary.metrics]
            seconds = f"{result.seconds:.3f}"
            writer.writerow([result.run.sampler, result.run.seed, seconds, *values])
    os.replace(partial, path)


def mean(values: Sequence[float]) -> float:
    """Return the mean; NaN of nothing."""
    return math.fsum(values) / len(values) if values else math.nan


def deviation(values: Sequence[float]) -> float:
    """Return the sample standard deviation; zero of one value, which has no spread to show."""
    if len(values) < 2:
        return 0.0
    center = mean(values)
    return math.sqrt(math.fsum((value - center) ** 2 for value in values) / (len(values) - 1))


def mean_and_deviation(values: Sequence[float]) -> str:
    """Return ``0.550 ± 0.071``: two digits of the deviation, as many decimals of the mean.

    Without a spread: four digits of the mean.
    """
    if not values:
        return "-"
    center, spread = mean(values), deviation(values)
    if len(values) == 1 or not math.isfinite(spread):
        return f"{center:.{_decimals(center, 4)}f}"
    if spread == 0:
        return f"{center:.{_decimals(center, 4)}f} ± 0"
    decimals = _decimals(spread, 2)
    return f"{center:.{decimals}f} ± {spread:.{decimals}f}"


def _decimals(value: float, digits: int) -> int:
    """How many decimals show a value with so many significant digits, within reason."""
    if value == 0 or not math.isfinite(value):
        return 0
    return min(max(digits - 1 - math.floor(math.log10(abs(value))), 0), 8)
