"""The last embedding of every sample of the data set, as the batches showed it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from negplug.contract.batch import ContrastiveBatch
from negplug.contract.ids import UNKNOWN
from negplug.contract.rows import Rows
from negplug.contract.sample_table import Room, SampleTable, occurrences
from negplug.samplers.chains.absent import AbsentStates
from negplug.samplers.chains.step import ChainStep
from negplug.samplers.common.saved_rows import check_unit_rows


class ShownKeys(NamedTuple):
    """The keys of a step, of all ranks.

    Attributes:
        keys: ``[K, d]``, detached.
        samples: ``[K]`` int64, data set indexes.
        views: ``[K]`` int64.
        complete: Whether every sample is here with as many views as any.
        room: Gives the number of views, and that of samples in the data set.
    """

    keys: Tensor
    samples: Tensor
    views: Tensor
    complete: bool
    room: Callable[[], tuple[int, int]]

    @classmethod
    def of(cls, batch: ContrastiveBatch, size: int | None) -> ShownKeys:
        """Return the keys of a batch whose samples are known, of a data set of ``size``."""
        keys = batch.gathered().keys
        assert keys.indexes is not None
        views = occurrences(keys.indexes) if keys.views is None else keys.views
        room = Room(keys.indexes, views, keys.num_views, size)
        complete = keys.num_views is not None
        return cls(keys.embeddings.detach(), keys.indexes, views, complete, room)


class EmbeddingCache(SampleTable):
    """The views ``[V, d]`` of each sample's last visit, the same on all ranks."""

    known: Tensor
    embedding: Tensor

    def __init__(self) -> None:
        super().__init__(("embedding",), known=False, embedding=0.0)
        self._names: tuple[torch.Size, Tensor, Tensor] | None = None

    def check_values(self, values: dict[str, Any]) -> None:
        """Raise ``ValueError`` unless the saved embeddings are rows of unit length."""
        super().check_values(values)
        check_unit_rows("the embeddings of the chains' states", values["embedding"])

    def take(self, shown: ShownKeys) -> None:
        """Take the keys of a step in; of a sample's earlier visit nothing is known beside them."""
        room = shown.room()
        self.reserve(room, embedding=shown.keys)
        if not shown.complete or len(self.known) > room[0]:
            most = self.known.shape[1] - 1
            self.known.index_fill_(1, shown.samples.clamp(0, most), False)
        present = shown.keys.new_ones((), dtype=torch.bool).expand(len(shown.keys))
        self.write(shown.samples, shown.views, room, known=present, embedding=shown.keys)

    def find(self, batch: ContrastiveBatch, step: ChainStep) -> AbsentStates | None:
        """Return the states outside the batch; None if it is known that there are none."""
        if step.all_here:
            return None
        anchors = batch.anchors.embeddings
        if not self.known.numel():
            # Nothing was shown yet, or a state was loaded without the embeddings.
            nowhere = torch.zeros(1, 1, dtype=torch.bool, device=anchors.device)
            pool = Rows.unknown(anchors.new_zeros(1, anchors.shape[1]))
            return AbsentStates.of(batch, step, step.state, pool, nowhere)
        # The table itself: what is drawn of it is not copied.
        rows = self.embedding.flatten(0, 1).to(anchors)
        return AbsentStates.of(batch, step, step.state, self._named(rows), self.known)

    def _named(self, rows: Tensor) -> Rows:
        """Return the views of all samples ``[V·n, d]`` with their names, which are kept."""
        shape, device = self.known.shape, rows.device
        if self._names is None or self._names[0] != shape or self._names[1].device != device:
            indexes = torch.arange(shape[1], device=device).repeat(shape[0])
            self._names = shape, torch.full_like(indexes, UNKNOWN), indexes
        _, ids, indexes = self._names
        return Rows(rows, ids, indexes=indexes)
