"""One choice of negatives: what ``negplug run`` is given beside the script."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace

from negplug.cli.sweep.grid import filled, one_spelling
from negplug.cli.sweep.trials import Run, Settings
from negplug.cli.treatment import BASELINE


@dataclass(frozen=True)
class RecommendSettings(Settings):
    """What all runs share; runs that were stopped by another metric are never mixed in."""

    metric: str = ""
    minimize: bool = False
    temperature_option: str | None = None


@dataclass(frozen=True)
class Choice:
    """A sampler with an objective and a temperature of its own, or the recipe's.

    Args:
        sampler: An expression, or ``baseline``.
        objective: An expression; None for the recipe's.
        temperature: τ; None for the recipe's.
    """

    sampler: str
    objective: str | None = None
    temperature: float | None = None

    def __str__(self) -> str:
        words = [self.sampler if self.sampler != BASELINE else "untouched"]
        words += [f"objective {self.objective}"] if self.objective is not None else []
        words += [f"temperature {self.temperature:g}"] if self.temperature is not None else []
        return " with ".join(words[:2]) + "".join(f" and {word}" for word in words[2:])

    def run(self, seed: int) -> Run:
        """Return the run of this choice with a seed."""
        objective = None if self.objective is None else one_spelling(self.objective)
        point = [("objective", objective)] if objective is not None else []
        point += [("temperature", repr(self.temperature))] if self.temperature is not None else []
        return Run(one_spelling(self.sampler), seed, tuple(point))

    def in_reach(self, settings: RecommendSettings) -> Choice:
        """Return the same choice for a recipe whose own temperature nobody can set.

        A treated loss with the recipe's own negatives takes negplug's temperature then.
        """
        if self.sampler == BASELINE and settings.temperature_option is None:
            return replace(self, sampler="in_batch()")
        return self


#: The recipe as it is.
UNTOUCHED = Choice(BASELINE)


def choice_of(run: Run) -> Choice:
    """Return the choice that a run is of."""
    point = dict(run.point)
    temperature = point.get("temperature")
    return Choice(
        run.sampler,
        point.get("objective"),
        None if temperature is None else float(temperature),
    )


def run_command(run: Run, settings: RecommendSettings) -> list[str]:
    """Return the ``negplug run …`` of one run."""
    choice = choice_of(run)
    command = [sys.executable, "-m", "negplug", "run", *_options(choice, settings)]
    return [*command, "--seed", str(run.seed), settings.script, *_args(choice, run.seed, settings)]


def pasted_command(choice: Choice, script: str, settings: RecommendSettings) -> str:
    """Return the command that trains with a choice from now on.

    Args:
        choice: The choice.
        script: The script, as it was given.
        settings: Arguments, whose ``{seed}`` becomes 0.
    """
    args = _args(choice, 0, settings)
    if choice.sampler == BASELINE:
        return shlex.join(["python", script, *args])
    return shlex.join(["negplug", "run", *_options(choice, settings), script, *args])


def _options(choice: Choice, settings: RecommendSettings) -> list[str]:
    options = ["--sampler", choice.sampler]
    if choice.objective is not None:
        options += ["--objective", choice.objective]
    if choice.temperature is not None and settings.temperature_option is None:
        options += ["--temperature", f"{choice.temperature:g}"]
    return options


def _args(choice: Choice, seed: int, settings: RecommendSettings) -> Sequence[str]:
    args = filled(settings, Run(BASELINE, seed)).args
    option, value = settings.temperature_option, choice.temperature
    if option is None or value is None:
        return args
    # `method_kwargs.temperature=` is one argument with its value, `--temperature` is two.
    return (*args, f"{option}{value:g}") if option.endswith("=") else (*args, option, f"{value:g}")
