"""The runs of a recommendation: the untouched recipe, the choices, and the best of them again.

Seeds below the number of selection seeds choose, and no others do; those from there on measure.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from negplug.cli.recommend.choice import UNTOUCHED, Choice, RecommendSettings, run_command
from negplug.cli.recommend.results import write_csv
from negplug.cli.sweep.recorded import batch_size_of, values_by_epoch
from negplug.cli.sweep.runs import Observer, do_runs
from negplug.cli.sweep.spread import mean
from negplug.cli.sweep.storage import StorageError
from negplug.cli.sweep.study import SweepStudy
from negplug.cli.sweep.trials import Result, Run, StoppedEarlyError
from negplug.hosts.trainer.recording import Record


class BenchError(Exception):
    """Nothing can be recommended; the message says why, as a sentence."""


@dataclass(frozen=True)
class Bench:
    """Where the runs are done and what they found.

    Args:
        study: Keeps them.
        settings: What they share.
        script: The script, as it was given.
        out: Folder of the runs.
        timeout: Seconds after which a run has failed.
        command_of: Returns the command line of a run.
    """

    study: SweepStudy
    settings: RecommendSettings
    script: str
    out: Path
    timeout: float | None = None
    command_of: Callable[[Run, RecommendSettings], Sequence[str]] = run_command

    def untouched(self, batch_size: int | None) -> tuple[int, int | None]:
        """Run the recipe as it is, with seed 0, for what it says of itself.

        Args:
            batch_size: Samples of a batch; None to take what the run records.

        Returns:
            The batch size, and the number of epochs if the metric is logged along them.

        Raises:
            BenchError: If the run failed, or does not say what is needed.
        """
        run = UNTOUCHED.run(0)

        def check(records: Sequence[Record]) -> None:
            if records and batch_size is None and batch_size_of(records) is None:
                raise BenchError(_NO_BATCH_SIZE)

        def observed() -> Observer:
            report = self._reporter(None)

            def observe(records: Sequence[Record]) -> None:
                check(records)
                report(records)

            return observe

        self._do([run], observed)
        result = self.results().get(run)
        if result is None:
            # How it ended and where its log is, and the last line of that.
            told = self.study.failures()[run].splitlines()
            raise BenchError(f"the untouched recipe failed, {' '.join([told[0], *told[1:][-1:]])}")
        metric = self.settings.metric
        if metric not in result.metrics:
            logged = ", ".join(result.metrics) or "nothing"
            raise BenchError(
                f"--metric {metric!r} was not logged by the untouched recipe, logged were: {logged}"
            )
        size = batch_size or result.batch_size
        if size is None:
            raise BenchError(_NO_BATCH_SIZE)
        along = self.study.reported().get(run, {})
        return size, max(along) if len(along) > 1 else None

    def select(
        self, choices: Iterable[Choice], epochs: int | None, selection_seeds: int
    ) -> tuple[Choice, int]:
        """Find the best choice: halving with seed 0, the mean of those left over the other seeds.

        Args:
            choices: The short list, the most promising first.
            epochs: Of a run; None if the metric says nothing before its end.
            selection_seeds: How many seeds choose.

        Returns:
            The best one, and how many seeds it took: one where one alone is left.

        Raises:
            BenchError: If no choice did.
        """
        left, used = list(choices), 0
        for seed in range(selection_seeds):
            used = seed + 1
            halves = seed == 0 and epochs is not None
            if epochs is not None and halves:
                from negplug.cli.recommend.halving import Halving

                self.study.prune_by(Halving(epochs))
            runs = [choice.run(seed) for choice in left]
            self._do(runs, (lambda: self._reporter(epochs)) if halves else None)
            left = [choice for choice in left if self.values(choice, [seed])]
            if len(left) < 2:
                break
        if not left:
            raise BenchError("no choice ran to its end")

        def place(choice: Choice) -> float:
            value = mean(list(self.values(choice, range(used)).values()))
            value = value if self.settings.minimize else -value
            return value if not math.isnan(value) else math.inf

        return min(left, key=place), used

    def compare(self, choice: Choice, seeds: Sequence[int]) -> None:
        """Run a choice and the untouched recipe with fresh seeds."""
        self._do([each.run(seed) for seed in seeds for each in (UNTOUCHED, choice)], None)

    def results(self) -> dict[Run, Result]:
        """Return the finished runs."""
        return {result.run: result for result in self.study.results()}

    def values(self, choice: Choice, seeds: Iterable[int]) -> Mapping[int, float]:
        """Return the metric of a choice's finished runs, by seed."""
        found, metric = self.results(), self.settings.metric
        runs = {seed: found.get(choice.run(seed)) for seed in seeds}
        return {
            seed: result.metrics[metric]
            for seed, result in runs.items()
            if result is not None and metric in result.metrics
        }

    def cost(self, choice: Choice, seeds: Sequence[int]) -> tuple[float, str]:
        """Return a choice's time as a multiple of the untouched recipe's, and what was timed."""
        found = self.results()
        pairs = [(found.get(choice.run(s)), found.get(UNTOUCHED.run(s))) for s in seeds]
        both = [(a, b) for a, b in pairs if a is not None and b is not None]
        steps = [(a.step_seconds, b.step_seconds) for a, b in both]
        told = [(a, b) for a, b in steps if a is not None and b is not None and b > 0]
        if told and len(told) == len(both):
            return sum(a for a, _ in told) / sum(b for _, b in told), "time per step"
        whole = sum(b.seconds for _, b in both)
        return sum(a.seconds for a, _ in both) / whole, "time of a whole run"

    def _do(self, runs: Sequence[Run], observed: Callable[[], Observer] | None) -> None:
        def command_of(run: Run) -> Sequence[str]:
            return self.command_of(run, self.settings)

        self.study.enqueue(runs)
        do_runs(runs, self.study, command_of, self.keep, self.out, self.timeout, observed)
        self.keep()

    def keep(self) -> None:
        """Write ``results.csv``."""
        write_csv(self.results(), self.study.stopped(), self.out / "results.csv")

    def _reporter(self, epochs: int | None) -> Observer:
        """Return what hands a run's metric to the pruner, epoch by epoch.

        Args:
            epochs: Of a run, which may be stopped before its last; None if it may not.
        """
        told = 0

        def report(records: Sequence[Record]) -> None:
            nonlocal told
            for epoch, value in values_by_epoch(records, self.settings.metric).items():
                if epoch <= told:
                    continue
                try:
                    behind = self.study.is_behind(epoch, value)
                except StorageError:  # nothing to end the run for: it is told again
                    return
                told = epoch
                if behind and epochs is not None and epoch < epochs:
                    raise StoppedEarlyError(epoch, epochs)

        return report


_NO_BATCH_SIZE = (
    "the untouched recipe does not record its batch size, as a script without a Trainer does "
    "not by itself; give it with --batch-size"
)
