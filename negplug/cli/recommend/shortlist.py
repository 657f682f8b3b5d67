"""The short list: which choices the guide supports for which batch size, the strongest first.

The first choice of a list runs to its end, and the others have to keep up with it: so the order
saves time, and decides nothing else. Each choice has its row of the guide's study beside it
(``benchmarks/studies/which_sampler``); one that gains nothing there is not on a list.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from negplug.cli.recommend.choice import Choice
from negplug.cli.treatment import BASELINE


@dataclass(frozen=True)
class Section:
    """The choices for batches of at most so many samples."""

    largest: float
    choices: tuple[Choice, ...]


SHORT_LIST = (
    # Few negatives in a batch: those of earlier batches add to them.
    Section(
        64,
        (
            Choice("queue(size=4096)"),  # provisional: no row yet
            Choice("memory_bank()"),  # provisional: no row yet
            Choice("in_batch()", objective="decoupled()"),  # provisional: no row yet
            Choice("hard(num_negatives=256, source=queue(size=4096))"),  # provisional: no row yet
            Choice(BASELINE, temperature=0.1),  # provisional: no row yet
            Choice(BASELINE, temperature=0.5),  # provisional: no row yet
        ),
    ),
    Section(
        256,
        (
            Choice("in_batch()", objective="decoupled()"),  # provisional: no row yet
            Choice("queue(size=4096)"),  # provisional: no row yet
            Choice("hard(num_negatives=64)"),  # provisional: no row yet
            Choice(BASELINE, temperature=0.1),  # provisional: no row yet
            Choice(BASELINE, temperature=0.5),  # provisional: no row yet
        ),
    ),
    # Enough negatives: their choice and weight are left.
    Section(
        math.inf,
        (
            Choice("hard(num_negatives=128)"),  # provisional: no row yet
            Choice("in_batch()", objective="debiased(tau_plus=0.1, beta=0.5)"),  # provisional
            Choice("in_batch()", objective="decoupled()"),  # provisional: no row yet
            Choice(BASELINE, temperature=0.1),  # provisional: no row yet
            Choice(BASELINE, temperature=0.5),  # provisional: no row yet
        ),
    ),
)


def choices_for(batch_size: int) -> tuple[Choice, ...]:
    """Return the choices for batches of this many samples."""
    return next(each.choices for each in SHORT_LIST if batch_size <= each.largest)
