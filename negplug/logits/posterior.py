"""The expected logit of draws from the softmax, Σ_r w_r s(Z_r)/τ.

For draws Z_r of weights w_r that estimate p_i, the softmax over all negatives of anchor i, it has
the gradient of the log-partition, in both arguments (Yau et al. 2024, arXiv:2404.10575,
equation 3):

    ∇ log Σ_j e^{s_ij/τ} = E_{j ~ p_i} ∇ s_ij/τ ≈ Σ_r w_r ∇ s(Z_r)/τ.

Over a whole pool it is ⟨a_i, Σ_j w_ij k_j⟩/τ: one product with the weights forward, one per
argument backward.
"""

from __future__ import annotations

import torch
from torch import Tensor

from negplug.batch import ContrastiveBatch
from negplug.exclusion import comparable_ids
from negplug.kernels.chosen import chosen_similarities
from negplug.negatives import Negatives


def expected_logit(batch: ContrastiveBatch, negatives: Negatives, temperature: float) -> Tensor:
    """Return Σ_r w_r s(Z_r)/τ of each anchor, ``[N]``; -inf (and no gradient) without draws.

    Args:
        batch: Anchors and ids.
        negatives: Draws with the ``"posterior"`` estimator; the weights of an anchor's sum to one.
        temperature: τ > 0.
    """
    total = torch.stack([_weighted(batch, part) for part in negatives.parts()]).sum(0)
    return (total / temperature).masked_fill(negatives.counts(batch.anchor_ids) == 0, -torch.inf)


def _weighted(batch: ContrastiveBatch, part: Negatives) -> Tensor:
    weight = _weights(batch, part)
    if part.columns is None:
        return (weight @ part.pool * batch.anchors).sum(1)
    similarities = chosen_similarities(batch.anchors, part.pool, part.columns, part.mask)
    # Where only the mask hides a row its value is arbitrary, so not 0 · NaN.
    return torch.where(weight > 0, weight * similarities, 0.0).sum(1)


def _weights(batch: ContrastiveBatch, part: Negatives) -> Tensor:
    """Return ``[N, M]``, or ``[N, K]`` for a whole pool; 0 where there is no draw."""
    shape = (len(batch.anchors), len(part.pool) if part.columns is None else part.columns.shape[1])
    weight = batch.anchors.new_ones(shape)
    if part.log_weight is not None:
        weight = part.log_weight.exp().expand(shape)
    if part.mask is not None:
        weight = weight.masked_fill(~part.mask, 0.0)
    if part.columns is None:
        own = comparable_ids(batch.anchor_ids)[:, None] == part.pool_ids
        weight = weight.masked_fill(own, 0.0)
    return weight
