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
from collections.abc import Callable, Iterator
from typing import NamedTuple

from negplug.contract.variables import check_effect, listed


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
    _check_word(sampler)
    temperature = os.environ.get("NEGPLUG_TEMPERATURE")
    number = _number(temperature) if temperature else None
    return Asked(sampler, os.environ.get("NEGPLUG_OBJECTIVE") or None, number)


def refusals() -> Iterator[str]:
    """Yield why each part of the treatment that cannot be built is refused; loads torch."""
    from negplug.contract.inputs import check_temperature
    from negplug.plugins.build import make_composer, make_objective, make_sampler

    makers: dict[str, Callable[[str], object]] = {
        "NEGPLUG_SAMPLER": lambda text: make_sampler(_check_word(text)),
        "NEGPLUG_OBJECTIVE": make_objective,
        "NEGPLUG_TEMPERATURE": lambda text: check_temperature(_number(text)),
        "NEGPLUG_COMPOSE": make_composer,
    }
    for name, make in makers.items():
        if text := os.environ.get(name):
            try:
                make(text)
            except (TypeError, ValueError, OSError) as error:
                said = str(error)
                yield said if said.startswith(name) else f"{name}: {said}"


def check_parts() -> None:
    """Raise ``ValueError`` if a part of the treatment cannot be built; the variable is named."""
    for refusal in refusals():
        raise ValueError(refusal)


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
    if not (given.isdecimal() and len(given) < 10 and int(given)):
        raise ValueError(
            f"NEGPLUG_ACCUMULATE must be a number of micro-batches, such as 8, got {given[:40]!r}"
        )
    return int(given)


def composer() -> str | None:
    """Return the expression of what composes a Trainer's batches, None if they are its own."""
    return os.environ.get("NEGPLUG_COMPOSE") or None


def refuse_of_trainers(loss: str) -> None:
    """Raise ``ValueError`` where a plain loop is asked for what a Trainer alone can do.

    Args:
        loss: The loss that the loop calls, and where.
    """
    if accumulate() > 1:
        raise ValueError(
            f"NEGPLUG_ACCUMULATE cannot split the steps of a plain PyTorch loop, such as the "
            f"one that calls {loss}; call negplug.accumulated() in it"
        )
    if composer() is not None:
        raise ValueError(
            f"NEGPLUG_COMPOSE composes the batches of a Lightning Trainer, not those of a plain "
            f"PyTorch loop, such as the one that calls {loss}; unset it and give the DataLoader a "
            f"negplug.ComposedBatchSampler"
        )


def ignored() -> frozenset[str]:
    """Return the losses that the environment leaves alone: names of sites, or of classes."""
    return frozenset(listed(os.environ.get("NEGPLUG_IGNORE", "")))


def _check_word(sampler: str) -> str:
    if sampler.strip() == "baseline":
        raise ValueError(
            "NEGPLUG_SAMPLER='baseline' is a word of negplug's commands; unset the variable, which "
            "leaves the script untouched"
        )
    return sampler


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise ValueError(f"NEGPLUG_TEMPERATURE must be a number, got {text[:40]!r}") from None
