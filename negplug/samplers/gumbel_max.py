"""``gumbel_max(num_negatives=M)``: M exact draws from the softmax over each anchor's negatives.

Source: the negative cache of Lindgren, Reddi, Guo, Kumar, "Efficient training of retrieval models
using negative cache" (NeurIPS 2021), the baseline of EMC² (Yau et al. 2024, arXiv:2404.10575).
With the source's negatives N_i of anchor i, each of the M draws is independently

    Z = argmax_{j ∈ N_i} s_ij/τ + log w_ij + G_j,   G_j ~ Gumbel(0, 1),

which is j with probability p_i(j) ∝ w_ij exp(s_ij/τ). How it is computed, in one pass over the pool
and O((N + K)·d + N·M) memory, is in :mod:`negplug.kernels.softmax_draws`.

Here positives are not drawn, and a draw's row is the one in the pool, which carries gradient only
if it is a key of the batch; the paper has the positive in the softmax and embeds the drawn sample
anew.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import replace

import torch
from torch import Tensor

from negplug.contract.batch import ContrastiveBatch
from negplug.contract.hookspecs import SamplerSpec, hookimpl
from negplug.contract.inputs import check_integer, check_room
from negplug.contract.negatives import Columns, Negatives
from negplug.contract.sampler import NegativeSampler
from negplug.kernels.chosen import chosen_similarities
from negplug.kernels.nearest import which_are_there
from negplug.kernels.softmax_draws import draws_of_logits, softmax_draws
from negplug.samplers.common.choosing import rows_offered
from negplug.samplers.in_batch import InBatch


class GumbelMax(NegativeSampler):
    """M independent draws from the softmax at the loss's temperature, with replacement.

    A negative may be drawn more than once, so M may exceed the number of negatives.

    Args:
        num_negatives: M ≥ 1.
        source: Whose negatives to draw from; the batch's by default.

    Raises:
        TypeError: If an argument has the wrong type.
        ValueError: If ``num_negatives`` < 1.
    """

    def __init__(self, num_negatives: int = 1, source: NegativeSampler | None = None) -> None:
        super().__init__()
        self.num_negatives = check_integer("gumbel_max", "num_negatives", num_negatives, 1)
        self.source = InBatch() if source is None else source
        if not isinstance(self.source, NegativeSampler):
            raise TypeError(f"gumbel_max: source must be a sampler, got {source!r}")
        self.most = num_negatives

    def sample(self, batch: ContrastiveBatch) -> tuple[Negatives, ...]:
        """Draw from the source's negatives of ``batch``, for its temperature.

        An anchor has M draws, or none if the source offers it no negatives. Over several pools,
        a pool's mask says which of the draws are of it.

        Raises:
            ValueError: If the source draws from the softmax, its negatives are no rows of a pool,
                or there is no room for M draws of each anchor.
        """
        parts = rows_offered("gumbel_max", self.source, batch)
        if batch.first_step:
            needed = 40 * len(batch.anchors) * self.num_negatives  # of draws and random numbers
            device = batch.anchors.embeddings.device
            check_room("gumbel_max", "num_negatives", self.num_negatives, needed, device)
        count, random = self.num_negatives, self.random(batch)
        drawn = [_draws_of(batch, part, count, random.new_seed()) for part in parts]
        winner = None
        if len(parts) > 1:
            winner = torch.stack([maxima for _, maxima in drawn]).argmax(0)
        return tuple(
            _chosen(part, *drawn[number], None if winner is None else winner == number)
            for number, part in enumerate(parts)
        )


def _chosen(part: Negatives, slots: Tensor, maxima: Tensor, wins: Tensor | None) -> Negatives:
    """Return the draws that are of one pool; an empty pool stays a whole one.

    Args:
        part: What the pool offers.
        slots: ``[N, M]``, draws from it.
        maxima: ``[N, M]``, those that they attain.
        wins: ``[N, M]``, whether no other pool has a greater one; None of the only pool.
    """
    if not len(part.rows):
        return replace(part, log_weight=None, estimator="posterior")
    mask = which_are_there(maxima if wins is None else maxima.where(wins, -torch.inf))
    weight = part.rows.embeddings.new_full((1, 1), -math.log(slots.shape[1]))
    return replace(part.chosen(part.columns_at(slots), mask, weight), estimator="posterior")


@torch.no_grad()
def _draws_of(
    batch: ContrastiveBatch, part: Negatives, count: int, seed: int | Tensor
) -> tuple[Tensor, Tensor]:
    """Draw from the softmax over one part.

    Returns:
        Places in the part's columns or, of a whole pool, in the pool, ``[N, M]`` int64; and the
        maxima, ``[N, M]``, -inf where there is nothing to draw from.
    """
    anchors, pool = batch.anchors.embeddings, part.rows.embeddings
    weight, mask = part.log_weight, part.mask
    if isinstance(part.choice, Columns):
        logits = chosen_similarities(anchors, pool, part.choice.columns) / batch.temperature
        if weight is not None:
            logits = logits + weight
        if mask is not None:
            logits = logits.masked_fill(~mask, -torch.inf)
        return draws_of_logits(logits, count, seed)
    ids = batch.anchors.ids, part.rows.ids
    return softmax_draws(anchors, pool, *ids, batch.temperature, count, seed, weight, mask)


@hookimpl
def negplug_samplers() -> Iterable[SamplerSpec]:
    """Offer ``gumbel_max``."""
    yield SamplerSpec(
        "gumbel_max",
        GumbelMax,
        "M exact draws from the softmax over the source (negative cache)",
        "Lindgren et al. 2021, NeurIPS",
    )
