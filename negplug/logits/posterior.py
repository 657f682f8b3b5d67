"""The expected logit of draws from the softmax, Σ_r w_r s(Z_r)/τ.

For draws Z_r of weights w_r that estimate p_i, the softmax over all negatives of anchor i, it has
the gradient of the log-partition, in both arguments (Yau et al. 2024, arXiv:2404.10575,
equation 3):

    ∇ log Σ_j e^{s_ij/τ} = E_{j ~ p_i} ∇ s_ij/τ ≈ Σ_r w_r ∇ s(Z_r)/τ.

Over a whole pool it is ⟨a_i, Σ_j w_ij k_j⟩/τ: one product with the weights forward, one per
argument backward.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from negplug.batch import ContrastiveBatch
from negplug.exclusion import BEYOND, columns_with_same_id
from negplug.kernels.chosen import chosen_similarities
from negplug.negatives import Negatives


def expected_logit(batch: ContrastiveBatch, negatives: Negatives, temperature: float) -> Tensor:
    """Return Σ_r w_r s(Z_r)/τ of each anchor, ``[N]``; -inf (and no gradient) without draws.

    Args:
        batch: Anchors and ids.
        negatives: Draws with the ``"posterior"`` estimator; the weights of an anchor's sum to one.
        temperature: τ > 0.
    """
    parts = [(part, _weights(batch, part)) for part in negatives.parts()]
    total = torch.stack([_weighted(batch, part, weight) for part, weight in parts]).sum(0)
    weights = torch.stack([weight.sum(1) for _, weight in parts]).sum(0)
    return (total / temperature).masked_fill(weights == 0, -torch.inf)


def _weighted(batch: ContrastiveBatch, part: Negatives, weight: Tensor) -> Tensor:
    if part.columns is None:
        similarities: Tensor = _MeanSimilarity.apply(batch.anchors, part.pool, weight)
        return similarities
    similarities = chosen_similarities(batch.anchors, part.pool, part.columns, part.mask)
    # Where only the mask hides a row its value is arbitrary, so not 0 · NaN.
    return torch.where(weight > 0, weight * similarities, 0.0).sum(1)


@torch.no_grad()
def _weights(batch: ContrastiveBatch, part: Negatives) -> Tensor:
    """Return ``[N, M]``, or ``[N, K]`` for a whole pool; 0 where there is no draw."""
    shape = (len(batch.anchors), len(part.pool) if part.columns is None else part.columns.shape[1])
    log_weight = batch.anchors.new_zeros(1, 1) if part.log_weight is None else part.log_weight
    # Below the least normal number a CPU's exp takes fifty times as long; and what the mask hides
    # may be anything, so not 0 · inf.
    least = math.log(torch.finfo(log_weight.dtype).tiny) + 1
    weight = log_weight.clamp(min=least, max=-least).exp_()
    if weight.shape != shape:
        weight = weight.expand(shape).clone()
    if part.mask is not None:
        # A product: a CPU takes many times as long to choose by a random mask.
        weight.mul_(part.mask)
    if part.columns is None:
        own, _ = columns_with_same_id(batch.anchor_ids, part.pool_ids)
        anchor, slot = (own != BEYOND).nonzero(as_tuple=True)
        weight[anchor, own[anchor, slot]] = 0.0
    return weight


class _MeanSimilarity(torch.autograd.Function):
    """⟨a_i, Σ_j w_ij k_j⟩ of anchors ``[N, d]``, a pool ``[K, d]`` and weights ``[N, K]``."""

    @staticmethod
    def forward(ctx: Any, anchors: Tensor, pool: Tensor, weight: Tensor) -> Tensor:
        mean = weight @ pool
        ctx.save_for_backward(anchors, weight, mean)
        return (mean * anchors).sum(1)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None, None]:
        anchors, weight, mean = ctx.saved_tensors
        grad = grad[:, None]
        of_anchors = grad * mean if ctx.needs_input_grad[0] else None
        of_pool = weight.T @ (grad * anchors) if ctx.needs_input_grad[1] else None
        return of_anchors, of_pool, None
