"""Whether all ranks take as many batches in an epoch; one with more would wait for ever at its end.

``max_steps`` may end a training before that, equally on all ranks. It counts steps of optimizers,
and a recipe that optimises by hand makes any number of them in a batch.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any, NamedTuple

from negplug.kernels.errors import RanksError


class Batches(NamedTuple):
    """The batches that a rank takes in the epoch that begins.

    Attributes:
        number: How many it has at most; infinite where nobody knows it.
        may_stop: Whether the training may end before, where nobody can know.
    """

    number: float
    may_stop: bool


def batches_to_come(trainer: Any) -> Batches:
    """Return those of this rank, as an epoch begins."""
    if trainer.max_steps < 0:
        return Batches(trainer.num_training_batches, False)
    if not trainer.lightning_module.automatic_optimization:
        return Batches(trainer.num_training_batches, True)
    steps = trainer.max_steps - trainer.global_step
    most = min(trainer.num_training_batches, steps * trainer.accumulate_grad_batches)
    return Batches(most, False)


def insist_on_one_number(ranks: Sequence[Batches]) -> None:
    """Compare the batches of all ranks; the same on each.

    Args:
        ranks: Those of each, in rank order.

    Raises:
        RanksError: If they have other numbers and nothing ends the training before; else a warning
            says so.
    """
    numbers = [each.number for each in ranks]
    if len(set(numbers)) < 2:
        return
    other = next(n for n, number in enumerate(numbers) if number != numbers[0])
    may_stop = any(each.may_stop for each in ranks)
    unless = ", unless max_steps, which counts every step of an optimizer, ends it before"
    error = RanksError(
        f"rank 0 has {numbers[0]:.0f} batches in an epoch and rank {other} has "
        f"{numbers[other]:.0f}, and who has more would wait for ever{unless if may_stop else ''}; "
        f"give all ranks as many samples (a DistributedSampler does) and one batch size, or set "
        f"limit_train_batches"
    )
    if not may_stop:
        raise error
    warnings.warn(str(error), stacklevel=2)
