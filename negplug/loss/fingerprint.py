"""By what a call is recognised that is computed again: a few rows of its batch."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from negplug.contract.batch import ContrastiveBatch

_PARTS = 4


class BatchFingerprint(NamedTuple):
    """What tells the batch of one call from that of another, in memory of its own.

    Attributes:
        shapes: Of anchors and keys.
        rows: A few of the anchors and, where they are others, of the keys.
    """

    shapes: tuple[torch.Size, torch.Size]
    rows: tuple[Tensor, ...]

    @classmethod
    def of(cls, batch: ContrastiveBatch) -> BatchFingerprint:
        """Return the fingerprint of a batch; nothing waits for the device."""
        anchors, keys = batch.anchors.embeddings, batch.keys.embeddings
        rows = (_few(anchors),) if keys is anchors else (_few(anchors), _few(keys))
        return cls((anchors.shape, keys.shape), rows)

    @torch.no_grad()
    def distance(self, other: BatchFingerprint) -> Tensor:
        """Return the mean squared distance to a fingerprint of the same shapes, ``[]``."""
        one, two = torch.cat(self.rows), torch.cat(other.rows)
        return (one - two.to(one)).square().sum(1).mean()


def _few(rows: Tensor) -> Tensor:
    # Of every view: the first ones of two batches may be the same.
    return rows.detach()[:: max(1, (rows.shape[0] - 1) // _PARTS)].clone()
