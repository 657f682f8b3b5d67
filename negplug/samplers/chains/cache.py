"""The last embedding of every image of the data set, as the batches showed it."""

from __future__ import annotations

import torch
from torch import Tensor

from negplug.contract.batch import ContrastiveBatch
from negplug.contract.sample_table import PerSample, occurrences
from negplug.samplers.chains.absent import Outside


class EmbeddingCache(PerSample):
    """The views ``[V, d]`` of each image's last visit, the same on all ranks."""

    def __init__(self) -> None:
        super().__init__(known=False, embedding=0.0)

    def incoming(self, batch: ContrastiveBatch) -> dict[str, Tensor]:
        """Return the batch's keys of all ranks, for :meth:`take`."""
        everyones = batch.gathered()
        images, views = everyones.key_indexes, everyones.key_views
        assert images is not None
        views = occurrences(images) if views is None else views
        return {"keys": everyones.keys.detach(), "images": images, "views": views}

    def take(self, keys: Tensor, images: Tensor, views: Tensor) -> None:
        """Take the keys of a step in; of an image's earlier visit nothing is known beside them."""
        known = self._values["known"]
        known[:, images[images < known.shape[1]]] = False
        self.write(images, views, known=torch.ones_like(images, dtype=torch.bool), embedding=keys)

    def find(self, batch: ContrastiveBatch, state: Tensor, anchors: Tensor) -> Outside:
        """Return the states ``[N]`` of some anchors ``[n]``, which lie outside their batch."""
        images = state[anchors]
        length = self._values["known"].shape[1]
        here = images.clamp(max=length - 1)
        known = self._values["known"].index_select(1, here) & (images < length)
        rows = self._values["embedding"].index_select(1, here).to(batch.anchors)
        if not known.all():
            # In place of what is not there, some row of unit length, of which nothing is drawn.
            rows = rows.where(known[:, :, None], batch.anchors[anchors])
        return Outside.of(batch, anchors, images, None, rows, known)
