"""Whose samples the rows of a batch are, as far as a Trainer's callback can know it.

A host whose batches bring no indexes gets those that the loader's sampler drew (:mod:`.recorder`).
One whose batches do is believed, unless they contradict what was drawn (:mod:`.numbering`), or one
another where nobody knows that (:mod:`.unplaced`), or the collate function has moved samples and
not indexes. Ranks that count data sets of their own from 0 contradict one another as well. What
recipes do behind the loader :mod:`.rows_kept` follows.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

from negplug.hosts.injection import Injection
from negplug.hosts.nested import tensors_of_batch
from negplug.hosts.subsets import chosen, length
from negplug.hosts.trainer import private, several
from negplug.hosts.trainer.dataset.fingerprint import dataset_of
from negplug.hosts.trainer.indexes.collate import collates, one_by_one
from negplug.hosts.trainer.indexes.numbering import Numbering, Row
from negplug.hosts.trainer.indexes.recorder import IndexRecorder
from negplug.hosts.trainer.indexes.rows_kept import RowsKept
from negplug.hosts.trainer.indexes.unplaced import Unplaced
from negplug.kernels.distributed import everyones

_STEPS = 2
"""So many steps of an epoch are looked at where the batch is on a device, which is waited for."""
_VALUES = 16
_BY = "by provide(indexes=…) of the callback's injection"


class WhoseRows:
    """What is known of the samples of each training batch.

    Args:
        trainer: The Trainer, in a callback's ``setup`` for ``fit``.
        others: Those of the other callbacks of the Trainer.

    Attributes:
        shared: Knows what was drawn, for all callbacks.
    """

    def __init__(self, trainer: Any, others: Iterable[WhoseRows | None]) -> None:
        made = [each.shared for each in others if each is not None]
        self.shared: several.SharedRecorder = several.shared_recorder(trainer, made)
        self._trainer = trainer
        self._rows: RowsKept | None = None
        self._numbering, self._unplaced, self._of = Numbering(), Unplaced(), list[Any]()
        self._compared, self._apart = -1, ""
        self._epoch, self._step, self._told = -1, 0, False

    @property
    def recorder(self) -> IndexRecorder:
        """The recorder of what was drawn."""
        return self.shared.recorder

    def watch(self, injection: Injection, rows: RowsKept | None) -> None:
        """Watch a fit, before its loaders are made.

        Args:
            injection: Its treated losses.
            rows: Follows rows through ``training_step``; None if they cannot be followed.
        """
        self._rows = rows
        own = [site.own_indexes for site in injection.sites if site.own_indexes is not None]
        self.recorder.own = next(iter(own), None)

    def look(
        self, callback: object, batch: Any, injection: Injection, insist: bool, apart: str = ""
    ) -> tuple[Tensor | None, str]:
        """Return the indexes ``[B]`` that were drawn for a batch, or None and why.

        Args:
            callback: That asks.
            batch: About to be trained on.
            injection: The treated losses, which are told of indexes in it that are not right.
            insist: Whether those that were drawn are needed, whatever the host says.
            apart: Why positions in the data sets of the ranks are not comparable, as a clause.

        Raises:
            RuntimeError: If they are needed and the record does not fit the batches.
        """
        needed = insist or not all(site.reads_metadata for site in injection.sites)
        try:
            indexes, reason = self.shared.indexes(callback), self.recorder.reason
        except RuntimeError:
            if needed:
                raise
            indexes, reason = None, ""
        if self._rows is not None:
            # A host's own indexes may be of fewer rows than were drawn.
            self._rows.size = len(indexes) if needed and indexes is not None else None
        wrong = self._wrong(batch, apart)
        for site in injection.sites:
            if site.own_indexes is not None:
                injection.losses[site.name].doubt = wrong
        known = self.recorder.own is not None or not self.recorder.reason
        if known and (what := self.recorder.unfollowed):
            self._warn(
                f"{what} rows of which it cannot be told which samples they are; if they are not "
                f"in the order of their indexes, hand the right ones over in training_step, {_BY}"
            )
        if apart:
            return None, apart
        if self._rows is not None and self._rows.unindexed:
            return None, self._rows.unindexed
        return indexes, reason

    def stop(self) -> None:
        """Put everything back, for all callbacks."""
        self.shared.remove()

    def _wrong(self, batch: Any, apart: str) -> str:
        """Return why the host's own indexes of a batch are not right, as a clause, or nothing."""
        recorder = self.recorder
        if recorder.own is None:
            return ""
        indexes, loader = recorder.own(batch), private.training_loader(self._trainer)
        if apart and self._compared != self._trainer.current_epoch:
            self._compared = self._trainer.current_epoch
            counted = all(everyones(_counts(indexes, loader)))
            self._apart = f"{apart}, or number the samples of all ranks apart" if counted else ""
        if indexes is not None and self._looks(indexes.device):
            self._begin(getattr(loader, "dataset", loader))
            rows = _rows(batch, indexes)
            if recorder.drawn is None:
                self._unplaced.see(rows, self._trainer.current_epoch)
            else:
                in_order = one_by_one(loader) and not recorder.reason
                self._numbering.see(recorder.drawn.tolist(), rows, in_order)
        fault = self._numbering.fault or self._unplaced.fault
        doubt = self._numbering.doubt or self._unplaced.doubt
        if doubt and not fault:
            self._warn(
                f"{collates(loader)} gives indexes that may not name its samples ({doubt}); if "
                f"they do not, hand the right ones over in training_step, {_BY}"
            )
        if not fault:
            return (self._apart if apart else "") or recorder.moved
        return (
            f"{collates(loader)} gives indexes that do not name its samples ({fault}); give each "
            f"sample one index of its own, its position in the data set, say, or hand the right "
            f"ones over in training_step, {_BY}"
        )

    def _begin(self, dataset: Any) -> None:
        """Begin anew with another data set, or another choice of a Subset: other positions."""
        of = list(chosen(dataset))
        if [*map(id, of)] != [*map(id, self._of)]:
            self._numbering, self._unplaced, self._of = Numbering(), Unplaced(), of

    def _looks(self, device: torch.device) -> bool:
        if self._trainer.current_epoch != self._epoch:
            self._epoch, self._step = self._trainer.current_epoch, 0
        self._step += 1
        return device.type == "cpu" or self._step <= _STEPS

    def _warn(self, message: str) -> None:
        if not self._told:
            self._told = True
            warnings.warn(message, stacklevel=2)


def _counts(indexes: Tensor | None, loader: Any) -> bool:
    """Return whether indexes may be positions in this rank's own data set."""
    size = length(dataset_of(loader, numbered_inside=True))
    if indexes is None or size is None:
        return False
    return bool(((indexes >= 0) & (indexes < size)).all())


def _rows(batch: Any, indexes: Tensor) -> list[Row]:
    """Return the rows of a batch with indexes ``[R]``."""
    size = len(indexes)
    columns = [each for each in tensors_of_batch(batch) if each.ndim and len(each) == size]
    labels: list[Any] = [None] * size
    images = [b""] * size
    for column in columns:
        if column.is_floating_point() and column.ndim > 1:
            values = column.detach().reshape(size, -1)
            few = values[:, :: max(1, values.shape[1] // _VALUES)][:, :_VALUES]
            images = [row.tobytes() for row in few.float().cpu().numpy()]
            break
    for column in columns:
        if column.ndim == 1 and column is not indexes and not column.is_floating_point():
            labels = column.tolist()
            break
    return [Row(*row) for row in zip(indexes.tolist(), labels, images, strict=True)]
