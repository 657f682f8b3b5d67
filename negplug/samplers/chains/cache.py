"""The last embedding of every sample of the data set, as the batches showed it."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from negplug.contract.batch import ContrastiveBatch
from negplug.contract.sample_table import SampleTable, occurrences
from negplug.samplers.chains.absent import AbsentStates
from negplug.samplers.common.saved_rows import check_unit_rows


class ShownKeys(NamedTuple):
    """The keys of a step, of all ranks.

    Attributes:
        keys: ``[K, d]``, detached.
        samples: ``[K]`` int64, data set indexes.
        views: ``[K]`` int64.
    """

    keys: Tensor
    samples: Tensor
    views: Tensor

    @classmethod
    def of(cls, batch: ContrastiveBatch) -> ShownKeys:
        """Return the keys of a batch whose samples are known."""
        keys = batch.gathered().keys
        assert keys.indexes is not None
        views = occurrences(keys.indexes) if keys.views is None else keys.views
        return cls(keys.embeddings.detach(), keys.indexes, views)


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
        self.known[:, shown.samples[shown.samples < self.known.shape[1]]] = False
        known = torch.ones_like(shown.samples, dtype=torch.bool)
        self.write(shown.samples, shown.views, known=known, embedding=shown.keys)

    def find(self, batch: ContrastiveBatch, state: Tensor, chains: Tensor) -> AbsentStates:
        """Return the states ``[N]`` of some chains ``[n]``, which lie outside their batch."""
        samples, anchors = state[chains], batch.anchors.embeddings
        length = self.known.shape[1]
        if not length:
            # A state that was loaded without the embeddings.
            nowhere = torch.zeros(1, len(chains), dtype=torch.bool, device=anchors.device)
            return AbsentStates.of(batch, chains, samples, None, anchors[chains][None], nowhere)
        here = samples.clamp(max=length - 1)
        known = self.known.index_select(1, here) & (samples < length)
        rows = self.embedding.index_select(1, here).to(anchors)
        if not known.all():
            # In place of what is not there, some row of unit length, of which nothing is drawn.
            rows = rows.where(known[:, :, None], anchors[chains])
        return AbsentStates.of(batch, chains, samples, None, rows, known)
