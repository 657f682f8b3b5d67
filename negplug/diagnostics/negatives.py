"""How many negatives matter to an anchor, and how hard they are.

With p_ij = w_ij e^{s_ij/τ} / Σ_k w_ik e^{s_ik/τ} over the negatives of anchor i,

    effective number = 1/Σ_j p_ij² = exp(2 log Σ_j w_ij e^{s_ij/τ} − log Σ_j w_ij² e^{2 s_ij/τ})

(Kish 1965, "Survey Sampling": the effective size of a weighted sample), and the hardness is the
mean similarity ⟨a_i, n_ij⟩ of the negatives that were drawn. Both go over a pool in tiles.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from negplug.contract.batch import ContrastiveBatch
from negplug.contract.ids import comparable_ids
from negplug.contract.negatives import Negatives
from negplug.kernels.pool.tiled import tiles
from negplug.objectives.logits import negative_logsumexp
from negplug.objectives.logits.chosen import chosen_logits
from negplug.objectives.logits.posterior import expected_logit


@torch.no_grad()
def effective_number(batch: ContrastiveBatch, negatives: Negatives, temperature: float) -> Tensor:
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
    if negatives.estimator == "posterior":
        raise ValueError(
            "effective_number takes negatives that estimate the denominator, got draws from the "
            "softmax; see effective_draws among their sampler's metrics"
        )
    total = negative_logsumexp(batch, negatives, temperature)
    squares = negative_logsumexp(batch, _squared(negatives), temperature / 2)
    return (2 * total - squares).exp().where(total > -torch.inf, 0.0)


@torch.no_grad()
def hardness(batch: ContrastiveBatch, negatives: Negatives) -> Tensor:
    """Return the mean similarity of each anchor's negatives, ``[N]`` in [-1, 1].

    Each counts as often as it was drawn: once, whatever its importance weight; draws from the
    softmax by their weight. NaN for an anchor without negatives.

    Args:
        batch: Anchors and ids.
        negatives: Negatives of either estimator.
    """
    number = negatives.counts(batch.anchor_ids)
    if negatives.estimator == "posterior":
        return expected_logit(batch, negatives, 1.0).where(number > 0, torch.nan)
    total = torch.stack([_summed(batch, part) for part in negatives.parts()]).sum(0)
    return total / number  # 0/0 is NaN


def _squared(negatives: Negatives) -> Negatives:
    """Return the negatives with their weights squared."""
    weight = negatives.log_weight
    others = tuple(_squared(other) for other in negatives.others)
    return replace(negatives, log_weight=None if weight is None else 2 * weight, others=others)


def _summed(batch: ContrastiveBatch, part: Negatives) -> Tensor:
    """Return the sum of similarities to the negatives of one pool, ``[N]``."""
    if part.columns is not None:
        similarities = chosen_logits(batch.anchors, replace(part, log_weight=None), 1.0)
        return similarities.masked_fill(similarities == -torch.inf, 0.0).sum(1)
    ids = comparable_ids(batch.anchor_ids)
    total = batch.anchors.new_zeros(len(batch.anchors))
    for rows, _, tile in tiles(batch.anchors, part.pool, ids, part.pool_ids, None, part.mask, 1.0):
        total[rows] += tile.masked_fill_(tile == -torch.inf, 0.0).sum(1)
    return total
