"""What the environment asks of every contrastive loss that a process trains with. Free of torch.

Environment:
    NEGPLUG_SAMPLER, NEGPLUG_OBJECTIVE, NEGPLUG_TEMPERATURE: As :func:`negplug.inject` takes them.
        Without the first, nothing is treated.
    NEGPLUG_ACCUMULATE: Number of micro-batches that a Trainer's steps are split into.
    NEGPLUG_COMPOSE: Composes the batches of a Trainer, as ``NegativeControl`` takes it.
    NEGPLUG_IGNORE: Losses to leave alone, by name or by class, separated by commas.
"""

from __future__ import annotations

import os
from typing import NamedTuple

from negplug.contract.variables import check_effect


class Asked(NamedTuple):
    """A treatment as the environment describes it.

    Attributes:
        sampler: An expression.
        objective: An expression; None inherits the host's.
        temperature: τ; None inherits the host's.
    """

    sampler: str
    objective: str | None
    temperature: float | None


def asked() -> Asked | None:
    """Return what the environment asks for, None if it asks for no treatment.

    Raises:
        ValueError: If the temperature is no number, or there is one, or an objective, without a
            sampler.
    """
    check_effect(os.environ)
    sampler = os.environ.get("NEGPLUG_SAMPLER")
    if not sampler:
        return None
    temperature = os.environ.get("NEGPLUG_TEMPERATURE")
    try:
        number = float(temperature) if temperature else None
    except ValueError:
        raise ValueError(f"NEGPLUG_TEMPERATURE must be a number, got {temperature!r}") from None
    return Asked(sampler, os.environ.get("NEGPLUG_OBJECTIVE") or None, number)


def insist_on_none() -> None:
    """Raise ``ValueError`` if the environment asks for a treatment beside a script's own."""
    if asked() is not None:
        raise ValueError(
            "NEGPLUG_SAMPLER (or --sampler) is set and the script calls inject() too; drop either"
        )


def accumulate() -> int:
    """Return how many micro-batches the environment asks each step to be split into, by default 1.

    Raises:
        ValueError: If it says no number from 1 on.
    """
    given = os.environ.get("NEGPLUG_ACCUMULATE") or "1"
    if not (given.isdecimal() and int(given)):
        raise ValueError(
            f"NEGPLUG_ACCUMULATE must be a number of micro-batches, such as 8, got {given[:40]!r}"
        )
    return int(given)


def composer() -> str | None:
    """Return the expression of what composes a Trainer's batches, None if they are its own."""
    return os.environ.get("NEGPLUG_COMPOSE") or None


def ignored() -> frozenset[str]:
    """Return the losses that the environment leaves alone: names of sites, or of classes."""
    given = os.environ.get("NEGPLUG_IGNORE", "").split(",")
    return frozenset(name.strip() for name in given if name.strip())
