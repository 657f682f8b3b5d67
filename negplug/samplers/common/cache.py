"""The last embedding of every image of the data set, as the batches showed it."""

from __future__ import annotations

import torch
from torch import Tensor

from negplug.batch import ContrastiveBatch
from negplug.per_sample import PerSample, occurrences
from negplug.samplers.common.outside import Outside


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
        """Take the keys of a step in; of an image's earlier visit nothing is left beside them."""
        self.forget(images)
        self.write(images, views, known=torch.ones_like(images, dtype=torch.bool), embedding=keys)

    def find(self, batch: ContrastiveBatch, state: Tensor, anchors: Tensor) -> Outside:
        """Return the states ``[N]`` of some anchors ``[n]``, which lie outside their batch."""
        images, place = torch.unique(state[anchors], return_inverse=True)
        view = torch.arange(self.views, device=images.device).repeat_interleave(len(images))
        found = self.read(images.repeat(self.views), view)
        rows = found["embedding"].view(self.views, len(images), -1).to(batch.anchors)
        return Outside(anchors, images, place, rows, found["known"].view(self.views, -1))
