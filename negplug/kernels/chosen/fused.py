"""Chosen columns in Triton, for GPUs: a launch forward, and two or three and a sort backward.

Forward, each anchor's rows of the pool are read once. They give its similarities, or its
log-sum-exp with a running maximum, exact at every temperature, and on the way the gradient of that,

    ∂ℓ_i/∂a_i = (1/τ) Σ_m p_im k_{c(i,m)},      p_im = w_im e^{s_im/τ − ℓ_i}.

The pool's gradient sums over the pairs of each of its rows,

    ∂L/∂k_j = (1/τ) Σ_{(i,m): c(i,m) = j} g_i p_im a_i,      g_i = ∂L/∂ℓ_i,

which one stable sort of the columns makes neighbours. No sum depends on the order in which programs
run: atomic additions take less time, but a resumed run would not repeat bit for bit.

Import this module only where Triton is installed.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from negplug.kernels.chosen.bags import bag_similarities
from negplug.kernels.chosen.launches import (
    WIDEST,
    Pairs,
    anchor_sums,
    key_sums,
    logsumexp,
    similarities,
)
from negplug.kernels.chosen.reference import weighted_logsumexp


def fused_similarities(
    anchors: Tensor, pool: Tensor, columns: Tensor, mask: Tensor | None
) -> Tensor:
    """Return ⟨a_i, k_{c(i,m)}⟩; see :func:`negplug.kernels.chosen.chosen_similarities`."""
    if not _served(anchors):
        return bag_similarities(anchors, pool, columns, mask)
    value: Tensor = _Similarities.apply(anchors, pool, columns.contiguous(), mask)
    return value


def fused_logsumexp(
    anchors: Tensor,
    pool: Tensor,
    columns: Tensor,
    temperature: float,
    log_weight: Tensor | None,
    mask: Tensor | None,
) -> Tensor:
    """Return ℓ; see :func:`negplug.kernels.chosen.chosen_logsumexp`."""
    if not _served(anchors):
        found = bag_similarities(anchors, pool, columns, mask)
        return weighted_logsumexp(found, temperature, log_weight, mask)
    value: Tensor = _LogSumExp.apply(
        anchors, pool, columns.contiguous(), temperature, log_weight, mask
    )
    return value


def _served(anchors: Tensor) -> bool:
    return anchors.dtype == torch.float32 and 0 < anchors.shape[1] <= WIDEST


class _Similarities(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, anchors: Tensor, pool: Tensor, columns: Tensor, mask: Tensor | None
    ) -> Tensor:
        own = pool is anchors
        anchors = anchors.contiguous()
        pool = anchors if own else pool.contiguous()
        value, pairs = similarities(anchors, pool, columns, mask, any(ctx.needs_input_grad))
        ctx.own = own
        if pairs is not None:
            ctx.save_for_backward(anchors, pool, pairs.keys)
        return value

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        anchors, pool, keys = ctx.saved_tensors
        pairs = Pairs(keys, len(pool))
        of_anchors = anchor_sums(pool, pairs, grad) if ctx.needs_input_grad[0] else None
        return *_both(ctx, of_anchors, anchors, pairs, grad, 1.0), None, None


class _LogSumExp(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        anchors: Tensor,
        pool: Tensor,
        columns: Tensor,
        temperature: float,
        log_weight: Tensor | None,
        mask: Tensor | None,
    ) -> Tensor:
        ctx.own = pool is anchors
        ctx.temperature = temperature
        ctx.number = len(pool)
        anchors, pool = anchors.contiguous(), pool.contiguous()
        value, slope, pairs = logsumexp(
            anchors, pool, columns, temperature, log_weight, mask, *ctx.needs_input_grad[:2]
        )
        if pairs is None:
            ctx.save_for_backward(slope, *([None] * 4))
        else:
            ctx.save_for_backward(slope, anchors, pairs.keys, pairs.logits, pairs.total)
        return value

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        slope, anchors, keys, *of_pairs = ctx.saved_tensors
        pairs = Pairs(keys, ctx.number, *of_pairs)
        of_anchors = None if slope is None else slope * grad[:, None]
        factor = 1.0 / ctx.temperature
        return *_both(ctx, of_anchors, anchors, pairs, grad, factor), *([None] * 4)


def _both(
    ctx: Any,
    of_anchors: Tensor | None,
    anchors: Tensor,
    pairs: Pairs,
    grad: Tensor,
    factor: float,
) -> tuple[Tensor | None, Tensor | None]:
    """Return the gradients of anchors and pool; of a pool that is the anchors, their sum."""
    if not ctx.needs_input_grad[1]:
        return of_anchors, None
    if ctx.own:
        return key_sums(anchors, pairs, grad, factor, of_anchors), None
    return of_anchors, key_sums(anchors, pairs, grad, factor, None)
