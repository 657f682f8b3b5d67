"""The short list: which choices the guide supports for which batch size, the strongest first.

The first choice of a list runs to its end, and the others have to keep up with it: so the order
saves time, and decides nothing else. Each choice has its row of the guide's study beside it
(``benchmarks/studies/which_sampler``); one that clearly loses there is not on a list. What asks for
a column of the data set cannot be on it; who knows of one adds it with ``--also``.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

from negplug.cli.recommend.choice import Choice
from negplug.cli.treatment import BASELINE


@dataclass(frozen=True)
class Section:
    """The choices for batches of at most so many samples."""

    largest: float
    choices: tuple[Choice, ...]


# Rows are cited as "data set, batch size, choice: gain in linear accuracy, in points [95 %]".
SHORT_LIST = (
    Section(
        64,
        (
            # fashion-mnist, 32, HCL: +0.4 [+0.0, +0.8]; cameras, 32, HCL: +5.0 [-0.4, +10.3]
            Choice("in_batch()", objective="debiased(tau_plus=0.0, beta=1.0)"),
            # fashion-mnist, 32, untouched (0.5): -0.8 [-1.3, -0.2]; cameras: -13.8 [-19.8, -7.7]
            Choice(BASELINE, temperature=0.1),
            Choice(BASELINE, temperature=0.2),
            # fashion-mnist, 32, isir: +0.2 [-0.5, +0.8]; 20-NN: +0.4 [-0.0, +0.8]
            Choice("isir()"),
            # fashion-mnist, 32, hard: +0.4 [-0.3, +1.2]; cameras, 32, hard: -3.4 [-6.4, -0.4]
            Choice("hard(num_negatives=16)"),
        ),
    ),
    # fashion-mnist, 128: no sampler gains, and decoupled loses nothing, +0.1 [-0.9, +1.1].
    Section(
        256,
        (
            # fashion-mnist, 128, untouched (0.5): -0.8 [-1.4, -0.2]; cameras: -6.9 [-9.9, -4.0]
            Choice(BASELINE, temperature=0.1),
            Choice(BASELINE, temperature=0.2),
            Choice("in_batch()", objective="decoupled()"),
        ),
    ),
    # Not measured: what the smaller batches have in common.
    Section(
        math.inf,
        (
            Choice(BASELINE, temperature=0.1),
            Choice(BASELINE, temperature=0.2),
            Choice("in_batch()", objective="decoupled()"),
        ),
    ),
)


def choices_for(batch_size: int) -> tuple[Choice, ...]:
    """Return the choices for batches of this many samples."""
    return next(each.choices for each in SHORT_LIST if batch_size <= each.largest)


def with_own(choices: Iterable[Choice], samplers: Iterable[str]) -> tuple[Choice, ...]:
    """Return the choices with samplers of the user's own ahead, each once.

    Who names one knows more of the data than the list does, so the others keep up with it.
    """
    own = [Choice(sampler) for sampler in samplers]
    return tuple({choice.run(0): choice for choice in (*own, *choices)}.values())
