"""What a sampler hands to an objective: a pool, the chosen columns, and their weights."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any, Literal

import torch
from torch import Tensor

from negplug.exclusion import columns_with_same_id


@dataclass(frozen=True, eq=False)
class Negatives:
    """The negatives of one batch.

    Attributes:
        pool: ``[K, d]`` candidate rows of unit length; rows may carry gradient.
        pool_ids: ``[K]`` int64; a row with an anchor's id is never its negative.
        columns: ``[N, M]`` int64 columns of ``pool`` for each anchor, or None for the whole
            pool, from which the rows with the anchor's id are left out tile by tile.
        mask: ``[N, M]`` bool, True where ``columns`` holds a negative; None if all do.
        log_weight: Detached log importance weights, broadcastable to ``[N, M]`` (or ``[N, K]``
            without ``columns``); None is all zero.
        aux: What the sampler's own ``update`` needs.
        estimator: ``"partition"``: the weighted negatives estimate the softmax denominator.
            ``"posterior"``: they are draws from the softmax itself, weights summing to one.
    """

    pool: Tensor
    pool_ids: Tensor
    columns: Tensor | None = None
    mask: Tensor | None = None
    log_weight: Tensor | None = None
    aux: dict[str, Any] = field(default_factory=dict)
    estimator: Literal["partition", "posterior"] = "partition"

    def counts(self, anchor_ids: Tensor) -> Tensor:
        """Return the number of negatives of each anchor, ``[N]`` int64."""
        if self.columns is None:
            return len(self.pool) - columns_with_same_id(anchor_ids, self.pool_ids)[1]
        if self.mask is None:
            return torch.full_like(anchor_ids, self.columns.shape[1])
        return self.mask.sum(1)

    def detach(self) -> Negatives:
        """Return the negatives without their graph, for updates after the backward pass."""
        return replace(self, pool=self.pool.detach())

    def check(self, anchors: Tensor) -> None:
        """Raise ``ValueError`` if the shapes and types do not fit together and to the anchors.

        Only what costs no device synchronisation is checked in a training step; the
        conformance kit looks at the values.
        """
        if self.pool.ndim != 2 or self.pool_ids.shape != self.pool.shape[:1]:
            raise ValueError(
                f"Negatives: pool must be [K, d] and pool_ids [K], got {tuple(self.pool.shape)} "
                f"and {tuple(self.pool_ids.shape)}"
            )
        if self.pool.shape[1] != anchors.shape[1] or self.pool.dtype != anchors.dtype:
            raise ValueError(
                f"Negatives: pool has rows of {self.pool.shape[1]} {self.pool.dtype}, the anchors "
                f"of {anchors.shape[1]} {anchors.dtype}"
            )
        width = len(self.pool)
        if self.columns is not None:
            if self.columns.dtype != torch.int64 or self.columns.ndim != 2:
                raise ValueError(
                    f"Negatives: columns must be int64 [N, M], got {self.columns.dtype} "
                    f"{tuple(self.columns.shape)}"
                )
            width = self.columns.shape[1]
            if len(self.columns) != len(anchors) or width == 0:
                raise ValueError(
                    f"Negatives: columns must be [N, M] with N = {len(anchors)} anchors and M ≥ 1, "
                    f"got {tuple(self.columns.shape)}"
                )
        if self.mask is not None and (
            self.columns is None or self.mask.shape != self.columns.shape
        ):
            raise ValueError("Negatives: mask must have the shape of columns")
        if self.log_weight is not None:
            if self.log_weight.requires_grad:
                raise ValueError("Negatives: log_weight must be detached")
            if self.log_weight.ndim != 2:
                raise ValueError("Negatives: log_weight must have two dimensions")
            rows, columns = self.log_weight.shape
            if rows not in (1, len(anchors)) or columns not in (1, width):
                raise ValueError(
                    f"Negatives: log_weight must broadcast to [{len(anchors)}, {width}], got "
                    f"{tuple(self.log_weight.shape)}"
                )
        if self.estimator not in ("partition", "posterior"):
            raise ValueError(f"Negatives: unknown estimator {self.estimator!r}")
