"""The last embedding of every sample of the data set, as the batches showed it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from negplug.contract.batch import ContrastiveBatch
from negplug.contract.sample_table import SampleTable, occurrences, room_for
from negplug.kernels.late import known
from negplug.samplers.chains.absent import AbsentStates
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
        room = room_for(keys.indexes, views, keys.num_views, size)
        complete = keys.num_views is not None
        return cls(keys.embeddings.detach(), keys.indexes, views, complete, room)


class EmbeddingCache(SampleTable):
    """The views ``[V, d]`` of each sample's last visit, the same on all ranks."""

    known: Tensor
    embedding: Tensor

    def __init__(self) -> None:
        super().__init__(("embedding",), known=False, embedding=0.0)

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

    def find(self, batch: ContrastiveBatch, state: Tensor, away: Tensor) -> AbsentStates | None:
        """Return the states ``[N]`` where ``away`` ``[N]`` is True; None if there are none."""
        length = self.known.shape[1]
        if known(away.any()) is False:
            return None
        anchors = batch.anchors.embeddings
        if not length:
            # Nothing was shown yet, or a state was loaded without the embeddings.
            nowhere = torch.zeros_like(away)[None]
            return AbsentStates.of(batch, away, state, None, anchors[None], nowhere)
        place = state.clamp(0, length - 1)
        here = self.known.index_select(1, place) & (state < length)
        rows = self.embedding.index_select(1, place).to(anchors)
        if not known((here | ~away).all()):
            # In place of what is not there, some row of unit length, of which nothing is drawn.
            rows = rows.where(here[:, :, None], anchors)
        return AbsentStates.of(batch, away, state, None, rows, here & away)
