"""The grid of a sweep as one Optuna study: what is to run, what ran, what failed.

Every run is a trial whose user attributes are its sampler and seed. They are attributes rather
than parameters because the choices of an Optuna categorical are fixed with the first trial, while
a sweep may grow. Optuna's queue hands out the runs, so several processes may work on one study,
and its heartbeat tells a run in progress from one whose process was killed.
"""

import json
import time
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, cast

from negplug.cli.run import RunFailedError

if TYPE_CHECKING:
    from optuna import Study, Trial
    from optuna.trial import FrozenTrial

__all__ = ["Result", "Run", "Settings", "SweepStudy"]

# A killed process is noticed after the grace period; the heartbeat is one small write.
_HEARTBEAT_SECONDS = 5
_GRACE_SECONDS = 20


@dataclass(frozen=True)
class Settings:
    """What all runs of a study share; results under different settings are never mixed."""

    script: str
    args: tuple[str, ...]
    objective: str | None
    temperature: float | None


@dataclass(frozen=True)
class Run:
    """One cell of the grid."""

    sampler: str
    seed: int


@dataclass(frozen=True)
class Result:
    """A finished run."""

    run: Run
    seconds: float
    metrics: dict[str, float]


class SweepStudy:
    """A study in a storage.

    Args:
        url: SQLAlchemy URL of the storage.
        name: Name of the study in the storage.
        settings: What all runs share.

    Raises:
        ValueError: The study exists and was created with other settings.
    """

    def __init__(self, url: str, name: str, settings: Settings) -> None:
        """Create the study, or open the one there is."""
        import optuna

        # Failed runs are reported by the sweep itself, with the end of their log.
        optuna.logging.set_verbosity(optuna.logging.CRITICAL)
        # Two processes write to one SQLite file: wait for the other's lock, never give up a beat.
        connect_args = {"timeout": 60} if url.startswith("sqlite") else {}
        with _without_experimental_warnings():
            storage = optuna.storages.RDBStorage(
                url,
                engine_kwargs={"connect_args": connect_args},
                heartbeat_interval=_HEARTBEAT_SECONDS,
                grace_period=_GRACE_SECONDS,
            )
            self._study: Study = optuna.create_study(
                storage=storage, study_name=name, direction="minimize", load_if_exists=True
            )
            # Optuna keeps only finite numbers, and a metric may be NaN or absent: the value of a
            # trial is its wall time, the metrics are in its user attributes.
            self._study.set_metric_names(["seconds"])
        # Through JSON, because tuples come back from the storage as lists.
        wanted: dict[str, object] = json.loads(json.dumps(asdict(settings)))
        stored = cast(dict[str, object], self._study.user_attrs.get("settings", {}))
        if not stored:
            self._study.set_user_attr("settings", wanted)
            return
        for key, value in wanted.items():
            if stored[key] != value:
                raise ValueError(
                    f"this study was created with {key}={stored[key]!r}, not {key}={value!r}, and "
                    "results must not be mixed; repeat its settings or choose another folder"
                )

    def enqueue(self, runs: Iterable[Run], *, only_lost: bool = False) -> None:
        """Queue the runs that are neither finished, in progress nor queued.

        Args:
            runs: The grid.
            only_lost: Leave runs alone that failed by themselves; queue those that are new or
                whose process was stopped or killed.
        """
        trials = self._trials_by_run()
        for run in runs:
            states = [trial.state.name for trial in trials.get(run, [])]
            if {"COMPLETE", "RUNNING", "WAITING"}.intersection(states):
                continue
            if only_lost and _latest_error(trials.get(run, [])) is not None:
                continue
            self._study.enqueue_trial({}, user_attrs=asdict(run))

    def work(
        self,
        runs: Sequence[Run],
        execute: Callable[[Run], tuple[float, dict[str, float]]],
        on_change: Callable[[], None],
        on_wait: Callable[[Sequence[Run]], None],
    ) -> None:
        """Do what is queued of ``runs`` until nothing of it is left to do, here or elsewhere.

        Args:
            runs: The grid, queued before.
            execute: Does one run; returns its seconds and final metrics.
            on_change: Told after each run that the results may have grown.
            on_wait: Told, when nothing is left to do here, which runs other processes work on.
        """
        import optuna

        lost: list[int] = []

        def objective(trial: "Trial") -> float:
            run = _run_of(trial.user_attrs)
            if run is None or self._is_taken(run, trial.number):
                raise optuna.TrialPruned
            if run not in runs:
                # Asked for by another call, which may be at work or long gone: back in the queue.
                self._study.enqueue_trial({}, user_attrs=asdict(run))
                raise optuna.TrialPruned
            failure = None
            try:
                seconds, metrics = execute(run)
            except RunFailedError as error:
                failure = error
            if self._study.get_trials(deepcopy=False)[trial.number].state.is_finished():
                # This process was suspended for so long that another took over its run.
                lost.append(trial.number)
                raise optuna.TrialPruned
            if failure is not None:
                trial.set_user_attr("error", str(failure))
                raise failure
            trial.set_user_attr("metrics", metrics)
            return seconds

        while True:
            self._fail_killed()
            self.enqueue(runs, only_lost=True)
            trials = self._trials_by_run()
            queue = [run for run, of_run in trials.items() if _any(of_run, "WAITING")]
            elsewhere = [run for run in runs if _any(trials.get(run, []), "RUNNING")]
            if set(queue).intersection(runs):
                try:
                    self._study.optimize(
                        objective,
                        n_trials=len(queue),
                        catch=(RunFailedError,),
                        callbacks=[lambda study, trial: on_change()],
                    )
                except ValueError:
                    if not lost:  # Optuna refuses a result for a trial that it holds finished
                        raise
                    lost.clear()
            elif elsewhere:
                on_wait(elsewhere)
                time.sleep(1)
            else:
                return

    def results(self) -> list[Result]:
        """All finished runs, in the order in which they were asked for."""
        results = []
        for run, trials in self._trials_by_run().items():
            done = [trial for trial in trials if trial.state.name == "COMPLETE"]
            if done:
                metrics = done[-1].user_attrs.get("metrics", {})
                results.append(Result(run, cast(float, done[-1].value), metrics))
        return results

    def failures(self) -> dict[Run, str]:
        """Runs that failed and were not finished since, with the end of their log."""
        failures = {}
        for run, trials in self._trials_by_run().items():
            error = _latest_error(trials)
            if error is not None and not _any(trials, "COMPLETE"):
                failures[run] = error
        return failures

    def _is_taken(self, run: Run, number: int) -> bool:
        """Whether a run is done, or in the hands of an earlier trial.

        Two processes that start at the same moment both queue the grid; of two trials for one
        run the later is dropped.
        """
        return any(
            trial.state.name == "COMPLETE"
            or (trial.number < number and trial.state.name in ("RUNNING", "WAITING"))
            for trial in self._trials_by_run()[run]
        )

    def _trials_by_run(self) -> dict[Run, list["FrozenTrial"]]:
        grouped: dict[Run, list[FrozenTrial]] = {}
        for trial in self._study.get_trials(deepcopy=False):
            run = _run_of(trial.user_attrs)
            if run is not None:
                grouped.setdefault(run, []).append(trial)
        return grouped

    def _fail_killed(self) -> None:
        import optuna

        with _without_experimental_warnings():
            optuna.storages.fail_stale_trials(self._study)


def _run_of(attributes: dict[str, object]) -> Run | None:
    """The run of a trial; ``None`` for one that Optuna made up when its queue was empty."""
    if "sampler" not in attributes:
        return None
    return Run(str(attributes["sampler"]), cast(int, attributes["seed"]))


def _any(trials: Sequence["FrozenTrial"], state: str) -> bool:
    return any(trial.state.name == state for trial in trials)


def _latest_error(trials: Sequence["FrozenTrial"]) -> str | None:
    """Error of the latest failed attempt; ``None`` too if that attempt was stopped or killed."""
    failed = [trial for trial in trials if trial.state.name == "FAIL"]
    return cast("str | None", failed[-1].user_attrs.get("error")) if failed else None


@contextmanager
def _without_experimental_warnings() -> Iterator[None]:
    """Optuna warns that its heartbeat is experimental, which no user of a sweep can act on."""
    import optuna

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        yield
