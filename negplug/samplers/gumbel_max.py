"""``gumbel_max(num_negatives=M)``: M exact draws from the softmax over each anchor's negatives.

Source: the negative cache of Lindgren, Reddi, Guo, Kumar, "Efficient training of retrieval models
using negative cache" (NeurIPS 2021), the baseline of EMC² (Yau et al. 2024, arXiv:2404.10575).
With the source's negatives N_i of anchor i, each of the M draws is independently

    Z = argmax_{j ∈ N_i} s_ij/τ + log w_ij + G_j,   G_j ~ Gumbel(0, 1),

which is j with probability p_i(j) ∝ w_ij exp(s_ij/τ). The maximum of Gumbel variables is one again
(max-stability): over the columns j of a tile T,

    max_{j ∈ T} s_ij/τ + log w_ij + G_j = ℓ_T + G,   ℓ_T = log Σ_{j ∈ T} w_ij exp(s_ij/τ),

and which j attains it is independent of the value. So each tile needs one Gumbel per draw, and
where it beats the tiles before it a column from its own softmax, by inversion of the distribution
function. That is one pass over the pool in O((N + K)·d + N·M) memory.

Here positives are not drawn, and a draw's row is the one in the pool, which carries gradient only
if it is a key of the batch; the paper has the positive in the softmax and embeds the drawn sample
anew.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from negplug.contract.batch import ContrastiveBatch
from negplug.contract.hookspecs import SamplerSpec, hookimpl
from negplug.contract.ids import comparable_ids
from negplug.contract.inputs import check_integer, check_room
from negplug.contract.negatives import Columns, Negatives, Whole
from negplug.contract.sampler import NegativeSampler
from negplug.kernels.chosen import chosen_similarities
from negplug.kernels.late import known, places
from negplug.kernels.pool.tiled import tiles
from negplug.kernels.precision import widest
from negplug.kernels.random.numbers import RandomNumbers
from negplug.samplers.common.choosing import rows_offered
from negplug.samplers.in_batch import InBatch

_SHARES = 2.0**42  # of the likeliest column; those of a tile of 1024 add up to at most 2**52


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
        pools, slots = _draws(batch, parts, self.num_negatives, self.random(batch))
        return tuple(_drawn(part, slots, pools == number) for number, part in enumerate(parts))


def _drawn(part: Negatives, slots: Tensor, mine: Tensor) -> Negatives:
    """Return the draws that are of one pool; an empty pool stays a whole one."""
    if not len(part.rows):
        return replace(part, log_weight=None, estimator="posterior")
    slots = slots.where(mine, 0)
    weight = part.rows.embeddings.new_full((1, 1), -math.log(slots.shape[1]))
    drawn = part.chosen(part.columns_at(slots), None if known(mine.all()) else mine, weight)
    return replace(drawn, estimator="posterior")


@torch.no_grad()
def _draws(
    batch: ContrastiveBatch, parts: Sequence[Negatives], count: int, random: RandomNumbers
) -> tuple[Tensor, Tensor]:
    """Draw from the softmax over all parts together.

    Returns:
        The number of each draw's part, -1 where there is nothing to draw from, and its place in
        the part's ``columns`` or, where that is None, in the pool; ``[N, M]`` int64 both.
    """
    shape, device = (len(batch.anchors), count), batch.anchors.embeddings.device
    dtype = widest(device)
    best = torch.full(shape, -torch.inf, dtype=dtype, device=device)
    pools = torch.full(shape, -1, device=device)
    slots = torch.zeros_like(pools)
    for number, part in enumerate(parts):
        for rows, first, logits in _logits(batch, part):
            uniform = random.uniform(2, len(logits), count)
            gumbel = -uniform[0].log().neg().log()
            # A tile without a negative has -inf, which beats nothing.
            value = logits.logsumexp(1, keepdim=True) + gumbel
            beats = value > best[rows]
            best[rows] = torch.where(beats, value, best[rows])
            pools[rows].masked_fill_(beats, number)
            winners = places(beats.any(1))
            if winners is None:
                inside = first + _invert(logits, uniform[1])
                slots[rows] = torch.where(beats, inside, slots[rows])
            else:
                # Fewer from tile to tile.
                inside = first + _invert(logits[winners], uniform[1, winners])
                before = slots[rows]
                before[winners] = torch.where(beats[winners], inside, before[winners])
    return pools, slots


def _logits(batch: ContrastiveBatch, part: Negatives) -> Iterator[tuple[slice, int, Tensor]]:
    """Yield (rows, first slot, tile of weighted logits), -inf where excluded."""
    anchors, pool = batch.anchors.embeddings, part.rows.embeddings
    weight, mask = part.log_weight, part.mask
    if isinstance(part.choice, Whole):
        ids = comparable_ids(batch.anchors.ids)
        if weight is not None:
            weight = weight.expand(-1, len(pool))
        for rows, columns, tile in tiles(
            anchors, pool, ids, part.rows.ids, weight, mask, batch.temperature
        ):
            yield rows, columns.start, tile
    elif isinstance(part.choice, Columns):
        logits = chosen_similarities(anchors, pool, part.choice.columns) / batch.temperature
        if weight is not None:
            logits = logits + weight
        if mask is not None:
            logits = logits.masked_fill(~mask, -torch.inf)
        yield slice(None), 0, logits


def _invert(logits: Tensor, uniform: Tensor) -> Tensor:
    """Return the columns at which the softmax's distribution function first exceeds ``uniform``.

    The shares are integers, whose sums are exact in any order. So a column without a share is
    never returned, and a device that sums in parallel draws the same again.

    Args:
        logits: ``[R, C]``.
        uniform: ``[R, M]`` in [0, 1).

    Returns:
        ``[R, M]`` int64; anything in a row that is -inf throughout.
    """
    shares = (logits - logits.amax(1, keepdim=True)).exp_().mul_(_SHARES).long().cumsum(1)
    # The largest number below 1 times the total rounds to less than the total, in any precision.
    return torch.searchsorted(shares, (uniform * shares[:, -1:]).long(), right=True)


@hookimpl
def negplug_samplers() -> Iterable[SamplerSpec]:
    """Offer ``gumbel_max``."""
    yield SamplerSpec(
        "gumbel_max",
        GumbelMax,
        "M exact draws from the softmax over the source (negative cache)",
        "Lindgren et al. 2021, NeurIPS",
    )
