"""What ``run`` and ``sweep`` share: the treatment on the command line, checked before any work."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from typing import NoReturn

import typer

from negplug.cli.terminal import plain, shortened
from negplug.contract.provenance import PluginError, described
from negplug.contract.variables import OF_A_TREATMENT, declared_classes
from negplug.hosts.trainer.autoload import DIAGNOSTICS

#: The "sampler" that leaves the host as it is.
BASELINE = "baseline"

# Of what ends a command, in characters; it may quote what was given.
_LONGEST_MESSAGE = 2_000

# What the building of a part may raise.
_REFUSALS = (TypeError, ValueError, OSError, PluginError)


def check_treatment(
    samplers: Iterable[str],
    objective: str | None,
    temperature: float | None,
    treat: Iterable[str] = (),
    compose: str | None = None,
    option: str = "--sampler",
) -> None:
    """End the command with one sentence unless all of a treatment can be built.

    Args:
        samplers: Sampler expressions; ``baseline`` is left out.
        objective: Objective expression, or ``None`` for the host's.
        temperature: Temperature, or ``None`` for the host's.
        treat: Declarations of classes.
        compose: Composer expression, or ``None`` for the host's own batches.
        option: What the samplers were given as.
    """
    from negplug.plugins.build import make_composer, make_objective, make_sampler
    from negplug.plugins.manager import plugins

    try:
        plugins()
    except ValueError as error:  # a variable of the environment that cannot be read
        fail(f"{error}.")
    if temperature is not None and not 0 < temperature < float("inf"):
        fail(f"--temperature {temperature} is not a positive number; give one, such as 0.1.")
    try:
        for text in treat:
            declared_classes("--treat", text)
    except ValueError as error:
        fail(f"{error}.")
    for sampler in samplers:
        if sampler == BASELINE:
            continue
        try:
            make_sampler(sampler)
        except _REFUSALS as error:
            fail(f"{option} {sampler!r}: {_said(error)}")
    others = ("--objective", objective, make_objective), ("--compose", compose, make_composer)
    for name, expression, make in others:
        if expression is not None:
            try:
                make(expression)
            except _REFUSALS as error:
                fail(f"{name} {expression!r}: {_said(error)}")


def name_overruled(options: Mapping[str, object]) -> None:
    """Name variables of the environment that a command takes no treatment from; on one rank.

    Args:
        options: What was given in their place, by the variable without its prefix.
    """
    if os.environ.get("RANK", "0") != "0":
        return
    for name in (*OF_A_TREATMENT, "DIAGNOSTICS"):
        text = os.environ.get(f"NEGPLUG_{name}")
        if text and not options.get(name):
            typer.echo(
                f"negplug: NEGPLUG_{name}={plain(text[:40])!r} has no effect here, for a command's "
                f"runs are treated as its options say; 'negplug run --help' lists them",
                err=True,
            )


def check_diagnostics(names: Iterable[str]) -> None:
    """End the command with one sentence unless there are such diagnostics."""
    for name in names:
        if name not in DIAGNOSTICS:
            fail(f"--diagnose {name!r}: there are {', '.join(DIAGNOSTICS)}.")


def fail(message: str, code: int = 2) -> NoReturn:
    """End the command with one sentence on standard error."""
    typer.echo(f"negplug: {shortened(plain(message), _LONGEST_MESSAGE)}", err=True)
    raise typer.Exit(code)


def _said(error: Exception) -> str:
    """Return an error's message, which is a plugin's and may fail."""
    try:
        return str(error)
    except Exception:
        return described(error)
