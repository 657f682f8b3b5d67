"""``ComposedBatchSampler``: composed batches for plain PyTorch loops."""

from __future__ import annotations

import json
import warnings
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import IterableDataset, Sampler

from negplug.contract.composer import Composer
from negplug.contract.inputs import (
    check_form,
    check_integer,
    check_views,
    finite_unit_rows,
    indexes_per_row,
)
from negplug.contract.rows import Rows
from negplug.hosts.composing.epochs import ComposedEpochs, check_same, compare
from negplug.hosts.composing.shares import Shares
from negplug.hosts.subsets import length
from negplug.kernels.announcing import default_device, exchanged
from negplug.kernels.distributed import rank, world_size
from negplug.loss.agreement import seed_of_run
from negplug.plugins.build import as_composer

_NAME = "ComposedBatchSampler"


class ComposedBatchSampler(Sampler[list[int]]):
    """Batches of a data set in which those samples meet that a composer puts together.

    Give it to ``DataLoader(dataset, batch_sampler=…)``. Call :meth:`set_epoch` before each epoch,
    as of a ``DistributedSampler``, and :meth:`update` in each step. Each sample is in one batch of
    an epoch. The first epoch of a composer that needs embeddings is in random order.

    On several ranks each has its part of the same batches, sized and padded as by torch's
    ``DistributedSampler``, so no other sampler shares them out. An epoch then begins with a
    collective, in which all ranks take rank 0's seed and everyone's embeddings.

    Args:
        composer: A composer or an expression, such as ``"random_walk()"``.
        dataset: The data set of the loader, or any other of its length with its columns.
        batch_size: Number of samples of a batch, on each rank.
        drop_last: Whether a last batch that is not full is left out.
        seed: Of the draws; by default torch's initial seed.

    Attributes:
        composer: The composer.
        dataset: The data set.
        batch_size: Number of samples of a batch, on each rank.
        drop_last: Whether a last batch that is not full is left out.
        epoch: Number of the epoch.

    Raises:
        ValueError, TypeError: If an argument cannot be used.

    Example:
        >>> batches = ComposedBatchSampler("random_walk()", dataset=train, batch_size=256)
        >>> loader = DataLoader(train, batch_sampler=batches)
        >>> for epoch in range(100):
        ...     batches.set_epoch(epoch)
        ...     for x0, x1, indexes in loader:
        ...         z0, z1 = net(x0), net(x1)
        ...         batches.update(indexes, z0, z1)
    """

    def __init__(
        self,
        composer: Composer | str,
        *,
        dataset: Any,
        batch_size: int,
        drop_last: bool = False,
        seed: int | None = None,
    ) -> None:
        if not length(dataset) or isinstance(dataset, IterableDataset):
            raise ValueError(
                f"{_NAME}: dataset must have a length and samples by number, got "
                f"{type(dataset).__name__} of length {length(dataset)}"
            )
        self.composer = as_composer(composer)
        self.dataset = dataset
        self.batch_size = check_integer(_NAME, "batch_size", batch_size, 1)
        self.drop_last = bool(drop_last)
        self.epoch = 0
        self._epochs = ComposedEpochs(self.composer)
        self._epochs.seed = seed_of_run(seed)
        self._begin()
        self._shares()

    def _begin(self) -> None:
        self._passed: int | None = None  # the epoch whose batches have all been handed out
        self._updated = 0

    def set_epoch(self, epoch: int) -> None:
        """Set the number of the epoch that begins next; each has draws of its own.

        Args:
            epoch: From 0 on, the same on every rank.
        """
        self.epoch = check_integer(_NAME, "epoch", epoch, 0)

    def update(self, indexes: Tensor, *views: Tensor) -> None:
        """Take the embeddings that a step has computed; of a sample's views the mean.

        Does nothing for a composer that needs none. Reads nothing back from a GPU.

        Args:
            indexes: ``[B]`` integers, the place of each sample in the data set.
            *views: ``[B, d]`` each, floating-point, of any length; row b is of sample
                ``indexes[b]``. Their gradient is left alone.

        Raises:
            ValueError, TypeError: If something given cannot be used; the message names it.
        """
        if len(views) == 1:
            check_form("embeddings", views[0])
        elif views:
            check_views(views)
        else:
            raise ValueError(f"{_NAME}: update() needs the embeddings of the samples too")
        if not self.composer.wants_embeddings:
            return
        names = ("embeddings",) if len(views) == 1 else ()
        with torch.no_grad():
            rows = finite_unit_rows(*views, names=names)
            places = indexes_per_row(indexes, len(views[0]), len(views), rows.device)
            if places is None:
                raise TypeError("indexes must be a tensor of integers, got None")
            anchors = Rows(rows, places, places, num_views=len(views))
            self._epochs.learn(anchors, len(self.dataset))
        self._updated += len(views[0])

    def merge(self) -> None:
        """Give every rank the embeddings of all; a collective, which each epoch begins with.

        Needed before :meth:`state_dict` alone, and does nothing on a single rank.

        Raises:
            RanksError: If the ranks do not compose the same batches; on every rank.
        """
        if world_size() == 1:
            return
        bank = self._epochs.bank
        written = 0 if bank is None else bank.written
        own = json.dumps({"terms": self._terms(), "seed": self._epochs.seed, "written": written})
        said = [json.loads(text) for text in exchanged(own, default_device())]
        compare([each["terms"] for each in said])
        self._epochs.seed = int(said[0]["seed"])
        if bank is not None:
            # All or none have something new, though one of them may have left out a step.
            bank.written = max(int(each["written"]) for each in said)
            bank.merge()

    def state_dict(self) -> dict[str, Any]:
        """Return the state: tensors and built-in types.

        A run that resumes at the end of an epoch goes on as if it were uninterrupted.

        Raises:
            RuntimeError: If other ranks have embeddings that this one has not, see :meth:`merge`.
        """
        if self._epochs.bank is not None and not self._epochs.bank.merged:
            raise RuntimeError(
                f"{_NAME}: each of {world_size()} ranks has embeddings of its own; call merge() on "
                f"every rank, and state_dict() after it"
            )
        return self._epochs.state_dict(self.epoch)

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on where :meth:`state_dict` was taken; on every rank.

        Raises:
            ValueError: If the state is damaged, or of another composer.
        """
        check_same(state, self.composer)
        self.epoch = self._epochs.load_state_dict(state)
        self._begin()

    def __len__(self) -> int:
        """Return the number of batches of an epoch."""
        return len(self._shares().sizes)

    def __iter__(self) -> Iterator[list[int]]:
        """Yield the places of each batch's samples, this rank's."""
        shares = self._shares()
        self.merge()
        self._look_back(sum(shares.sizes))
        order = self._epochs.order(self.epoch, shares, self.dataset)
        self._begin()
        yield from shares.of_rank(order)
        self._passed = self.epoch

    def _shares(self) -> Shares:
        samples, ranks = len(self.dataset), world_size()
        own = samples // ranks if self.drop_last else -(-samples // ranks)
        shares = Shares.cut(samples, own, self.batch_size, self.drop_last, ranks, rank())
        if not shares.sizes:
            raise ValueError(
                f"{_NAME}: batch_size={self.batch_size} with drop_last=True leaves no batch of "
                f"{own} samples; lower it"
            )
        return shares

    def _terms(self) -> str:
        """Return what must be the same on all ranks."""
        bank = self._epochs.bank
        rows = None if bank is None else bank.rows
        width = "no embeddings" if rows is None else f"embeddings of width {rows.shape[1]}"
        return (
            f"{self.composer}, epoch {self.epoch}, {len(self.dataset)} samples, batches of "
            f"{self.batch_size}, drop_last={self.drop_last}, {width}"
        )

    def _look_back(self, samples: int) -> None:
        """See that an epoch that is over has taught what the next one needs."""
        if self._passed is None:
            return
        if self._passed == self.epoch:
            warnings.warn(
                f"{_NAME}: epoch {self.epoch} begins again, with the draws that it had; call "
                f"set_epoch() before each epoch",
                stacklevel=3,
            )
        if not self.composer.wants_embeddings or self._updated >= samples:
            return
        if not self._epochs.ready:
            raise ValueError(
                f"{_NAME}: {self.composer} has no embeddings after a whole epoch; call "
                f"update(indexes, embeddings) in each step"
            )
        warnings.warn(
            f"{_NAME}: update() was given {self._updated} of the {samples} samples of epoch "
            f"{self._passed}; the others are composed by older embeddings or none",
            stacklevel=3,
        )
