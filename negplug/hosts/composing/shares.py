"""``Shares``: how an epoch is cut into batches, and each batch into the ranks' parts.

Sizes and number of the batches, what is dropped or padded, and which part of a batch is which
rank's are as torch's ``BatchSampler`` and ``DistributedSampler`` have them.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from negplug.contract.composer import Composer, Epoch
from negplug.contract.dataset import DatasetAccess
from negplug.contract.draws import Draws
from negplug.hosts.composing.embedding_bank import EmbeddingBank

_STREAM = -1
"""Of a composer's draws; those of samplers are numbered from 0."""


@dataclass(frozen=True)
class Shares:
    """How the epochs of one data set are cut.

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
    def cut(
        cls, samples: int, own: int, batch_size: int, drop_last: bool, ranks: int, rank: int
    ) -> Shares:
        """Return how a rank's ``own`` samples of an epoch are cut into batches."""
        full, rest = divmod(own, batch_size)
        sizes = (batch_size,) * full
        if rest and not drop_last:
            sizes += (rest,)
        return cls(samples, sizes, full, ranks, rank)

    @property
    def together(self) -> tuple[int, ...]:
        """The size of each batch, of all ranks together."""
        return tuple(self.ranks * size for size in self.sizes)

    def composed(
        self,
        composer: Composer | None,
        seed: int,
        epoch: int,
        dataset: DatasetAccess,
        bank: EmbeddingBank | None = None,
    ) -> Tensor:
        """Return an epoch's samples ``[Σ together]``, batch after batch, the same on every rank.

        Args:
            composer: Says who meets whom; None has the samples in random order.
            seed: The run's.
            epoch: Its number.
            dataset: The data set.
            bank: Has the embeddings of the samples, if the composer wants them.
        """
        total = sum(self.together)
        random = Draws(seed, epoch).random(_STREAM, torch.device("cpu"))
        # Who is dropped is drawn first: no composer may always leave out the same.
        order = random.permutation(self.samples)[:total]
        if composer is not None:
            rows = None if bank is None else bank.unit_rows(order)
            order = order[composer.order(Epoch(order, self.together, random, dataset, rows))]
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
