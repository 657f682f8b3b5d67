"""Data set indexes of the training batches, from a loader that does not hand them out.

Most recipes batch views without saying which samples they are. A ``DataLoader`` draws the indexes
of each batch from its batch sampler, in the main process and in the order of the batches, but ahead
of them: workers and Lightning prefetch. So every pass over the batch sampler queues what it draws,
and each training batch takes the head of that queue. The batches, their order and the global random
number generators stay as they are. Whether the rows of a batch are what was drawn for it,
:mod:`.collate` watches.

Order of hooks that matters: the loader is made and iterated before ``on_train_start``. The
recorder therefore starts in ``setup`` and waits at the strategy's ``process_dataloader``, which
Lightning calls with the final loader, any distributed sampler included, before the first iterator.
"""

from __future__ import annotations

import weakref
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset

from negplug.hosts.trainer import private
from negplug.hosts.trainer.indexes.collate import (
    disagreement,
    own_indexes_moved,
    unfollowed,
    unwatch_collate,
    watch_collate,
)
from negplug.hosts.trainer.indexes.watched_collate import OwnIndexes
from negplug.hosts.trainer.stand_in import HookStandIn, StandIn
from negplug.kernels.torch_private import set_batch_sampler


class IndexRecorder:
    """Knows the data set indexes of each training batch of a Trainer.

    An index is a position in ``loader.dataset``; for a ``Subset``, in the subset.

    Args:
        trainer: The Trainer, in a callback's ``setup`` for ``fit``.

    Attributes:
        reason: Why :meth:`advance` gave None, as a clause; empty otherwise.
        drawn: The positions in the data set that were drawn for the batch, in whatever order its
            rows are; None if they are unknown.
        own: Finds the host's own indexes in a batch, where its batches bring some.
        moved: Why the host's own indexes are not those of the images beside them, as a clause;
            empty if they are.
        unfollowed: What makes rows of which it is not known which samples they are.

    Example:
        >>> recorder = IndexRecorder(trainer)  # setup
        >>> indexes = recorder.advance()  # on_train_batch_start, once
        >>> recorder.remove()  # teardown and on_exception
    """

    def __init__(self, trainer: Any) -> None:
        self.reason = self.moved = self.unfollowed = ""
        self.drawn: Tensor | None = None
        self.own: OwnIndexes | None = None
        self._trainer = trainer
        self._loaders = weakref.WeakKeyDictionary[DataLoader[Any], Any]()  # and their own batches
        self._compose: Callable[[DataLoader[Any], Any], Any] | None = None
        self._replaced = private.own_loader_hook(trainer)
        self._process = private.loader_hook(trainer)
        self._active = True
        hook = HookStandIn(self._process_dataloader, trainer.strategy, "process_dataloader")
        private.set_loader_hook(trainer, hook)

    def advance(self) -> Tensor | None:
        """Return the indexes of the batch about to be trained on.

        Returns:
            int64 ``[B]`` on the CPU, or None, with a :attr:`reason`, where they cannot be known.

        Raises:
            RuntimeError: If the record does not fit the batches that Lightning has handed out.
        """
        loader = private.training_loader(self._trainer)
        self.drawn, self.reason = None, unknowable(loader)
        if self.reason:
            return None
        sampler = loader.batch_sampler
        if not isinstance(sampler, _RecordingBatchSampler):
            raise RuntimeError(
                "the training DataLoader is not recorded; make IndexRecorder in a callback's setup "
                "and leave loader.batch_sampler alone during fit"
            )
        ready = private.batches_taken(self._trainer)
        self.drawn = sampler.take(ready, private.prefetched(self._trainer, loader))
        self.moved, self.unfollowed = own_indexes_moved(loader), unfollowed(loader)
        if self.drawn is None:
            kind = type(sampler.replaced).__name__
            self.reason = f"the batch sampler {kind} yields no lists of non-negative integers"
        else:
            self.reason = disagreement(loader, len(self.drawn))
        return None if self.reason else self.drawn

    def compose(self, by: Callable[[DataLoader[Any], Any], Any]) -> None:
        """Have other batches take the place of those of each loader, and record these.

        Args:
            by: Given a loader and its own batch sampler, returns the batch sampler to take.
        """
        self._compose = by

    def remove(self) -> None:
        """Put back the strategy's method, and every loader's batch sampler and collate function."""
        if not self._active:
            return
        self._active = False
        for loader, own in self._loaders.items():
            if isinstance(loader.batch_sampler, _RecordingBatchSampler):
                set_batch_sampler(loader, own)
            unwatch_collate(loader)
        private.set_loader_hook(self._trainer, self._replaced)

    def _process_dataloader(self, dataloader: Any) -> Any:
        # Lightning 1.9 sets up the loaders of validation at this stage too; they stay unread.
        if self._trainer.training and not unknowable(dataloader):
            sampler = dataloader.batch_sampler
            while isinstance(sampler, StandIn):
                sampler = sampler.replaced  # set up again, or left by a recorder never removed
            self._loaders[dataloader] = sampler
            if self._compose is not None:
                sampler = self._compose(dataloader, sampler)
            set_batch_sampler(dataloader, _RecordingBatchSampler(sampler, self._trainer))
            watch_collate(dataloader, self.own)
        return self._process(dataloader)


