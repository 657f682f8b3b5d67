"""How many negatives matter to an anchor, and how hard they are.

With p_ij = w_ij e^{s_ij/τ} / Σ_k w_ik e^{s_ik/τ} over the negatives of anchor i,

    effective number = 1/Σ_j p_ij² = exp(2 log Σ_j w_ij e^{s_ij/τ} − log Σ_j w_ij² e^{2 s_ij/τ})

(Kish 1965, "Survey Sampling": the effective size of a weighted sample), and the hardness is the
mean similarity ⟨a_i, n_ij⟩ of the negatives that were drawn. Both go over a pool in tiles.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from negplug.contract.batch import ContrastiveBatch
from negplug.contract.ids import comparable_ids
from negplug.contract.negatives import Negatives, Whole, total_counts
from negplug.kernels.pool.tiled import tiles
from negplug.objectives.logits import negative_logsumexp
from negplug.objectives.logits.chosen import chosen_logits
from negplug.objectives.logits.posterior import expected_logit


@torch.no_grad()
def effective_number(
    batch: ContrastiveBatch, negatives: Sequence[Negatives], temperature: float
) -> Tensor:
    """Return the effective number of each anchor's negatives, ``[N]``.

    Between 1, if one of them takes all of the softmax, and their number, if all are alike; 0 for
    an anchor without negatives.

    Args:
        batch: Anchors and ids.
        negatives: Negatives that estimate the denominator.
        temperature: τ > 0.

    Raises:
        ValueError: If the negatives are draws from the softmax: their weights are no logits. The
            samplers that draw them log ``effective_draws``.
    """
    if negatives[0].estimator == "posterior":
        raise ValueError(
            "effective_number takes negatives that estimate the denominator, got draws from the "
            "softmax; see effective_draws among their sampler's metrics"
        )
    total = negative_logsumexp(batch, negatives, temperature)
    squares = negative_logsumexp(batch, [_squared(part) for part in negatives], temperature / 2)
    return (2 * total - squares).exp().where(total > -torch.inf, 0.0)


@torch.no_grad()
def hardness(batch: ContrastiveBatch, negatives: Sequence[Negatives]) -> Tensor:
    """Return the mean similarity of each anchor's negatives, ``[N]`` in [-1, 1].

    Each counts as often as it was drawn: once, whatever its importance weight; draws from the
    softmax by their weight. NaN for an anchor without negatives.

    Args:
        batch: Anchors and ids.
        negatives: Negatives of either estimator.
    """
    number = total_counts(negatives, batch.anchors)
    if negatives[0].estimator == "posterior":
        return expected_logit(batch, negatives, 1.0).where(number > 0, torch.nan)
    total = torch.stack([_summed(batch, part) for part in negatives]).sum(0)
    return total / number  # 0/0 is NaN


def _squared(part: Negatives) -> Negatives:
    """Return the negatives with their weights squared."""
    weight = part.log_weight
    return replace(part, log_weight=None if weight is None else 2 * weight)


def _summed(batch: ContrastiveBatch, part: Negatives) -> Tensor:
    """Return the sum of similarities to the negatives of one pool, ``[N]``."""
    anchors, pool = batch.anchors.embeddings, part.rows.embeddings
    if not isinstance(part.choice, Whole):
        similarities = chosen_logits(anchors, replace(part, log_weight=None), 1.0)
        return similarities.masked_fill(similarities == -torch.inf, 0.0).sum(1)
    ids = comparable_ids(batch.anchors.ids)
    total = anchors.new_zeros(len(anchors))
    for rows, _, tile in tiles(anchors, pool, ids, part.rows.ids, None, part.mask, 1.0):
        total[rows] += tile.masked_fill_(tile == -torch.inf, 0.0).sum(1)
    return total
