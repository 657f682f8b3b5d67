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
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.functional import embedding_bag

from negplug.contract.batch import ContrastiveBatch
from negplug.contract.exclusion import exclude
from negplug.contract.negatives import Columns, Negatives, Whole


def expected_logit(
    batch: ContrastiveBatch, negatives: Sequence[Negatives], temperature: float
) -> Tensor:
    """Return Σ_r w_r s(Z_r)/τ of each anchor, ``[N]``; -inf (and no gradient) without draws.

    Args:
        batch: Anchors and ids.
        negatives: Draws with the ``"posterior"`` estimator; the weights of an anchor's sum to one.
        temperature: τ > 0.
    """
    parts = [(part, _weights(batch, part)) for part in negatives]
    mean = functools.reduce(torch.add, (_weighted(*part) for part in parts))
    weights = functools.reduce(torch.add, (weight.sum(1) for _, weight in parts))
    total = (batch.anchors.embeddings * mean).sum(1)
    return (total / temperature).masked_fill(weights == 0, -torch.inf)


def _weighted(part: Negatives, weight: Tensor) -> Tensor:
    """Return Σ_j w_ij k_j, ``[N, d]``."""
    pool, choice = part.rows.embeddings, part.choice
    if isinstance(choice, Whole):
        return weight @ pool
    assert isinstance(choice, Columns), "mixtures are never drawn from the softmax"
    return embedding_bag(choice.columns, pool, per_sample_weights=weight, mode="sum")


@torch.no_grad()
def _weights(batch: ContrastiveBatch, part: Negatives) -> Tensor:
    """Return ``[N, M]``, or ``[N, K]`` for a whole pool; 0 where there is no draw."""
    shape, pool = (len(batch.anchors), part.width), part.rows.embeddings
    log_weight = pool.new_zeros(1, 1) if part.log_weight is None else part.log_weight
    tiny = torch.finfo(pool.dtype).tiny
    # Below the least normal number a CPU's exp takes fifty times as long.
    least = math.log(tiny) + 1
    weight = log_weight.to(pool.dtype).clamp(min=least, max=-least).exp_()
    torch.threshold_(weight, 4 * tiny, 0.0)
    if weight.shape != shape:
        weight = weight.expand(shape).clone()
    if part.mask is not None:
        weight.masked_fill_(~part.mask, 0.0)
    if isinstance(part.choice, Whole):
        exclude(batch, part.rows, weight, 0.0)
    return weight
