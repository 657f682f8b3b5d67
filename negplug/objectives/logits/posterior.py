"""The expected logit of draws from the softmax, Σ_r w_r s(Z_r)/τ.

For draws Z_r of weights w_r that estimate p_i, the softmax over all negatives of anchor i, it has
the gradient of the log-partition, in both arguments (Yau et al. 2024, arXiv:2404.10575,
equation 3):

    ∇ log Σ_j e^{s_ij/τ} = E_{j ~ p_i} ∇ s_ij/τ ≈ Σ_r w_r ∇ s(Z_r)/τ.

It is ⟨a_i, Σ_r w_r Z_r⟩/τ, over a whole pool one product with the weights forward and, if the pool
has a gradient, one backward.
"""

from __future__ import annotations

import functools
import math

import torch
from torch import Tensor
from torch.nn.functional import embedding_bag

from negplug.contract.batch import ContrastiveBatch
from negplug.contract.negatives import Negatives


def expected_logit(batch: ContrastiveBatch, negatives: Negatives, temperature: float) -> Tensor:
    """Return Σ_r w_r s(Z_r)/τ of each anchor, ``[N]``; -inf (and no gradient) without draws.

    Args:
        batch: Anchors and ids.
        negatives: Draws with the ``"posterior"`` estimator; the weights of an anchor's sum to one.
        temperature: τ > 0.
    """
    parts = [(part, _weights(batch, part)) for part in negatives.parts()]
    mean = functools.reduce(torch.add, (_weighted(*part) for part in parts))
    weights = functools.reduce(torch.add, (weight.sum(1) for _, weight in parts))
    total = (batch.anchors * mean).sum(1)
    return (total / temperature).masked_fill(weights == 0, -torch.inf)


def _weighted(part: Negatives, weight: Tensor) -> Tensor:
    """Return Σ_j w_ij k_j, ``[N, d]``."""
    if part.columns is None:
        return weight @ part.pool
    return embedding_bag(part.columns, part.pool, per_sample_weights=weight, mode="sum")


@torch.no_grad()
def _weights(batch: ContrastiveBatch, part: Negatives) -> Tensor:
    """Return ``[N, M]``, or ``[N, K]`` for a whole pool; 0 where there is no draw."""
    shape = (len(batch.anchors), len(part.pool) if part.columns is None else part.columns.shape[1])
    log_weight = part.pool.new_zeros(1, 1) if part.log_weight is None else part.log_weight
    tiny = torch.finfo(part.pool.dtype).tiny
    # Below the least normal number a CPU's exp takes fifty times as long.
    least = math.log(tiny) + 1
    weight = log_weight.to(part.pool.dtype).clamp(min=least, max=-least).exp_()
    torch.threshold_(weight, 4 * tiny, 0.0)
    if weight.shape != shape:
        weight = weight.expand(shape).clone()
    if part.mask is not None:
        weight.masked_fill_(~part.mask, 0.0)
    if part.columns is None:
        weight[batch.excluded_pairs(part.pool_ids)] = 0.0
    return weight
