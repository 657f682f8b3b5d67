"""Log-sum-exp over a pool that needs no gradient: a queue, a bank, momentum keys.

The gradient of ℓ_i concerns anchor i alone, ∂ℓ_i/∂a_i = Σ_j p_ij k_j / τ with p the softmax, so
the forward pass makes it on the way, tile after tile, as FlashAttention does (Dao et al. 2022,
arXiv:2205.14135, algorithm 1). With m the running maximum of the logits, l and c running sums,

    m' = max(m, max_j s_ij)
    l' = e^{m−m'} l + Σ_j e^{s_ij−m'}
    c' = e^{m−m'} c + Σ_j e^{s_ij−m'} k_j

over the tile's columns j; in the end ℓ = m + log l and Σ_j p_ij k_j = c/l.

Nothing is computed twice, the pool is read once and not kept for the backward pass, and memory is
one tile and ``[N, d]``.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from negplug.kernels.pool.tiled import finite, tiles


def frozen_logsumexp(
    anchors: Tensor,
    pool: Tensor,
    anchor_ids: Tensor,
    pool_ids: Tensor,
    temperature: float,
    log_weight: Tensor | None = None,
    mask: Tensor | None = None,
) -> Tensor:
    """Return ℓ, without gradient to the pool; see :func:`negplug.kernels.pool.pool_logsumexp`."""
    value: Tensor = _FrozenLogSumExp.apply(
        anchors, pool, anchor_ids, pool_ids, temperature, log_weight, mask
    )
    return value


def streamed_sums(
    anchors: Tensor,
    pool: Tensor,
    anchor_ids: Tensor,
    pool_ids: Tensor,
    log_weight: Tensor | None,
    mask: Tensor | None,
    temperature: float,
    means: bool,
) -> tuple[Tensor, Tensor | None]:
    """Return ℓ ``[N]`` and, if they are asked for, the means Σ_j p_ij k_j ``[N, d]``; see above."""
    mean = torch.empty_like(anchors) if means else None
    if not len(pool):
        return anchors.new_full((len(anchors),), -torch.inf), None if mean is None else mean.zero_()
    # Each row block's first tile writes to them.
    highest, sums = anchors.new_empty(2, len(anchors))
    for rows, columns, tile in tiles(
        anchors, pool, anchor_ids, pool_ids, log_weight, mask, temperature
    ):
        first = columns.start == 0
        if first:
            after = torch.amax(tile, 1, out=highest[rows])
        else:
            before, after = highest[rows].clone(), highest[rows]
            torch.maximum(before, tile.amax(1), out=after)
        # exp(-inf) = 0: where there is no negative yet, there is nothing to sum.
        shift = finite(after)
        tile.sub_(shift[:, None]).exp_()
        if first:
            torch.sum(tile, 1, out=sums[rows])
        else:
            faded = (before - shift).exp_()
            sums[rows] = faded * sums[rows] + tile.sum(1)
            if mean is not None:
                mean[rows] *= faded[:, None]
        if mean is not None:
            # Of what is there before the first tile, nothing is read.
            mean[rows].addmm_(tile, pool[columns], beta=int(not first))
    if mean is not None:
        mean /= sums.clamp(min=torch.finfo(sums.dtype).tiny)[:, None]
    return highest + sums.log(), mean


class _FrozenLogSumExp(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        anchors: Tensor,
        pool: Tensor,
        anchor_ids: Tensor,
        pool_ids: Tensor,
        temperature: float,
        log_weight: Tensor | None,
        mask: Tensor | None,
    ) -> Tensor:
        question = (anchor_ids, pool_ids, log_weight, mask, temperature)
        total, mean = streamed_sums(anchors, pool, *question, means=ctx.needs_input_grad[0])
        ctx.save_for_backward(mean)
        ctx.temperature = temperature
        return total

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        (mean,) = ctx.saved_tensors
        return mean * (grad / ctx.temperature)[:, None], None, None, None, None, None, None
