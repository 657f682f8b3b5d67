"""What a sampler hands to an objective: pools, the chosen columns, and their weights."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import torch
from torch import Tensor

from negplug.contract.ids import comparable_ids, number_with_same_id, or_unknown


@dataclass(frozen=True, eq=False)
class Negatives:
    """The negatives of one batch.

    Attributes:
        pool: ``[K, d]`` candidate rows of unit length; rows may carry gradient.
        pool_ids: ``[K]`` int64; a row with an anchor's id is never its negative.
        columns: ``[N, M]`` int64 columns of ``pool`` for each anchor, or None for the whole
            pool, from which the rows with the anchor's id are left out tile by tile.
        mask: ``[N, M]`` bool, True where ``columns`` holds a negative; None if all do. Without
            ``columns`` it is ``[N, K]``, True where a row of the pool may serve the anchor.
        log_weight: Detached log importance weights, broadcastable to ``[N, M]`` (or ``[N, K]``
            without ``columns``); None is all zero. With ``"posterior"`` -inf marks what was not
            drawn; with ``"partition"`` what is no negative is left to the mask.
        partners: ``[N, M]`` int64 columns. Negative m of an anchor is then not the row
            ``pool[columns]`` but the mixture of it and ``pool[partners]``.
        coefficients: ``[N, M, 2]``, detached: what the mixture takes of each of the two rows.
        pool_indexes: ``[K]`` int64, data set index of each row, -1 = unknown; None if all are.
        pool_labels: ``[K]`` int64, metadata of each row, likewise.
        others: Further negatives with pools of their own, in the same denominator.
        aux: What the sampler's own ``update`` needs.
        estimator: ``"partition"``: the weighted negatives estimate the softmax denominator.
            ``"posterior"``: they are draws from the softmax itself, weights summing to one.
    """

    pool: Tensor
    pool_ids: Tensor
    columns: Tensor | None = None
    mask: Tensor | None = None
    log_weight: Tensor | None = None
    partners: Tensor | None = None
    coefficients: Tensor | None = None
    pool_indexes: Tensor | None = None
    pool_labels: Tensor | None = None
    others: tuple[Negatives, ...] = ()
    aux: dict[str, Any] = field(default_factory=dict)
    estimator: Literal["partition", "posterior"] = "partition"

    def parts(self) -> Iterator[Negatives]:
        """Yield these negatives and all others, each with one pool."""
        yield replace(self, others=()) if self.others else self
        for other in self.others:
            yield from other.parts()

    def of_rows(self, rows: Tensor) -> Negatives:
        """Return a whole pool's negatives with these rows alone, as a pool of their own.

        Weights of single rows are left out.

        Args:
            rows: ``[R]`` int64 columns of the pool.
        """
        indexes, labels = self.pool_indexes, self.pool_labels
        return Negatives(
            pool=self.pool[rows],
            pool_ids=self.pool_ids[rows],
            mask=None if self.mask is None else self.mask[:, rows],
            pool_indexes=None if indexes is None else indexes[rows],
            pool_labels=None if labels is None else labels[rows],
        )

    def chosen(self, anchor_ids: Tensor) -> Tensor:
        """Return ``[N, M]``, or ``[N, K]`` of a whole pool, True where there is a negative."""
        if self.columns is None:
            chosen = comparable_ids(anchor_ids)[:, None] != self.pool_ids
        else:
            chosen = torch.ones_like(self.columns, dtype=torch.bool)
        if self.mask is not None:
            chosen &= self.mask
        if self._drops_draws:
            assert self.log_weight is not None
            chosen &= self.log_weight > -torch.inf
        return chosen

    def counts(self, anchor_ids: Tensor) -> Tensor:
        """Return the number of negatives of each anchor, ``[N]`` int64."""
        others = sum(other.counts(anchor_ids) for other in self.others)
        if self.mask is not None or self._drops_draws:
            own = self.chosen(anchor_ids).sum(1)
        elif self.columns is None:
            own = len(self.pool) - number_with_same_id(anchor_ids, self.pool_ids)
        else:
            own = torch.full_like(anchor_ids, self.columns.shape[1])
        return own + others

    def enumerated(self, anchor_ids: Tensor) -> Negatives:
        """Return the same negatives with explicit ``columns``, of all parts in one pool.

        For samplers that choose for each anchor among what another chose. It costs ``[N, K]``
        integers where a part is a whole pool.

        Raises:
            ValueError: If a part is a mixture of rows, which no column of a pool can name.
        """
        if self.columns is not None and self.partners is None and not self.others:
            return self
        parts = list(self.parts())
        if any(part.partners is not None for part in parts):
            raise ValueError(
                "synthetic negatives are no rows of a pool, so no sampler can choose among them; "
                "make synthetic(…) the outermost sampler"
            )
        columns, masks, first = [], [], 0
        for part in parts:
            own, mask = part.columns, part.chosen(anchor_ids)
            if own is None:
                own = torch.arange(len(part.pool), device=anchor_ids.device)
                own = own.expand(len(anchor_ids), -1)
            columns.append(own + first)
            masks.append(mask)
            first += len(part.pool)
        weight = None
        if any(part.log_weight is not None for part in parts):
            each = [
                part.pool.new_zeros(1, 1) if part.log_weight is None else part.log_weight
                for part in parts
            ]
            wide = [w.expand(c.shape) for w, c in zip(each, columns, strict=True)]
            weight = torch.cat(wide, dim=1)
        return replace(
            self,
            pool=torch.cat([part.pool for part in parts]),
            pool_ids=torch.cat([part.pool_ids for part in parts]),
            columns=torch.cat(columns, dim=1),
            mask=torch.cat(masks, dim=1),
            log_weight=weight,
            pool_indexes=_joined([part.pool_indexes for part in parts], parts),
            pool_labels=_joined([part.pool_labels for part in parts], parts),
            others=(),
        )

    def detach(self) -> Negatives:
        """Return the negatives without their graph, for updates after the backward pass."""
        others = tuple(other.detach() for other in self.others)
        return replace(self, pool=self.pool.detach(), others=others)

    @property
    def _drops_draws(self) -> bool:
        """Whether weights of 0 say what was not drawn."""
        return self.estimator == "posterior" and self.log_weight is not None


def _joined(values: list[Tensor | None], parts: list[Negatives]) -> Tensor | None:
    """Concatenate what is known of each part's rows; -1 where it is not."""
    if all(value is None for value in values):
        return None
    each = zip(values, parts, strict=True)
    return torch.cat([or_unknown(value, part.pool_ids) for value, part in each])