@dataclass
class _Pass:
    """What one iteration over a batch sampler has drawn, but the training has not reached yet."""

    drawn: deque[Tensor | None] = field(default_factory=deque)
    ended: bool = False
    ready: int | None = None


class _RecordingBatchSampler(StandIn):
    """A batch sampler that remembers what its training passes draw."""

    _trainer: Any
    _passes: weakref.WeakKeyDictionary[Iterator[Any], _Pass]

    def __init__(self, recorded: Any, trainer: Any) -> None:
        # A pass lives as long as its iterator: until the DataLoader's own iterator dies.
        passes = weakref.WeakKeyDictionary[Iterator[Any], _Pass]()
        super().__init__(recorded, _trainer=trainer, _passes=passes)

    def __iter__(self) -> Iterator[Any]:
        # Now, not at the first batch: a sampler may use a random number generator here.
        batches: Iterator[Any] = iter(self.replaced)
        if not self._trainer.training:
            return batches  # the training loader serves validation too
        record = _Pass()
        recording = _draw(batches, record)
        self._passes[recording] = record
        return recording

    def take(self, ready: int, prefetched: int) -> Tensor | None:
        """Return the indexes of batch number ``ready``; None if they are no indexes.

        Args:
            ready: Lightning's count of the batches it has taken in this epoch.
            prefetched: How many batches are drawn beyond the one handed out, until the end.
        """
        passes = list(self._passes.values())
        if len(passes) != 1:
            raise RuntimeError(
                f"the training DataLoader has {len(passes)} recorded iterators instead of one, so "
                f"the indexes of the batch are unknown; iterate over a DataLoader of your own"
            )
        (record,) = passes
        if record.ready is not None:
            steps = ready - record.ready
        else:
            # The count of a resumed epoch does not begin at zero, and a first batch may be None.
            steps = 1 if record.ended else len(record.drawn) - prefetched
        record.ready = ready
        left = len(record.drawn) - steps
        in_step = left == prefetched or (record.ended and 0 <= left < prefetched)
        if steps < 1 or not in_step:
            raise RuntimeError(
                f"the record of data set indexes is out of step: {len(record.drawn)} batches are "
                f"drawn, {steps} of them taken, {prefetched} prefetched; call advance() once in "
                f"on_train_batch_start, and take batches by training_step(batch), not by hand or "
                f"by dataloader_iter"
            )
        for _ in range(steps - 1):
            record.drawn.popleft()
        return record.drawn.popleft()


def _draw(batches: Iterator[Any], record: _Pass) -> Iterator[Any]:
    for batch in batches:
        record.drawn.append(_as_indexes(batch))
        yield batch
    record.ended = True


def _as_indexes(batch: Any) -> Tensor | None:
    """Copy the batch's indexes, for a sampler may reuse its list; None if they are none."""
    try:
        indexes = torch.as_tensor(batch)
    except (TypeError, ValueError, RuntimeError, OverflowError):
        return None
    if indexes.ndim != 1 or indexes.is_floating_point() or indexes.is_complex():
        return None
    if indexes.dtype == torch.bool:
        return None
    indexes = indexes.to("cpu", torch.int64, copy=True)
    return None if bool((indexes < 0).any()) else indexes  # as are those beyond int64


def several(loader: Any) -> str:
    """Return that training has several loaders, as a clause, or the empty string."""
    if isinstance(loader, (dict, list, tuple)):
        return "training takes its batches from a collection of loaders instead of one DataLoader"
    return ""


def unknowable(loader: Any) -> str:
    """Return why a loader's indexes cannot be known, or the empty string."""
    if reason := several(loader):
        return reason
    name = type(loader).__name__
    if not isinstance(loader, DataLoader):
        return f"the training loader {name} is no torch DataLoader"
    if type(loader).__iter__ is not DataLoader.__iter__:
        return f"the training loader {name} iterates in a way of its own"
    if isinstance(loader.dataset, IterableDataset):
        return f"{type(loader.dataset).__name__} is an IterableDataset, which has no indexes"
    if loader.batch_sampler is None:
        return "the training DataLoader has batch_size=None, so it has no batch sampler"
    if loader.num_workers > 0 and not getattr(loader, "in_order", True):
        return "the training DataLoader has in_order=False, so batches come in any order"
    return ""
