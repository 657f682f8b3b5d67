"""Positives that samplers hand over: rows that they attract, in place of pushing them away.

A sampler says them as columns of its pool, :attr:`negplug.contract.negatives.Negatives.attracted`.
Objectives know of the batch's positives alone, which are columns of its keys. So a loss gives its
objective a batch whose positives are both: where the pool is that of the keys, or of the gathered
keys, columns are put behind columns; rows of other pools, a queue's say, are put behind the keys.
All shapes are fixed by the configuration.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from negplug.contract.batch import ContrastiveBatch
from negplug.contract.gathering import GATHERED
from negplug.contract.negatives import Negatives
from negplug.contract.objective import Objective
from negplug.contract.rows import Rows
from negplug.contract.sampler import NegativeSampler


def attracts(pools: Sequence[Negatives]) -> bool:
    """Return whether further positives come with the negatives."""
    return any(part.attracted is not None for part in pools)


def attracting(batch: ContrastiveBatch, pools: Sequence[Negatives]) -> ContrastiveBatch:
    """Return the batch with what comes with its negatives among its positives.

    Its keys may be more than those of ``batch``, and its positives padded; the very batch if
    nothing is attracted.
    """
    given = [(part.rows, part.attracted) for part in pools if part.attracted is not None]
    if not given:
        return batch
    places = [batch.place_of(rows) for rows, _ in given]
    base = batch.gathered() if any(pool == GATHERED for pool, _ in places) else batch
    keys, positives, count = [base.keys], [base.positives], len(base.keys)
    for (rows, columns), (pool, first) in zip(given, places, strict=True):
        if not pool or pool != base.keys.name:
            rows, columns = _needed(rows, columns)
            first = count
            keys.append(rows)
            count += len(rows)
        positives.append(columns.where(columns < 0, columns + first) if first else columns)
    return replace(
        base,
        keys=keys[0] if len(keys) == 1 else Rows.joined(keys),
        positives=torch.cat(positives, dim=1),
        unpadded=None,
        context=batch.context,
    )


def _needed(rows: Rows, columns: Tensor) -> tuple[Rows, Tensor]:
    """Return the rows of a pool that are attracted, or all; and where among them each one is."""
    if rows.embeddings.requires_grad or not len(rows) or columns.numel() >= len(rows):
        # A row that several anchors attract sums their gradients, in an order that a copy of each
        # would leave to the device.
        return rows, columns
    place = torch.arange(columns.numel(), device=columns.device).view_as(columns)
    return rows.select(columns.clamp(min=0).flatten()), place.where(columns >= 0, -1)


def check_pulls(objective: Objective, sampler: NegativeSampler) -> None:
    """Raise ``ValueError`` if an objective cannot take what a sampler attracts."""
    if not objective.several_positives:
        raise ValueError(
            f"{objective} pulls an anchor towards one positive, so it cannot take those that "
            f"{sampler} attracts; eliminate false negatives, "
            f'false_negatives(action="eliminate"), or choose another objective, infonce() say'
        )


def check_handed_on(sampler: NegativeSampler, batch: ContrastiveBatch) -> None:
    """Raise ``ValueError`` if a sampler has lost what one inside it attracts for this batch."""
    for inside in sampler.all_samplers():
        if inside in batch.context.memo and attracts(batch.context.memo[inside][0]):
            raise ValueError(
                f"{sampler} loses the positives that {inside}, inside it, attracts; let it choose "
                f"first: false_negatives(source=…) as the outermost sampler"
            )
