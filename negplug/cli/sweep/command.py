"""Command lines of a sweep: that of each run, and the one that makes the whole study."""

from __future__ import annotations

import hashlib
import os
import re
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

from negplug.cli.sweep.grid import OWN_BATCHES, filled
from negplug.cli.sweep.trials import Run, Settings
from negplug.cli.treatment import BASELINE
from negplug.contract.variables import TREAT_VARIABLE, listed

_WHICH_LOSSES = (TREAT_VARIABLE, "NEGPLUG_IGNORE")


def run_command(run: Run, settings: Settings) -> list[str]:
    """Return the ``negplug run …`` of one run."""
    inputs = filled(settings, run)
    command = [sys.executable, "-m", "negplug", "run", "--sampler", run.sampler]
    command += _options(inputs.objective, inputs.temperature, settings.diagnose)
    command += ["--compose", run.compose] if run.compose else []
    return [*command, "--seed", str(run.seed), settings.script, *inputs.args]


def sweep_command(
    script: Path, settings: Settings, runs: Sequence[Run], options: Sequence[str]
) -> str:
    """Return the ``negplug sweep …`` that makes the whole study, which grew over several calls.

    Args:
        script: The script, as it was given.
        settings: What all runs share.
        runs: All runs of the study, those of the last call first.
        options: Further options, which do not say what is run.
    """
    samplers = dict.fromkeys(run.sampler for run in runs)
    command = ["negplug", "sweep", str(script)]
    for sampler in sorted(samplers, key=lambda sampler: sampler != BASELINE):
        command += ["--sampler", sampler]
    composers = dict.fromkeys(run.compose for run in runs if run.sampler != BASELINE)
    if any(composers):
        for compose in composers:
            command += ["--compose", compose or OWN_BATCHES]
    grid: dict[str, dict[str, None]] = {}
    for name, value in (pair for run in runs for pair in run.point):
        grid.setdefault(name, {})[value] = None
    command += _options(settings.objective, settings.temperature, settings.diagnose)
    for name, values in grid.items():
        command += ["--grid", f"{name}={','.join(values)}"]
    command += ["--seeds", str(1 + max(run.seed for run in runs)), *options]
    return as_typed(command, settings)


def as_typed(command: Sequence[str], settings: Settings) -> str:
    """Return a command as it is typed, with the script's arguments and the variables it needs."""
    pairs = (variable.split("=", 1) for variable in settings.environment)
    whole = [*command, "--", *settings.args] if settings.args else command
    return " ".join([*(f"{name}={shlex.quote(value)}" for name, value in pairs), shlex.join(whole)])


def environment_of_runs() -> tuple[str, ...]:
    """Return the variables, as ``NAME=value``, that say which losses of a run are treated."""
    values = {name: sorted({*listed(os.environ.get(name, ""))}) for name in _WHICH_LOSSES}
    return tuple(f"{name}={','.join(value)}" for name, value in values.items() if value)


def treatment_of(settings: Settings) -> str:
    """Return what all runs but the baseline's have beside their sampler; empty if nothing."""
    given = {"objective": settings.objective, "temperature": settings.temperature}
    named = [f"{name} {value}" for name, value in given.items() if value is not None]
    return f"All but {BASELINE} with {' and '.join(named)}." if named else ""


def run_folder(run: Run) -> str:
    """Return a readable folder name; a hash keeps apart what the readable part may not."""
    parts = [run.sampler, *([run.compose] if run.compose else [])]
    parts += [f"{name}={value}" for name, value in run.point]
    name = "-".join(re.sub(r"[^\w.=+-]+", "_", part).strip("_") for part in parts)
    plain = r"\w+(\([\w=., +-]*\))?|\w+=[\w.+-]+"
    if len(name) > 80 or not all(re.fullmatch(plain, part) for part in parts):
        name = f"{name[:80]}-{hashlib.sha256(repr(parts).encode()).hexdigest()[:8]}"
    return f"{name}-seed{run.seed}"


def _options(
    objective: str | None, temperature: float | str | None, diagnose: Sequence[str]
) -> list[str]:
    """Return the options that ``run`` and ``sweep`` share."""
    options = []
    if objective is not None:
        options += ["--objective", objective]
    if temperature is not None:
        options += ["--temperature", str(temperature)]
    for name in diagnose:
        options += ["--diagnose", name]
    return options
