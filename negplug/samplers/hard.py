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

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

from negplug.contract.batch import ContrastiveBatch
from negplug.contract.hookspecs import SamplerSpec, hookimpl
from negplug.contract.ids import comparable_ids
from negplug.contract.negatives import Columns, Negatives, enumerated, total_counts
from negplug.contract.sampler import NegativeSampler
from negplug.kernels.chosen import chosen_similarities
from negplug.kernels.late import known
from negplug.kernels.pool.tiled import product_tiles
from negplug.samplers.common.choosing import (
    ChoosingSampler,
    rows_offered,
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

    def sample(self, batch: ContrastiveBatch) -> Negatives | tuple[Negatives, ...]:
        """Choose from the source's negatives of ``batch``.

        Raises:
            ValueError: If the first training batch, taken for a full one, has fewer than M
                negatives for every anchor. Ragged batches, and those of an evaluation, use what
                there is, with a warning.
        """
        offered = rows_offered("hard", self.source, batch)
        available = total_counts(offered, batch.anchors)
        if not self.availability.exceeded(offered, available, batch.first_step):
            return offered
        return hardest(batch, offered, self.num_negatives)


def hardest(batch: ContrastiveBatch, offered: Sequence[Negatives], count: int) -> Negatives:
    """Return the ``count`` most similar negatives of each anchor as columns, hardest first.

    Args:
        batch: Anchors and their ids.
        offered: Negatives, whole pools or columns; at least one row in all.
        count: M ≥ 1.

    Returns:
        Columns ``[N, M]`` of one pool, masked where an anchor has fewer negatives than M. M is at
        most the number of entries that are offered.
    """
    parts = [_hardest(batch, part, count) for part in offered if len(part.rows)]
    if len(parts) == 1:
        return parts[0]
    # The hardest of all are among the hardest of each pool: no [N, K] of a whole pool.
    return _hardest(batch, enumerated(parts, batch.anchors), count)


@torch.no_grad()
def _hardest(batch: ContrastiveBatch, part: Negatives, count: int) -> Negatives:
    if isinstance(part.choice, Columns):
        anchors, pool = batch.anchors.embeddings, part.rows.embeddings
        every = chosen_similarities(anchors, pool, part.choice.columns)
        if part.mask is not None:
            every = every.masked_fill(~part.mask, -torch.inf)
        similarities, slots = every.topk(min(count, every.shape[1]))
    else:
        similarities, slots = _of_whole_pool(batch, part, min(count, len(part.rows)))
    mask = similarities > -torch.inf
    columns, weight = part.columns_at(slots), part.weight_at(slots)
    return part.chosen(columns, None if known(mask.all()) else mask, weight)


def _of_whole_pool(batch: ContrastiveBatch, part: Negatives, count: int) -> tuple[Tensor, Tensor]:
    """Return the ``count`` largest similarities and their columns, -inf where there are fewer."""
    ids, anchors = comparable_ids(batch.anchors.ids), batch.anchors.embeddings
    best = anchors.new_full((len(ids), count), -torch.inf)
    found = ids.new_zeros(len(ids), count)
    for rows, columns, tile in product_tiles(anchors, part.rows.embeddings):
        tile.masked_fill_(ids[rows, None] == part.rows.ids[columns], -torch.inf)
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
