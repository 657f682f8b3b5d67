"""Batches that a composer made, in the place of those of the recipe's batch sampler.

What is replaced is the order of the samples alone. Sizes and number of the batches, what is dropped
or padded, and which part of a batch is which rank's stay as torch's ``BatchSampler`` and
``DistributedSampler`` have them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any

from torch.utils.data import (
    BatchSampler,
    DistributedSampler,
    RandomSampler,
    SequentialSampler,
)

from negplug.hosts.composing.shares import Shares
from negplug.hosts.subsets import length
from negplug.hosts.trainer.indexes.recorder import unknowable
from negplug.hosts.trainer.stand_in import StandIn
from negplug.kernels.distributed import world_size


class ComposedBatches(StandIn):
    """A batch sampler whose batches are composed, as far as there are such.

    Args:
        replaced: The recipe's own.
        batches: Returns the batches of the epoch that begins; None has it be the recipe's own.
    """

    _batches: Callable[[], Iterable[list[int]] | None]

    def __init__(
        self, replaced: BatchSampler, batches: Callable[[], Iterable[list[int]] | None]
    ) -> None:
        super().__init__(replaced, _batches=batches)

    def __iter__(self) -> Iterator[Any]:
        # A generator, as BatchSampler's: nothing is composed or drawn before the first batch.
        composed = self._batches()
        yield from self.replaced if composed is None else composed


def shares_of(batches: BatchSampler, dataset: Any) -> Shares:
    """Return how torch's batch sampler cuts, of a loader that can be composed."""
    sampler: Any = batches.sampler
    shared = isinstance(sampler, DistributedSampler)
    ranks, rank = (sampler.num_replicas, sampler.rank) if shared else (1, 0)
    own, size = len(sampler), batches.batch_size
    return Shares.cut(len(dataset), own, size, batches.drop_last, ranks, rank)


def uncomposable(loader: Any) -> str:
    """Return why the batches of a training loader cannot be composed, or the empty string."""
    if reason := unknowable(loader):
        return reason
    batches = loader.batch_sampler
    while isinstance(batches, StandIn):
        batches = batches.replaced
    if type(batches) is not BatchSampler:
        return f"its batch sampler {type(batches).__name__} makes batches by rules of its own"
    sampler, size = batches.sampler, length(loader.dataset)
    if size is None:
        return f"the data set {type(loader.dataset).__name__} does not know its length"
    if isinstance(sampler, DistributedSampler) and type(sampler) is DistributedSampler:
        inside = length(sampler.dataset)
        return "" if inside == size else f"its DistributedSampler is of {inside} of {size} samples"
    if type(sampler) not in (RandomSampler, SequentialSampler):
        return f"its sampler {type(sampler).__name__} chooses samples by rules of its own"
    if isinstance(sampler, RandomSampler) and (sampler.replacement or len(sampler) != size):
        return f"its RandomSampler draws {len(sampler)} of {size} samples, or some of them twice"
    if world_size() > 1:
        return f"{world_size()} ranks train and no DistributedSampler shares the samples out"
    return ""


def replaced_in(loader: Any) -> BatchSampler | None:
    """Return the batch sampler that composed batches take the place of, None if there are none."""
    batches: Any = getattr(loader, "batch_sampler", None)
    while isinstance(batches, StandIn) and not isinstance(batches, ComposedBatches):
        batches = batches.replaced
    return batches.replaced if isinstance(batches, ComposedBatches) else None
