"""The grid of a sweep as one Optuna study: what is to run, what ran, what failed.

The whole grid is enqueued, each run a trial; Optuna's queue hands the trials out, also to several
sweeps that share a storage, and its heartbeat tells a run in progress from one whose process was
killed, which is then enqueued anew.

What makes a run is in attributes rather than parameters, because the choices of an Optuna
categorical are fixed with the first trial, while a sweep may grow. The metrics are attributes too:
Optuna keeps only finite values, and a metric may be NaN or absent; a trial's value is its seconds.
So the storage has all that a report needs, wherever the runs were done.

A pruner of Optuna's may stop runs early, by what they report while they go on.
"""

from __future__ import annotations

import json
import time
import warnings
import zlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from negplug.cli.child import RunFailedError
from negplug.cli.sweep.storage import StorageError, is_outage, open_storage, open_study, told
from negplug.cli.sweep.trials import Result, Run, Settings, StoppedEarlyError, result_of, run_of

if TYPE_CHECKING:
    from optuna import Trial
    from optuna.pruners import BasePruner
    from optuna.trial import FrozenTrial


class SweepStudy:
    """The study of a sweep.

    Args:
        where: A file for SQLite, or the SQLAlchemy URL of a storage.
        name: Name of the study in the storage.
        settings: What all runs share.
        minimize: Whether less is better of what runs report, see :meth:`is_behind`.

    Raises:
        ValueError: If the storage cannot be opened, or the study has other settings.
        StorageError: If it cannot be read or written; every method may raise it too.
    """

    def __init__(
        self, where: Path | str, name: str, settings: Settings, minimize: bool = True
    ) -> None:
        import optuna

        # What a sweep does and what fails in it is reported by the sweep itself.
        optuna.logging.set_verbosity(optuna.logging.CRITICAL)
        # Through JSON, because tuples come back from the storage as lists.
        wanted = json.loads(json.dumps(asdict(settings)))
        self._script = Path(settings.script)
        storage = open_storage(where)
        with told():
            self._study = open_study(storage, name, wanted, minimize)
            stored = dict(self._study.user_attrs["settings"])
        for key, value in wanted.items():
            # Two are younger than some studies, which know nothing of their environment.
            before = stored.get(key, value if key == "environment" else [])
            if before != value:
                raise ValueError(
                    f"this study was created with {key}={before!r}, not {key}={value!r}, and "
                    "results must not be mixed; repeat its settings or start another study"
                )
        # By number, for clocks differ between machines and may be set back.
        self._failed_before = {
            trial.number
            for trials in self._trials().values()
            for trial in trials
            if trial.state.name == "FAIL"
        }
        self._in_hand: Trial | None = None

    def prune_by(self, pruner: BasePruner) -> None:
        """Have :meth:`is_behind` ask this pruner."""
        self._study.pruner = pruner

    def is_behind(self, epochs: int, value: float) -> bool:
        """Report what the run in hand has reached, and return whether it may stop.

        Args:
            epochs: How many it has done.
            value: Of the metric.
        """
        assert self._in_hand is not None
        with told():
            self._in_hand.report(value, epochs)
            return self._in_hand.should_prune()

    def enqueue(self, runs: Iterable[Run]) -> None:
        """Enqueue the runs that are still to do and that nobody has in hand."""
        trials = self._trials()
        for run in runs:
            if not any(self._settles(trial) for trial in trials.get(run, [])):
                attributes = {**asdict(run), "point": dict(run.point)}
                with told():
                    self._study.enqueue_trial({}, user_attrs=attributes)

    def work(
        self,
        runs: Sequence[Run],
        execute: Callable[[Run], Result],
        on_wait: Callable[[Sequence[Run]], None],
    ) -> None:
        """Do the runs until each is finished or has failed once, here or in another sweep.

        Args:
            runs: The grid.
            execute: Does one run, or raises :class:`StoppedEarlyError`.
            on_wait: Told, when nothing is left to do here, what other sweeps are doing.
        """
        import optuna

        ours: list[Exception] = []  # what is no fault of the storage
        lost: list[Trial] = []  # whose beats came too late for another sweep, which took it over

        def store(trial: Trial, **found: object) -> None:
            try:
                for name, value in found.items():
                    trial.set_user_attr(name, value)
            except optuna.exceptions.UpdateFinishedTrialError:
                lost.append(trial)
                raise

        def objective(trial: Trial) -> float:
            run = run_of(trial.user_attrs)
            # Optuna makes a trial up when its queue is empty; another call may ask for more runs
            # than this one; and two sweeps that start at the same moment may enqueue one run twice.
            if run is None or run not in runs or self._is_taken(run, trial.number):
                raise optuna.TrialPruned
            self._in_hand, script = trial, self._fingerprint()
            try:
                result = execute(run)
            except StoppedEarlyError as stop:
                store(trial, stopped=stop.epochs)
                raise optuna.TrialPruned from None
            except RunFailedError as error:
                store(trial, error=str(error))
                raise
            except StorageError:
                raise
            except Exception as error:
                ours.append(error)
                raise
            store(
                trial,
                metrics=result.metrics,
                gradient_snr=result.gradient_snr,
                batch_size=result.batch_size,
                step_seconds=result.step_seconds,
                script=script,
            )
            return result.seconds

        def turn() -> bool:
            """Do one run if there is one to do; returns whether the work goes on."""
            with warnings.catch_warnings(), told():
                warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
                optuna.storages.fail_stale_trials(self._study)
            self.enqueue(runs)
            states = {run: {t.state.name for t in found} for run, found in self._trials().items()}
            if any("WAITING" in states[run] for run in runs):
                with told():
                    self._study.optimize(objective, n_trials=1, catch=(RunFailedError,))
            elif elsewhere := [run for run in runs if "RUNNING" in states[run]]:
                on_wait(elsewhere)
                time.sleep(1)
            else:
                return False
            return True

        goes_on = True
        while goes_on:
            try:
                goes_on = turn()
            except StorageError as error:
                if ours:
                    raise ours[0] from None
                # All of a turn may be done again. A server that stays away is no outage in the
                # next one any more, but cannot be reached.
                if not (lost or is_outage(error)):
                    raise
                lost.clear()
                time.sleep(1)

    def results(self) -> list[Result]:
        """Return all finished runs, in the order in which they were asked for."""
        with told():
            return [
                result_of(run, trial)
                for run, trials in self._trials().items()
                for trial in trials
                if trial.state.name == "COMPLETE"
            ]

    def of_another_script(self) -> int:
        """Return how many finished runs are of the script as it was before it was changed.

        What it imports may change too, of which nothing is known.
        """
        own = self._fingerprint()
        scripts = [
            trial.user_attrs.get("script")  # younger than some studies
            for trials in self._trials().values()
            for trial in trials
            if trial.state.name == "COMPLETE"
        ]
        return sum(script not in (None, own) for script in scripts)

    def _fingerprint(self) -> int | None:
        """Return what tells the script from another one under its name; None if it is gone."""
        try:
            return zlib.crc32(self._script.read_bytes())
        except OSError:
            return None

    def stopped(self) -> dict[Run, int]:
        """Return the runs that were stopped early, and after how many epochs."""
        return {
            run: trial.user_attrs["stopped"]
            for run, trials in self._trials().items()
            for trial in trials
            if trial.state.name == "PRUNED" and "stopped" in trial.user_attrs
        }

    def reported(self) -> dict[Run, dict[int, float]]:
        """Return what runs have reported that were finished or stopped: values by epochs."""
        return {
            run: dict(sorted(trial.intermediate_values.items()))
            for run, trials in self._trials().items()
            for trial in trials
            if trial.state.name in ("COMPLETE", "PRUNED") and trial.intermediate_values
        }

    def failures(self) -> dict[Run, str]:
        """Return the runs that failed and ended well in no attempt, with the end of their log."""
        finished = {result.run for result in self.results()} | set(self.stopped())
        return {
            run: trial.user_attrs["error"]
            for run, trials in self._trials().items()
            for trial in trials
            if "error" in trial.user_attrs and run not in finished
        }

    def _settles(self, trial: FrozenTrial) -> bool:
        """Whether a trial leaves nothing to do for its run: all but an old or a killed failure."""
        if trial.state.name == "FAIL":
            return "error" in trial.user_attrs and trial.number not in self._failed_before
        if trial.state.name == "PRUNED":  # a trial that was not for this sweep is one too
            return "stopped" in trial.user_attrs
        return trial.state.name in ("COMPLETE", "RUNNING", "WAITING")

    def _is_taken(self, run: Run, number: int) -> bool:
        """Whether another trial than this one has done the run, is doing it, or failed in it."""
        return any(
            self._settles(trial)
            for trial in self._trials()[run]
            if trial.state.name in ("COMPLETE", "FAIL", "PRUNED")
            or (trial.state.name == "RUNNING" and trial.number < number)
        )

    def _trials(self) -> dict[Run, list[FrozenTrial]]:
        grouped: dict[Run, list[FrozenTrial]] = {}
        with told():
            for trial in self._study.get_trials(deepcopy=False):
                run = run_of(trial.user_attrs)
                if run is not None:
                    grouped.setdefault(run, []).append(trial)
        return grouped
