"""The numbers of a sweep: finished runs by sampler, each at its best setting."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

from negplug.cli.sweep.choice import ranked, values_of
from negplug.cli.sweep.spread import count, mean, mean_and_deviation
from negplug.cli.sweep.trials import Point, Result
from negplug.cli.treatment import BASELINE

# More columns than these do not fit a page; results.csv has them all.
_SIDE_METRICS = 3

# Not an acceptance rate or an accumulated loss.
_ACCURACY = re.compile(r"acc(?!ept|um)|top1")

# What negplug's callback logs for every loss that it treats.
_NUM_NEGATIVES = re.compile(r"negplug/.+/num_negatives")


@dataclass(frozen=True)
class Summary:
    """Finished runs by sampler: the baseline first, then in the order given.

    Args:
        results: The finished runs.
        order: Samplers in the order in which they are to appear; those left out come last.
        wanted_metric: The metric shown first, by which settings are chosen, or ``None`` for an
            accuracy.
        minimize: Whether less of that metric is better.
        treatment: What all but the baseline have beside their sampler, as a sentence; or nothing.
    """

    results: Sequence[Result]
    order: Sequence[str]
    wanted_metric: str | None = None
    minimize: bool = False
    treatment: str = ""

    @cached_property
    def samplers(self) -> list[str]:
        """Samplers with at least one finished run, each with its composer as one more."""
        finished = [result.run.name for result in self.results]
        return [
            name for name in dict.fromkeys([BASELINE, *self.order, *finished]) if name in finished
        ]

    @cached_property
    def composed(self) -> bool:
        """Whether the batches of some runs were composed."""
        return any(result.run.compose for result in self.results)

    @cached_property
    def names(self) -> list[str]:
        """Names of the grid."""
        return sorted({name for result in self.results for name, _ in result.run.point})

    @cached_property
    def ranking(self) -> dict[str, list[tuple[Point, list[Result]]]]:
        """Grid points by sampler with their runs, the best first."""
        by_sampler: dict[str, list[Result]] = {sampler: [] for sampler in self.samplers}
        for result in sorted(self.results, key=lambda result: result.run.seed):
            by_sampler[result.run.name].append(result)
        return {
            sampler: ranked(results, self.metric if self.chooses else None, self.minimize)
            for sampler, results in by_sampler.items()
        }

    @cached_property
    def repeated(self) -> bool:
        """Whether some setting shown ran with several seeds, so that there is a spread to show."""
        return any(len(self.best(sampler)) > 1 for sampler in self.samplers)

    @cached_property
    def metrics(self) -> list[str]:
        """Names of all metrics, in the order in which they were logged."""
        return list(dict.fromkeys(name for result in self.results for name in result.metrics))

    @cached_property
    def metric(self) -> str | None:
        """The metric shown first: the one asked for, else an accuracy, else the first logged."""
        return next(iter((*self._choosing, *self.metrics)), None)

    @property
    def chooses(self) -> bool:
        """Whether that says which setting is best: of a loss, say, nobody has said that."""
        return bool(self._choosing)

    @cached_property
    def _choosing(self) -> list[str]:
        """Metrics of which it is known whether more is better, the first choice first."""
        own = [name for name in self.metrics if not name.startswith("negplug/")]
        accuracies = [name for name in own if _ACCURACY.search(name.lower())]
        evaluated = [name for name in accuracies if "train" not in name.lower()]
        names = (self.wanted_metric, "linear_acc", *evaluated, *accuracies)
        return [name for name in names if name is not None and name in self.metrics]

    @cached_property
    def columns(self) -> list[str]:
        """Metrics that the tables show."""
        # Lightning logs `loss_step` and `loss_epoch` beside `loss`, which is the latter.
        echoes = {name + end for name in self.metrics for end in ("_step", "_epoch")}
        others = [name for name in self.metrics if name != self.metric and name not in echoes]
        others.sort(key=lambda name: name.startswith("negplug/"))  # the recipe's own first
        return ([self.metric] if self.metric else []) + others[:_SIDE_METRICS]

    def best(self, sampler: str) -> list[Result]:
        """Return a sampler's runs at its best setting, seed by seed; nothing of one unknown."""
        return self.ranking[sampler][0][1] if sampler in self.ranking else []

    def values(self, sampler: str, metric: str) -> list[float]:
        """Return a metric of a sampler at its best setting, one value per seed that logged it."""
        return values_of(self.best(sampler), metric)

    def num_negatives(self, sampler: str) -> float:
        """Return how many negatives per anchor were measured at the end; NaN if nothing was."""
        return self._num_negatives(self.best(sampler))

    def header(self) -> list[str]:
        """Return the column names of the tables."""
        counted = ["negatives"] if self._counted else []
        return ["sampler", *self.names, *counted, *self.columns, "seconds", "runs"]

    def rows(self) -> list[list[str]]:
        """Return the cells of the table of samplers, each at its best setting."""
        return [self._row(sampler, *self.ranking[sampler][0]) for sampler in self.samplers]

    def all_rows(self) -> list[list[str]]:
        """Return the cells of the table of all grid points, by sampler, the best first."""
        return [
            self._row(sampler, point, runs)
            for sampler in self.samplers
            for point, runs in self.ranking[sampler]
        ]

    def note(self) -> str:
        """Return what the numbers in the tables are."""
        sentences = []
        if self.names and not self.chooses:
            sentences.append(
                "Per sampler the setting that ran first, for no accuracy was logged and nothing "
                "says which is best: give --metric, and --minimize where less is better."
            )
        elif self.names:
            sentences.append(
                f"Per sampler the setting with the {'lowest' if self.minimize else 'highest'} mean "
                f"{self.metric} over its seeds; one that fewer seeds finished is not chosen over "
                "one that more did."
            )
        repeated = "Mean ± standard deviation over the seeds."
        sentences.append(repeated if self.repeated else "One run each.")
        if self._seeds_are_one:
            sentences.append(
                "All seeds logged the same, so the script probably seeds itself: hand it the seed, "
                "as '{seed}' in ARGS, and start another study."
            )
        if len(self.metrics) > len(self.columns):
            sentences.append(f"All {len(self.metrics)} metrics are in results.csv.")
        if self.treatment:
            sentences.append(self.treatment)
        return " ".join(sentences)

    @cached_property
    def _seeds_are_one(self) -> bool:
        """Whether no seed of any setting made a difference to any metric."""
        logged = [
            {tuple(repr(run.metrics.get(name)) for name in self.metrics) for run in runs}
            for points in self.ranking.values()
            for _, runs in points
            if len(runs) > 1
        ]
        return bool(self.metrics and logged) and all(len(each) == 1 for each in logged)

    @cached_property
    def _counted(self) -> bool:
        return math.isfinite(self._num_negatives(self.results))

    def _num_negatives(self, runs: Sequence[Result]) -> float:
        names = [name for name in self.metrics if _NUM_NEGATIVES.fullmatch(name)]
        return mean([value for name in names for value in values_of(runs, name)])

    def _row(self, sampler: str, point: Point, runs: Sequence[Result]) -> list[str]:
        setting = dict(point)
        cells = [sampler, *(setting.get(name, "-") for name in self.names)]
        cells += [count(self._num_negatives(runs))] if self._counted else []
        cells += [mean_and_deviation(values_of(runs, name)) for name in self.columns]
        seconds = [result.seconds for result in runs]
        return [*cells, mean_and_deviation(seconds), str(len(seconds))]
