"""Which pairs of anchors and rows of a pool are excluded, looked up once for a loss call.

The rule itself is in :mod:`negplug.contract.ids`.
"""

from __future__ import annotations

from torch import Tensor

from negplug.contract.batch import ContrastiveBatch
from negplug.contract.ids import BEYOND, columns_with_same_id
from negplug.contract.rows import Rows


def excluded_pairs(batch: ContrastiveBatch, rows: Rows) -> tuple[Tensor, Tensor]:
    """List the pairs of anchors and rows of a pool that the rule of exclusion forbids.

    Looked up once for a call and a pool with a name, however often they are asked for.

    Returns:
        Anchors ``[P]`` and columns ``[P]`` int64.
    """
    known: tuple[Tensor, Tensor] | None = batch.context.memo.get(("excluded", rows.name))
    if known is None or not rows.name:
        columns, _ = columns_with_same_id(batch.anchors.ids, rows.ids)
        anchor, slot = (columns != BEYOND).nonzero(as_tuple=True)
        known = anchor, columns[anchor, slot]
        remember_pairs(batch, rows, *known)
    return known


def remember_pairs(batch: ContrastiveBatch, rows: Rows, anchor: Tensor, column: Tensor) -> None:
    """Let :func:`excluded_pairs` return these, which were found in a quicker way."""
    if rows.name:
        batch.context.memo["excluded", rows.name] = anchor, column
