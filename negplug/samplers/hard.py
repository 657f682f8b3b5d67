"""``hard(num_negatives=M)``: the M most similar negatives of each anchor.

Source: the top-M rule of Kalantidis et al., "Hard negative mixing for contrastive learning"
(MoCHi, 2020, arXiv:2010.01028, section 4.1): sort an anchor's negatives by similarity, keep the
first M. With the source's negatives N_i of anchor i,

    S_i = the M of j ∈ N_i with the largest ⟨a_i, k_j⟩,

and nothing else of the source counts. Xuan et al., "Hard negative examples are hard, but useful"
(2020, arXiv:2007.12749) show when this collapses: anchors whose hardest negative is nearer than
their positive. ``filtered(similarity=…)`` as the source takes the nearest ones out.

A whole pool is read in tiles, each merged into the M best so far, so memory is O((N + K)·d + N·M).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

import torch
from torch import Tensor

from negplug.contract.batch import ContrastiveBatch
from negplug.contract.hookspecs import SamplerSpec, hookimpl
from negplug.contract.ids import comparable_ids
from negplug.contract.negatives import Negatives
from negplug.contract.sampler import NegativeSampler
from negplug.kernels.chosen import chosen_similarities
from negplug.kernels.pool.tiled import product_tiles
from negplug.samplers.common.choosing import (
    ChoosingSampler,
    rows_offered,
    weight_at,
)


class Hard(ChoosingSampler):
    """The M negatives most similar to each anchor.

    Args:
        num_negatives: M ≥ 1.
        source: Whose negatives to choose among; the batch's by default.

    Raises:
        TypeError: If an argument has the wrong type.
        ValueError: If ``num_negatives`` < 1, or more than the source can ever offer.
    """

    def __init__(self, num_negatives: int, source: NegativeSampler | None = None) -> None:
        super().__init__("hard", num_negatives, source)

    def sample(self, batch: ContrastiveBatch) -> Negatives:
        """Choose from the source's negatives of ``batch``.

        Raises:
            ValueError: If the first training batch, taken for a full one, has fewer than M
                negatives for every anchor. Ragged batches, and those of an evaluation, use what
                there is, with a warning.
        """
        offered = rows_offered("hard", self.source, batch)
        if self.supply.is_short(offered.counts(batch.anchor_ids), batch.first_step):
            return offered
        parts = [self._hardest(batch, part) for part in offered.parts()]
        if len(parts) == 1:
            return parts[0]
        # The hardest of all are among the hardest of each pool: no [N, K] of a whole pool.
        joined = replace(parts[0], others=tuple(parts[1:])).enumerated(batch.anchor_ids)
        return self._hardest(batch, joined)

    def _hardest(self, batch: ContrastiveBatch, part: Negatives) -> Negatives:
        if len(part.pool) == 0:
            return part
        slots, mask = _hardest_slots(batch, part, self.num_negatives)
        columns = slots if part.columns is None else part.columns.gather(1, slots)
        return replace(part, columns=columns, mask=mask, log_weight=weight_at(part, slots))


def hardest(
    batch: ContrastiveBatch, offered: Negatives, count: int
) -> tuple[Tensor, Tensor | None]:
    """Return the columns of the ``count`` most similar negatives of each anchor, hardest first.

    Args:
        batch: Anchors and their ids.
        offered: Negatives of a single pool, whole or chosen.
        count: M ≥ 1.

    Returns:
        ``columns [N, M]`` int64 of ``offered.pool``, and a mask ``[N, M]`` that is False where an
        anchor has fewer negatives than M (None if none has). M is at most the number of rows, or
        of columns, that are offered; so it is 0 for an empty pool.
    """
    slots, mask = _hardest_slots(batch, offered, count)
    return (slots if offered.columns is None else offered.columns.gather(1, slots)), mask


@torch.no_grad()
def _hardest_slots(
    batch: ContrastiveBatch, part: Negatives, count: int
) -> tuple[Tensor, Tensor | None]:
    """Return places in ``part.columns``, or in a whole pool, as :func:`hardest` does columns."""
    if part.columns is None:
        similarities, slots = _of_whole_pool(batch, part, min(count, len(part.pool)))
    else:
        every = chosen_similarities(batch.anchors, part.pool, part.columns)
        if part.mask is not None:
            every = every.masked_fill(~part.mask, -torch.inf)
        similarities, slots = every.topk(min(count, every.shape[1]))
    mask = similarities > -torch.inf
    return slots, None if mask.all() else mask


def _of_whole_pool(batch: ContrastiveBatch, part: Negatives, count: int) -> tuple[Tensor, Tensor]:
    """Return the ``count`` largest similarities and their columns, -inf where there are fewer."""
    ids = comparable_ids(batch.anchor_ids)
    best = batch.anchors.new_full((len(ids), count), -torch.inf)
    found = ids.new_zeros(len(ids), count)
    for rows, columns, tile in product_tiles(batch.anchors, part.pool):
        tile.masked_fill_(ids[rows, None] == part.pool_ids[columns], -torch.inf)
        if part.mask is not None:
            tile.masked_fill_(~part.mask[rows, columns], -torch.inf)
        best[rows], place = torch.cat([best[rows], tile], dim=1).topk(count)
        # The first places are those of the best so far, the others those of the tile.
        known = found[rows].gather(1, place.clamp(max=count - 1))
        found[rows] = torch.where(place < count, known, place - count + columns.start)
    return best, found


@hookimpl
def negplug_samplers() -> Iterable[SamplerSpec]:
    """Offer ``hard``."""
    yield SamplerSpec(
        "hard", Hard, "the M most similar negatives", "Kalantidis et al. 2020, arXiv:2010.01028"
    )
