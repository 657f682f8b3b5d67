"""Batches that a composer made, in the place of those of the recipe's batch sampler.

What is replaced is the order of the samples alone. Sizes and number of the batches, what is dropped
or padded, and which part of a batch is which rank's stay as torch's ``BatchSampler`` and
``DistributedSampler`` have them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import (
    BatchSampler,
    DistributedSampler,
    RandomSampler,
    SequentialSampler,
)

from negplug.contract.composer import Composer, Epoch
from negplug.contract.dataset import DatasetAccess
from negplug.contract.draws import Draws
from negplug.hosts.embedding_bank import EmbeddingBank
from negplug.hosts.subsets import length
from negplug.hosts.trainer.indexes import unknowable
from negplug.hosts.trainer.stand_in import StandIn
from negplug.kernels.distributed import world_size

_STREAM = -1
"""Of a composer's draws; those of samplers are numbered from 0."""


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


@dataclass(frozen=True)
class Shares:
    """How an epoch of one loader is cut into batches, and each batch into the ranks' parts.

    Attributes:
        samples: Number of samples of the data set.
        sizes: The size of each batch on this rank.
        full: How many of them, the first, are of full size.
        ranks: Number of ranks that share a batch.
        rank: Which of them this is.
    """

    samples: int
    sizes: tuple[int, ...]
    full: int
    ranks: int
    rank: int

    @classmethod
    def of(cls, batches: BatchSampler, dataset: Any) -> Shares:
        """Return how torch's batch sampler cuts, of a loader that can be composed."""
        sampler: Any = batches.sampler
        full, rest = divmod(len(sampler), batches.batch_size)
        sizes = (batches.batch_size,) * full
        if rest and not batches.drop_last:
            sizes += (rest,)
        shared = isinstance(sampler, DistributedSampler)
        ranks, rank = (sampler.num_replicas, sampler.rank) if shared else (1, 0)
        return cls(len(dataset), sizes, full, ranks, rank)

    @property
    def together(self) -> tuple[int, ...]:
        """The size of each batch, of all ranks together."""
        return tuple(self.ranks * size for size in self.sizes)

    def composed(
        self,
        composer: Composer,
        seed: int,
        epoch: int,
        dataset: DatasetAccess,
        bank: EmbeddingBank | None = None,
    ) -> Tensor:
        """Return an epoch's samples ``[Σ together]``, batch after batch, the same on every rank.

        Args:
            composer: Says who meets whom.
            seed: The run's.
            epoch: Its number.
            dataset: The data set.
            bank: Has the embeddings of the samples, if the composer wants them.
        """
        total = sum(self.together)
        random = Draws(seed, epoch).random(_STREAM, torch.device("cpu"))
        # Who is dropped is drawn first: no composer may always leave out the same.
        samples = random.permutation(self.samples)[:total]
        rows = None if bank is None else bank.unit_rows(samples)
        given = Epoch(samples, self.together, random, dataset, rows)
        order = samples[composer.order(given)]
        if 0 < len(order) < total:
            order = order.repeat(-(-total // len(order)))[:total]  # padded as the host's is
        size = self.together[0] if self.full else 0
        whole = self.full * size
        batches = order[:whole].view(self.full, size)[random.permutation(self.full)]
        return torch.cat([batches.reshape(-1), order[whole:]])

    def of_rank(self, order: Tensor) -> Iterator[list[int]]:
        """Yield this rank's part of each batch."""
        for batch in torch.split(order, list(self.together)):
            size = len(batch) // self.ranks
            part: list[int] = batch[self.rank * size : (self.rank + 1) * size].tolist()
            yield part


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
