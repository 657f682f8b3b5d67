"""Log-sum-exp over a pool that needs no gradient: a queue, a bank, momentum keys.

The gradient of ℓ_i concerns anchor i alone, ∂ℓ_i/∂a_i = Σ_j p_ij k_j / τ with p the softmax, so
the forward pass makes it on the way, by a running average in the manner of FlashAttention (Dao
et al. 2022, arXiv:2205.14135, algorithm 1), in the log domain:

    ℓ' = logaddexp(ℓ, ℓ_tile),     m' = e^{ℓ − ℓ'} m + Σ_{j ∈ tile} e^{s_ij − ℓ'} k_j.

Nothing is computed twice, the pool is read once and not kept for the backward pass, and memory is
one tile and ``[N, d]``.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from negplug.logits.tiled import tiles


def frozen_logsumexp(
    anchors: Tensor,
    pool: Tensor,
    anchor_ids: Tensor,
    pool_ids: Tensor,
    temperature: float,
    log_weight: Tensor | None = None,
    mask: Tensor | None = None,
) -> Tensor:
    """Return ℓ ``[N]``; -inf (and no gradient) for an anchor without negatives.

    Args:
        anchors: ``[N, d]``.
        pool: ``[K, d]``; gets no gradient.
        anchor_ids: ``[N]`` int64, comparable with ``==`` (an unknown anchor is not -1).
        pool_ids: ``[K]`` int64.
        temperature: τ > 0.
        log_weight: Detached, ``[N|1, K]``.
        mask: ``[N, K]`` bool, True where a row of the pool may serve.
    """
    value: Tensor = _FrozenLogSumExp.apply(
        anchors, pool, anchor_ids, pool_ids, temperature, log_weight, mask
    )
    return value


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
        total = anchors.new_full((len(anchors),), -torch.inf)
        mean = torch.zeros_like(anchors) if ctx.needs_input_grad[0] else None
        for rows, columns, tile in tiles(
            anchors, pool, anchor_ids, pool_ids, log_weight, mask, temperature
        ):
            before = total[rows].clone()
            total[rows] = torch.logaddexp(before, tile.logsumexp(1))
            if mean is not None:
                # exp(-inf − 0) = 0: where there is no negative yet, there is nothing to average.
                shift = total[rows].masked_fill(total[rows] == -torch.inf, 0.0)
                mean[rows] *= (before - shift).exp_()[:, None]
                mean[rows].addmm_(tile.sub_(shift[:, None]).exp_(), pool[columns])
        ctx.save_for_backward(mean)
        ctx.temperature = temperature
        return total

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        (mean,) = ctx.saved_tensors
        return mean * (grad / ctx.temperature)[:, None], None, None, None, None, None, None
