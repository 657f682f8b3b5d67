"""Weights, means and products of draws in torch operations.

See :mod:`negplug.kernels.posterior`.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn.functional import embedding_bag

from negplug.kernels.posterior.draws import WeightedDraws


def weights(
    drawn: WeightedDraws, shape: tuple[int, int], pool: Tensor, total: Tensor | None
) -> tuple[Tensor, Tensor]:
    """Return the weights of entries ``[N, E]``, 0 where nothing is drawn, and their sums.

    Args:
        drawn: The draws.
        shape: N and E.
        pool: Says in what type.
        total: ``[N]``, of other pools, which is added; None of none.
    """
    log_weight = pool.new_zeros(1, 1) if drawn.log_weight is None else drawn.log_weight
    tiny = torch.finfo(pool.dtype).tiny
    # Below the least normal number a CPU's exp takes fifty times as long.
    least = math.log(tiny) + 1
    weight = log_weight.to(pool.dtype).clamp(min=least, max=-least).exp_()
    torch.threshold_(weight, 4 * tiny, 0.0)
    if weight.shape != shape:
        weight = weight.expand(shape).clone()
    if drawn.mask is not None:
        weight.masked_fill_(~drawn.mask, 0.0)
    if drawn.ids is not None:
        anchor_ids, row_ids = drawn.ids
        weight.masked_fill_(anchor_ids[:, None] == row_ids, 0.0)
    if drawn.pairs is not None:
        weight[drawn.pairs] = 0.0
    sums = weight.sum(1)
    return weight, sums if total is None else sums.add_(total)


def added(mean: Tensor | None, weight: Tensor, columns: Tensor, pool: Tensor) -> Tensor:
    """Return ``mean`` ``[N, d]`` plus the weighted rows of some columns."""
    more = embedding_bag(columns, pool, per_sample_weights=weight, mode="sum")
    return more if mean is None else mean.add_(more)


def products(anchors: Tensor, mean: Tensor, total: Tensor, temperature: float) -> Tensor:
    """Return ⟨a_i, z̄_i⟩/τ ``[N]``, -inf where the total is 0."""
    return (anchors * mean).sum(1).div_(temperature).masked_fill_(total == 0, -torch.inf)


def gradients(
    grad: Tensor, mean: Tensor, total: Tensor, anchors: Tensor | None, temperature: float
) -> tuple[Tensor, Tensor | None]:
    """Return g_i z̄_i/τ, and g_i a_i/τ if there are anchors, ``[N, d]`` each; 0 without draws."""
    scaled = (grad / temperature).masked_fill_(total == 0, 0.0)[:, None]
    return mean * scaled, None if anchors is None else anchors * scaled


def gradient_of_columns(weight: Tensor, columns: Tensor, pool: Tensor, scaled: Tensor) -> Tensor:
    """Return Σ_i w_i g_i a_i/τ of each row ``[K, d]`` of a pool of which columns were drawn."""
    with torch.enable_grad():
        leaf = pool.detach().requires_grad_()
        mean = embedding_bag(columns, leaf, per_sample_weights=weight, mode="sum")
    return torch.autograd.grad(mean, leaf, scaled)[0]
