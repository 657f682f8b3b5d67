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


# Rows are cited as "data set, batch size, choice (τ): gain in linear accuracy, in points [95 %]".
SHORT_LIST = (
    Section(
        64,
        (
            # Tuned, cameras are best at 0.05 and fashion-mnist at 0.1; beside these
            # cameras, 32, untouched (0.5): -16.3 [-20.9, -11.7]; fashion-mnist: -0.8 [-1.3, -0.2]
            Choice(BASELINE, temperature=0.05),
            Choice(BASELINE, temperature=0.1),
            # fashion-mnist, 32, decoupled (0.03): +0.7 [+0.2, +1.2]
            Choice("in_batch()", objective="decoupled()", temperature=0.03),
            # fashion-mnist, 32, HCL (0.2): +0.4 [+0.0, +0.8]; cameras: +2.4 [-2.4, +7.3]
            Choice("in_batch()", objective="debiased(tau_plus=0.0, beta=1.0)", temperature=0.2),
            # fashion-mnist, 32, isir (0.03): +0.3 [-0.3, +0.9]
            Choice("isir()", temperature=0.03),
        ),
    ),
    Section(
        256,
        (
            # cameras, 128, untouched (0.5): -6.0 [-11.8, -0.2]; fashion-mnist: -0.8 [-1.4, -0.2]
            Choice(BASELINE, temperature=0.05),
            Choice(BASELINE, temperature=0.1),
            # No sampler gains on fashion-mnist, and this loses nothing (0.2): +0.1 [-0.9, +1.1]
            Choice("in_batch()", objective="decoupled()", temperature=0.2),
        ),
    ),
    # Not measured: what the smaller batches have in common.
    Section(
        math.inf,
        (
            Choice(BASELINE, temperature=0.1),
            Choice(BASELINE, temperature=0.2),
            Choice("in_batch()", objective="decoupled()", temperature=0.2),
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
