"""What is drawn from a pool, and with what weight."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor


class WeightedDraws(NamedTuple):
    """Weighted draws of N anchors from a pool, E entries each.

    Attributes:
        log_weight: Broadcastable to ``[N, E]``; None for weights of 1.
        mask: ``[N, E]`` bool, False where nothing is drawn; None if all are.
        ids: Ids of anchors ``[N]`` and rows ``[E]``, equal where nothing is drawn; None if there
            are none to compare.
        pairs: Anchors ``[P]`` and entries ``[P]`` int64 where nothing is drawn, in place of ids.
        columns: ``[N, E]`` int64, rows of the pool; None if the entries are all rows.
    """

    log_weight: Tensor | None
    mask: Tensor | None
    ids: tuple[Tensor, Tensor] | None = None
    pairs: tuple[Tensor, Tensor] | None = None
    columns: Tensor | None = None
