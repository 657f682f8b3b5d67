"""The base class of composers: which samples meet in a batch.

A loss that takes its negatives from the batch has no others than those that the batch sampler put
there. A composer orders the samples of an epoch so that those beside each other become a batch; it
chooses no sample twice and leaves none out.
"""

from __future__ import annotations

import abc
from dataclasses import dataclass

import torch
from torch import Tensor

from negplug.contract.dataset import DatasetAccess
from negplug.contract.part import Expressed
from negplug.contract.provenance import blaming
from negplug.kernels.random.numbers import RandomNumbers


@dataclass(frozen=True, eq=False)
class Epoch:
    """What a composer is told of an epoch.

    Attributes:
        samples: ``[n]`` int64, on the CPU: the data set index of each sample of the epoch, in
            random order. Whoever needs some samples at random may take the first ones.
        batches: The size of each batch, of all ranks together.
        random: Random numbers of this epoch, on the CPU, the same on every rank.
        dataset: The data set that the indexes count.
        embeddings: ``[n, d]``, for each of the samples the embedding that a training step computed
            last, at unit length, without gradient; zero if there was none. None unless the
            composer wants them.
    """

    samples: Tensor
    batches: tuple[int, ...]
    random: RandomNumbers
    dataset: DatasetAccess
    embeddings: Tensor | None = None


class Composer(Expressed, abc.ABC):
    """Decides which samples meet in a batch.

    A subclass implements :meth:`compose`. It has no state of its own: what it returns follows from
    the epoch, so that every rank, and a run that resumes, composes the same batches.

    Attributes:
        wants_embeddings: Whether it needs the samples' embeddings. Epochs before there are any are
            the recipe's own.
    """

    wants_embeddings: bool = False

    @abc.abstractmethod
    def compose(self, epoch: Epoch) -> Tensor:
        """Return the order of an epoch's samples; those beside each other meet.

        Args:
            epoch: What is known of it.

        Returns:
            ``[n]`` int64, a permutation of 0, …, n − 1: places in ``epoch.samples``. It is cut into
            the batches from left to right, and each batch into the ranks' parts likewise. The
            order in which full batches are trained on is shuffled afterwards.
        """

    def order(self, epoch: Epoch) -> Tensor:
        """Return what :meth:`compose` returns, on the CPU, checked.

        Raises:
            ValueError: If a sample is missing or there twice.
        """
        count = len(epoch.samples)
        with torch.no_grad(), blaming(self.provider, "compose()"):
            order = self.compose(epoch)
            if not _is_permutation(order, count):
                raise ValueError(
                    f"{self}: compose() must return each number from 0 to {count - 1} once, as "
                    f"int64 [{count}]"
                )
        return order.cpu()


def _is_permutation(order: object, count: int) -> bool:
    if not isinstance(order, Tensor) or order.dtype != torch.int64 or order.shape != (count,):
        return False
    return torch.equal(order.cpu().sort().values, torch.arange(count, device="cpu"))
