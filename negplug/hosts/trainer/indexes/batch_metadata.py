"""``BatchMetadata``: what a Trainer's callback tells its losses of the samples of a batch.

Indexes are those that the loader's sampler drew (:mod:`.whose_rows`), labels those that an
adapter reads off the batch; of a collection of loaders it takes none. Either is of the rows that a
loss gets only if the recipe has left rows in their order on the way, which is followed for parts
that use them (:mod:`.rows_kept`).
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable
from dataclasses import replace
from typing import Any

from torch import nn

from negplug.hosts.injection import Injection
from negplug.hosts.trainer import private
from negplug.hosts.trainer.composition import Composition
from negplug.hosts.trainer.indexes.recorder import several
from negplug.hosts.trainer.indexes.rows_kept import RowsKept
from negplug.hosts.trainer.indexes.whose_rows import WhoseRows
from negplug.hosts.treatment import Treatment


class BatchMetadata:
    """What is known of the samples of each training batch of a fit.

    Args:
        trainer: The Trainer, in a callback's ``setup`` for ``fit``.
        treatment: Its samplers and its objective may use indexes and labels.
        composition: Composes the Trainer's batches, if they are composed.
        others: Those of the other callbacks of the Trainer.
    """

    def __init__(
        self,
        trainer: Any,
        treatment: Treatment,
        composition: Composition | None,
        others: Iterable[BatchMetadata | None],
    ) -> None:
        self._trainer = trainer
        self._collects = composition is not None and composition.collects
        self._wants_indexes = treatment.wants_indexes or self._collects
        self._wants_labels = treatment.wants_labels
        self._rows: RowsKept | None = None
        self._whose: WhoseRows | None = None
        if self._wants_indexes or composition is not None:
            self._whose = WhoseRows(trainer, [each._whose for each in others if each is not None])
        if composition is not None and self._whose is not None:
            composition.begin(trainer)
            self._whose.recorder.compose(composition.place)

    def watch(self, model: nn.Module, injection: Injection, follow: bool) -> None:
        """Watch a fit, before its loaders are made.

        Args:
            model: What it fits.
            injection: Its treated losses.
            follow: Whether rows can be followed through ``training_step``.
        """
        if follow and (self._wants_indexes or self._wants_labels):
            self._rows = RowsKept(self._trainer, model, injection.losses.values())
        if self._whose is not None and self._wants_indexes:
            self._whose.watch(injection, self._rows)

    def tell(self, callback: object, batch: Any, injection: Injection, apart: str) -> None:
        """Tell the losses of a batch about to be trained on.

        Args:
            callback: That treats them.
            batch: The batch.
            injection: The treated losses.
            apart: Why positions in the data sets of the ranks are not comparable, as a clause.

        Raises:
            RuntimeError: If indexes are needed and the record does not fit the batches.
        """
        indexes, reason = None, ""
        if self._whose is not None:
            asked = injection, self._collects, apart
            indexes, reason = self._whose.look(callback, batch, *asked)
        # What looks like the labels of a batch may be the batch of another loader.
        collected = several(private.training_loader(self._trainer))
        # A bank is of the loader's own indexes, whatever a host calls its samples.
        for site in injection.sites:
            if self._collects or not site.reads_metadata:
                with contextlib.nullcontext() if self._rows is None else self._rows.reading():
                    known = site.metadata(batch)
                if self._rows is not None and self._rows.unlabeled and known.labels is not None:
                    known = replace(known, labels=None, unlabeled=self._rows.unlabeled)
                if collected:
                    known = replace(known, labels=None, unlabeled=collected)
                known = replace(known, indexes=indexes, unindexed=reason)
                injection.losses[site.name].provide(known)

    def end_step(self) -> None:
        """Watch one step less."""
        if self._rows is not None:
            self._rows.end_step()

    def stop_watching(self) -> None:
        """Put the recipe's own hooks back."""
        if self._rows is not None:
            self._rows.stop()
            self._rows = None

    def stop(self) -> None:
        """Put everything back, for all callbacks."""
        self.stop_watching()
        if self._whose is not None:
            self._whose.stop()

    def __reduce__(self) -> tuple[Any, ...]:
        return _nothing, ()  # a copy or a pickle of the callback is of no fit that goes on


def _nothing() -> None:
    return None
