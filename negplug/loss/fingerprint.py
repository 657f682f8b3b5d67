"""A few rows of a batch, by which a call that is computed again is recognised."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple, Protocol, TypeVar

import torch
from torch import Tensor

from negplug.contract.batch import ContrastiveBatch

_PARTS = 4
_SAME = 1e-6  # squared distance of embeddings of length one that may be the same


class Recognised(Protocol):
    """What has a fingerprint."""

    fingerprint: BatchFingerprint


_Call = TypeVar("_Call", bound=Recognised)


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

    @torch.no_grad()
    def is_same(self, other: BatchFingerprint) -> Tensor:
        """Return whether a fingerprint of the same shapes is of the same batch, bool ``[]``.

        All rows are nearly the same then, or some are to the bit.
        """
        pairs = zip(self.rows, other.rows, strict=True)
        some = torch.stack([(one == two.to(one)).all(1).any() for one, two in pairs]).all()
        return some | (self.distance(other) <= _SAME)

    def nearest(self, calls: Iterable[_Call]) -> list[_Call]:
        """Return the calls of the same shapes that are the least apart, in their order."""
        alike = [call for call in calls if call.fingerprint.shapes == self.shapes]
        if len(alike) < 2:
            return alike
        apart = torch.stack([self.distance(call.fingerprint) for call in alike]).tolist()
        return [c for c, d in zip(alike, apart, strict=True) if d <= min(apart) + _SAME]


def _few(rows: Tensor) -> Tensor:
    # Of every view: the first ones of two batches may be the same.
    return rows.detach()[:: max(1, (rows.shape[0] - 1) // _PARTS)].clone()
