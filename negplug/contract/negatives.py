"""``Negatives``: the rows of one pool, which of them serve each anchor, and with what weight.

A sampler returns ``Negatives``, or a tuple of them where several pools serve in one denominator.
Which rows serve is a choice of three kinds: the :class:`Whole` pool, :class:`Columns` of it for
each anchor, or :class:`Mixtures` of two columns. Each lists E entries for an anchor, and the
``mask`` of each means the same: True where the entry serves the anchor. A fourth, the keys of
:class:`EveryRank`, lists none, since no rank holds them all.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

import torch
from torch import Tensor

from negplug.contract.blocks import Blocks
from negplug.contract.ids import number_of_excluded
from negplug.contract.rows import Rows

Estimator = Literal["partition", "posterior"]


@dataclass(frozen=True, eq=False)
class Whole:
    """Every row of the pool, but for those with the anchor's id, which negplug leaves out.

    Attributes:
        mask: ``[N, K]`` bool, True where a row serves the anchor; None if all do.
        blocks: In place of a mask: the rows of some views serve those of some. Arithmetic that
            knows of it streams them; :attr:`Negatives.mask` spells it out for what does not.
    """

    mask: Tensor | None = None
    blocks: Blocks | None = None


@dataclass(frozen=True, eq=False)
class Columns:
    """Chosen rows of the pool for each anchor. The sampler leaves out those with the anchor's id.

    Attributes:
        columns: ``[N, M]`` int64 columns of the pool, also where the mask is False.
        mask: ``[N, M]`` bool, True where the entry serves the anchor; None if all do.
    """

    columns: Tensor
    mask: Tensor | None = None


@dataclass(frozen=True, eq=False)
class Mixtures:
    """Synthetic negatives: entry m of an anchor is c₀ · pool[first] + c₁ · pool[second].

    Attributes:
        first: ``[N, M]`` int64 columns of the pool.
        second: ``[N, M]`` int64 columns of the pool.
        coefficients: ``[N, M, 2]``, detached: c₀ and c₁.
        mask: ``[N, M]`` bool, True where the entry serves the anchor; None if all do.
    """

    first: Tensor
    second: Tensor
    coefficients: Tensor
    mask: Tensor | None = None


@dataclass(frozen=True, eq=False)
class EveryRank:
    """The rows of all ranks but those with the anchor's id; the pool's rows are this rank's.

    They go around a ring of ranks, see :mod:`negplug.contract.streaming`. Every rank chooses so.
    """

    mask: None = None


Choice = Whole | Columns | Mixtures | EveryRank


@dataclass(frozen=True, eq=False)
class Negatives:
    """The negatives of a batch's anchors in one pool.

    Attributes:
        rows: The pool, K rows.
        choice: Which of them serve each anchor: E entries each, K of a whole pool.
        log_weight: Detached log importance weights, broadcastable to ``[N, E]``; None is all zero.
            With ``"posterior"`` -inf marks an entry that was not drawn. With ``"partition"`` the
            mask alone says which entries are no negatives.
        estimator: ``"partition"``: the weighted negatives estimate the softmax denominator.
            ``"posterior"``: they are draws from the softmax itself, weights summing to one over
            all pools.
        attracted: ``[N, F]`` int64 columns of the pool that are further positives of each anchor,
            padded with -1. None of them serves as its negative, in any pool. A sampler that reads
            a source must keep them. None if nothing is attracted.
    """

    rows: Rows
    choice: Choice = field(default_factory=Whole)
    log_weight: Tensor | None = None
    estimator: Estimator = "partition"
    attracted: Tensor | None = None

    @property
    def width(self) -> int:
        """E, the number of entries of each anchor, masked ones included."""
        choice = self._listed
        if isinstance(choice, Whole):
            return len(self.rows)
        columns = choice.columns if isinstance(choice, Columns) else choice.first
        return columns.shape[1]

    @property
    def mask(self) -> Tensor | None:
        """The mask of the choice, ``[N, E]``; blocks of views are spelled out."""
        blocks = self.blocks
        return self.choice.mask if blocks is None else blocks.mask()

    @property
    def blocks(self) -> Blocks | None:
        """The blocks of views that serve, if the choice is such."""
        return self.choice.blocks if isinstance(self.choice, Whole) else None

    @property
    def one_whole_pool(self) -> bool:
        """Whether every row serves every anchor that has another id."""
        whole = isinstance(self.choice, Whole)
        return whole and self.choice.mask is None and self.blocks is None

    @property
    def common_mask(self) -> Tensor | None:
        """Which rows of a whole pool serve, ``[K]``, if they are the same for all anchors."""
        mask = self.choice.mask
        if mask is None or not isinstance(self.choice, Whole):
            return None
        return mask[0] if mask.stride(0) == 0 else None

    def chosen(self, columns: Tensor, mask: Tensor | None, log_weight: Tensor | None) -> Negatives:
        """Return a choice of columns ``[N, M]`` from the same rows."""
        return replace(self, choice=Columns(columns, mask), log_weight=log_weight)

    def masked(self, mask: Tensor) -> Negatives:
        """Return the same negatives where ``mask`` ``[N, E]`` is True too."""
        own = self.mask
        mask = mask if own is None else own & mask
        choice = self._listed if self.blocks is None else Whole()
        return replace(self, choice=replace(choice, mask=mask))

    def subset(self, rows: Tensor) -> Negatives:
        """Return rows ``[R]`` int64 of a whole pool as a pool of their own, without weights."""
        mask = self.mask
        return Negatives(self.rows.select(rows), Whole(None if mask is None else mask[:, rows]))

    def weight_at(self, slots: Tensor) -> Tensor | None:
        """Return the log weights at some entries (slots) ``[N, M]``, broadcastable to them."""
        if self.log_weight is None or self.log_weight.shape[1] == 1:
            return self.log_weight
        return self.log_weight.expand(len(slots), -1).gather(1, slots)

    def columns_at(self, slots: Tensor) -> Tensor:
        """Return the columns of the pool ``[N, M]`` at some entries (slots) of each anchor."""
        if isinstance(self.choice, Whole):
            return slots
        assert isinstance(self.choice, Columns), "a mixture is no row of the pool"
        return self.choice.columns.gather(1, slots)

    def serving(self, anchors: Rows) -> Tensor:
        """Return ``[N, E]``, True where the entry is a negative of the anchor."""
        if isinstance(self.choice, Whole):
            serving = anchors.comparable_ids[:, None] != self.rows.ids
        else:
            shape = len(anchors), self.width
            serving = torch.ones(shape, dtype=torch.bool, device=anchors.ids.device)
        mask = self.mask
        if mask is not None:
            serving &= mask
        if self._drops_draws:
            assert self.log_weight is not None
            serving &= self.log_weight > -torch.inf
        return serving

    def counts(self, anchors: Rows) -> Tensor:
        """Return the number of negatives of each anchor, ``[N]`` int64."""
        if self.choice.mask is not None or self.blocks is not None or self._drops_draws:
            return self.serving(anchors).sum(1)
        if isinstance(self.choice, Whole):
            same = self.rows.same_as(anchors)
            return len(self.rows) - number_of_excluded(anchors.ids, self.rows.ids, same)
        return torch.full_like(anchors.ids, self.width)

    def detach(self) -> Negatives:
        """Return the negatives without their graph."""
        return replace(self, rows=self.rows.detach())

    @property
    def _listed(self) -> Whole | Columns | Mixtures:
        """The choice, whose entries can be listed; raises ``ValueError`` otherwise."""
        if isinstance(self.choice, EveryRank):
            raise ValueError(
                "keys that go around a ring cannot be listed, since no rank holds them all; leave "
                "ring=True out"
            )
        return self.choice

    @property
    def _drops_draws(self) -> bool:
        """Whether weights of 0 say what was not drawn."""
        return self.estimator == "posterior" and self.log_weight is not None


def total_counts(pools: Sequence[Negatives], anchors: Rows) -> Tensor:
    """Return the number of negatives of each anchor in all pools, ``[N]`` int64."""
    return functools.reduce(torch.add, (part.counts(anchors) for part in pools))


def enumerated(pools: Sequence[Negatives], anchors: Rows) -> Negatives:
    """Return the same negatives as explicit columns of one pool.

    For samplers that choose for each anchor among what another chose. It costs ``[N, K]`` integers
    where a part is a whole pool.

    Args:
        pools: Negatives of one estimator.
        anchors: Whose negatives they are.

    Raises:
        ValueError: If a part is a mixture of rows, which no column of a pool can name.
    """
    if len(pools) == 1 and isinstance(pools[0].choice, Columns):
        return pools[0]
    columns, attracted, first = [], list[Tensor](), 0
    for part in pools:
        if isinstance(part._listed, Mixtures):
            raise ValueError(
                "synthetic negatives are no rows of a pool, so no sampler can choose among them; "
                "make synthetic(…) the outermost sampler"
            )
        if isinstance(part.choice, Whole):
            every = torch.arange(len(part.rows), device=anchors.ids.device)
            columns.append(every.expand(len(anchors), -1) + first)
        else:
            assert isinstance(part.choice, Columns)
            columns.append(part.choice.columns + first)
        if part.attracted is not None:
            attracted.append(part.attracted.where(part.attracted < 0, part.attracted + first))
        first += len(part.rows)
    serving = torch.cat([part.serving(anchors) for part in pools], dim=1)
    weight = None
    if any(part.log_weight is not None for part in pools):
        zero = anchors.embeddings.new_zeros(1, 1)
        each = (zero if part.log_weight is None else part.log_weight for part in pools)
        weight = torch.cat([w.expand(c.shape) for w, c in zip(each, columns, strict=True)], dim=1)
    rows = pools[0].rows if len(pools) == 1 else Rows.joined([part.rows for part in pools])
    choice = Columns(torch.cat(columns, dim=1), serving)
    pulled = torch.cat(attracted, dim=1) if attracted else None
    return Negatives(rows, choice, weight, pools[0].estimator, pulled)
