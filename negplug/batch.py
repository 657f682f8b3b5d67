"""What a training step knows: anchors, keys, and who is whom.

An *anchor* is a row that pays a loss, a *key* a row that it may be compared with. Identity is
carried by ids: a key with the anchor's id is the anchor itself, another view of it, or another
positive, and so never its negative. Ids make the exclusion cheap everywhere (a comparison per
tile, a binary search per draw) without a dense mask.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from negplug.distributed import gather_rows
from negplug.draws import Draws
from negplug.exclusion import BEYOND, UNKNOWN, columns_with_same_id
from negplug.unit import unit_rows


@dataclass(frozen=True, eq=False)
class ContrastiveBatch:
    """Anchors and keys of one loss call.

    Attributes:
        anchors: ``[N, d]`` float32 or float64, rows of unit length.
        keys: ``[K, d]``, likewise. The same tensor object as ``anchors`` where the loss is
            symmetric, which the arithmetic exploits.
        anchor_ids: ``[N]`` int64; -1 is unknown and equals nothing, so an anchor that is itself
            among the keys needs an id.
        key_ids: ``[K]`` int64.
        positives: ``[N, P]`` int64, key columns of each anchor's positives, padded with -1.
        self_columns: ``[N]`` int64, the key column that is the anchor itself; None where the
            keys hold no anchor (momentum keys).
        indexes: ``[N]`` int64, data set index of each anchor, if the recipe knows it.
        labels: ``[N]`` int64, metadata of each anchor, -1 = none.
        key_views: ``[K]`` int64, the view that each key comes from, where known.
        draws: Counters for random draws.
    """

    anchors: Tensor
    keys: Tensor
    anchor_ids: Tensor
    key_ids: Tensor
    positives: Tensor
    self_columns: Tensor | None = None
    indexes: Tensor | None = None
    labels: Tensor | None = None
    key_views: Tensor | None = None
    draws: Draws = field(default_factory=Draws)

    @classmethod
    def from_views(
        cls,
        views: tuple[Tensor, ...],
        indexes: Tensor | None = None,
        labels: Tensor | None = None,
    ) -> ContrastiveBatch:
        """Build the batch of a symmetric loss: every view of every sample is anchor and key.

        Args:
            views: V tensors ``[B, d]``; row b of each view comes from sample b.
            indexes: ``[B]`` data set indexes.
            labels: ``[B]`` integer metadata.

        Returns:
            A batch of N = V·B anchors, the keys being the anchors, view after view.

        Raises:
            ValueError, TypeError: If a view, ``indexes`` or ``labels`` cannot be used; the
                message names it.
        """
        check_views(views)
        count, size = len(views), views[0].shape[0]
        device = views[0].device
        z = unit_rows(torch.cat(views))
        row = torch.arange(count * size, device=device)
        ids = row % size
        shifts = size * torch.arange(1, count, device=device)
        return cls(
            anchors=z,
            keys=z,
            anchor_ids=ids,
            key_ids=ids,
            positives=(row[:, None] + shifts) % (count * size),
            self_columns=row,
            indexes=_per_sample("indexes", indexes, size, count, device),
            labels=_per_sample("labels", labels, size, count, device),
            key_views=row // size,
        )

    @classmethod
    def from_ids(
        cls,
        anchors: Tensor,
        anchor_ids: Tensor,
        keys: Tensor | None = None,
        key_ids: Tensor | None = None,
        self_columns: Tensor | None = None,
        indexes: Tensor | None = None,
    ) -> ContrastiveBatch:
        """Build a batch whose positives are the other keys with the anchor's id.

        This is the form of supervised contrast (ids are labels) and of multi-crop batches.

        Args:
            anchors: ``[N, d]`` rows of unit length.
            anchor_ids: ``[N]`` integers.
            keys: ``[K, d]``; the anchors themselves if None.
            key_ids: ``[K]``; needed with ``keys``.
            self_columns: ``[N]``; needed if ``keys`` hold the anchors.
            indexes: ``[N]`` data set indexes.
        """
        if keys is None or key_ids is None:
            self_columns = torch.arange(len(anchors), device=anchors.device)
            # An unknown anchor has no positives, but it is still itself: give it an id of its own.
            own = UNKNOWN - 2 - self_columns
            anchor_ids = anchor_ids.where(anchor_ids != UNKNOWN, own)
            keys, key_ids = anchors, anchor_ids
        same, _ = columns_with_same_id(anchor_ids, key_ids)
        padded = same == BEYOND
        if self_columns is not None:
            padded |= same == self_columns[:, None]
        return cls(
            anchors=anchors,
            keys=keys,
            anchor_ids=anchor_ids,
            key_ids=key_ids,
            positives=same.masked_fill(padded, -1),
            self_columns=self_columns,
            indexes=indexes,
        )

    @property
    def training(self) -> bool:
        """Whether a backward pass can follow, so that this call counts as training."""
        return torch.is_grad_enabled() and self.anchors.requires_grad

    def gathered(self) -> ContrastiveBatch:
        """Return this symmetric batch with every rank's keys, in rank order.

        Ids of single samples of a batch are positions; they are made unique over the ranks.
        """
        keys, first = gather_rows(self.anchors)
        if keys is self.anchors:
            return self
        ids = self.anchor_ids + first
        columns = None if self.self_columns is None else self.self_columns + first
        return replace(
            self,
            keys=keys,
            anchor_ids=ids,
            key_ids=gather_rows(ids)[0],
            positives=self.positives.where(self.positives < 0, self.positives + first),
            self_columns=columns,
            key_views=None,
        )

    def detach(self) -> ContrastiveBatch:
        """Return the batch without its graph, for updates after the backward pass."""
        anchors = self.anchors.detach()
        keys = anchors if self.keys is self.anchors else self.keys.detach()
        return replace(self, anchors=anchors, keys=keys)


def check_views(views: tuple[Tensor, ...]) -> None:
    """Raise unless ``views`` are two or more finite floating tensors of one shape ``[B, d]``."""
    if len(views) < 2:
        raise ValueError(f"a contrastive loss needs at least two views, got {len(views)}")
    for number, view in enumerate(views):
        check_embeddings(f"z{number}", view)
        if view.shape != views[0].shape:
            raise ValueError(
                f"all views must have one shape [B, d], got z0 {tuple(views[0].shape)} and "
                f"z{number} {tuple(view.shape)}"
            )


def check_embeddings(name: str, z: Tensor) -> None:
    """Raise unless ``z`` is a finite floating tensor ``[B, d]`` with at least one row."""
    if not isinstance(z, Tensor):
        raise TypeError(f"{name} must be a tensor [B, d], got {type(z).__name__}")
    if not z.is_floating_point():
        raise TypeError(f"{name} must be a floating-point tensor, got {z.dtype}; cast it first")
    if z.ndim != 2 or z.shape[0] == 0 or z.shape[1] == 0:
        raise ValueError(f"{name} must have shape [B, d] with B, d ≥ 1, got {tuple(z.shape)}")
    # The sum is finite in all but bad cases, and much quicker than looking at every entry.
    if not (z.detach().sum().isfinite() or z.detach().isfinite().all()):
        raise ValueError(f"{name} holds NaN or infinite embeddings; the model has diverged")


def _per_sample(
    name: str, values: Tensor | None, size: int, views: int, device: torch.device
) -> Tensor | None:
    if values is None:
        return None
    if not isinstance(values, Tensor) or values.shape != (size,):
        shape = tuple(values.shape) if isinstance(values, Tensor) else type(values).__name__
        raise ValueError(f"{name} must be a tensor [{size}], one entry per sample, got {shape}")
    if values.is_floating_point() or values.is_complex() or values.dtype == torch.bool:
        raise TypeError(f"{name} must be integers, got {values.dtype}")
    return values.to(device=device, dtype=torch.int64).repeat(views)
