"""What a trial of a sweep's study is: its settings, its run, and what that found."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, cast

from negplug.cli.sweep.recorded import Curve
from negplug.hosts.trainer.recording import numbers

if TYPE_CHECKING:
    from optuna.trial import FrozenTrial


#: Values of a grid, sorted by name: ``(("lr", "0.1"), ("tau", "0.2"))``.
Point = tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class Settings:
    """What all runs of a study share; results under different settings are never mixed.

    Args, objective and temperature may hold placeholders, see :mod:`negplug.cli.sweep.grid`. The
    variables of the environment are those that say which losses are treated.
    """

    script: str
    args: tuple[str, ...]
    objective: str | None
    temperature: float | str | None
    diagnose: tuple[str, ...] = ()
    environment: tuple[str, ...] = ()


@dataclass(frozen=True)
class Run:
    """One cell of the grid; ``compose`` is empty where the batches are the script's own."""

    sampler: str
    seed: int
    point: Point = ()
    compose: str = ""

    @property
    def name(self) -> str:
        """What is compared: the sampler and the composer of the batches."""
        return f"{self.sampler} with {self.compose}" if self.compose else self.sampler

    def __str__(self) -> str:
        values = (f"{name}={value}" for name, value in self.point)
        return ", ".join([self.name, *values, f"seed {self.seed}"])


@dataclass(frozen=True)
class Result:
    """A finished run; ``gradient_snr`` is over training, empty if it was not logged.

    ``batch_size`` and ``step_seconds``, the time of a training step, are None if unknown.
    """

    run: Run
    seconds: float
    metrics: dict[str, float]
    gradient_snr: Curve = ()
    batch_size: int | None = None
    step_seconds: float | None = None


class StoppedEarlyError(Exception):
    """A run was stopped after some of its epochs, because it was behind others."""

    def __init__(self, epochs: int, of: int) -> None:
        super().__init__(f"stopped after {epochs} of {of} epochs, not among the best third")
        self.epochs = epochs


def run_of(attributes: dict[str, object]) -> Run | None:
    """Return the run of a trial with these attributes; None if it was none of a sweep's."""
    if "sampler" not in attributes:
        return None
    point = cast(dict[str, str], attributes.get("point", {}))
    sampler, seed = str(attributes["sampler"]), cast(int, attributes["seed"])
    compose = str(attributes.get("compose", ""))  # younger than some studies
    return Run(sampler, seed, tuple(sorted(point.items())), compose)


def result_of(run: Run, trial: FrozenTrial) -> Result:
    """Return what a finished trial has found."""
    curve = [(step, value) for step, value in trial.user_attrs.get("gradient_snr", [])]
    # What scripts logged before it was checked may be in a study too.
    metrics = numbers(trial.user_attrs["metrics"])
    size, step = (trial.user_attrs.get(name) for name in ("batch_size", "step_seconds"))
    return Result(run, float(cast(float, trial.value)), metrics, curve, size, step)
