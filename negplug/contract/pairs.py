"""Batches of pairs of two encoders, with negatives that were given beside them."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from negplug.contract.batch import ContrastiveBatch
from negplug.contract.ids import UNKNOWN
from negplug.contract.inputs import check_beside, check_form, finite_unit_rows
from negplug.contract.rows import KEYS, Rows

_NAMES = "queries", "documents"


def batch_of_pairs(
    anchors: Tensor,
    keys: Tensor,
    hard_negatives: Tensor | None = None,
    indexes: Tensor | None = None,
    labels: Tensor | None = None,
    direction: int = 0,
    unindexed: str = "",
    unlabeled: str = "",
) -> ContrastiveBatch:
    """Build the batch of one direction: anchor b against key b and other keys.

    Args:
        anchors: ``[B, d]``.
        keys: ``[B, d]``; row b is the positive of anchor b.
        hard_negatives: ``[B, M, d]`` or ``[B·M, d]``, further keys that are nobody's positive.
        indexes: ``[B]`` data set indexes.
        labels: ``[B]`` or any other form of :func:`negplug.contract.labels.as_labels`.
        direction: 0 if the anchors are the queries, 1 if they are the documents; for messages.
        unindexed: Why ``indexes`` is None.
        unlabeled: Why ``labels`` is None.

    Raises:
        ValueError, TypeError: If something given cannot be used; the message names it.
    """
    names = _NAMES[direction], _NAMES[1 - direction]
    known = indexes, labels, unindexed, unlabeled
    batch = ContrastiveBatch.from_pairs(anchors, keys, *known, names)
    if hard_negatives is None:
        return batch
    negatives = _flat(hard_negatives, *anchors.shape)
    check_beside(names[1], keys, "hard_negatives", hard_negatives)
    pool = _with_negatives(batch.keys, finite_unit_rows(negatives, names=["hard_negatives"]))
    return replace(batch, keys=pool)


def _flat(hard_negatives: Tensor, size: int, width: int) -> Tensor:
    """Return given negatives ``[B·M, d]``."""
    z, name = hard_negatives, "hard_negatives"
    if isinstance(z, Tensor) and z.ndim == 3:
        if z.shape[0] != size or z.shape[2] != width:
            raise ValueError(_shape_error(z, size, width))
        z = z.flatten(end_dim=1)
    check_form(name, z)
    if z.shape[0] % size or z.shape[1] != width:
        raise ValueError(_shape_error(hard_negatives, size, width))
    return z


def _shape_error(given: Tensor, size: int, width: int) -> str:
    return (
        f"hard_negatives must have shape [{size}, M, {width}] or [{size}·M, {width}], M for each "
        f"of the {size} queries, got {tuple(given.shape)}"
    )


def _with_negatives(pool: Rows, negatives: Tensor) -> Rows:
    """Return the keys with rows of unknown samples behind them, which equal nobody's id."""
    count = len(negatives)

    def joined(names: Tensor | None) -> Tensor | None:
        return None if names is None else torch.cat([names, names.new_full((count,), UNKNOWN)])

    ids = joined(pool.ids)
    assert ids is not None
    return Rows(
        torch.cat([pool.embeddings, negatives]),
        ids,
        joined(pool.indexes),
        joined(pool.labels),
        name=KEYS,
    )
