"""Log-sum-exp over a whole pool in Triton, for GPUs: a launch for a pass.

The algorithm of :mod:`negplug.kernels.pool.frozen`, with the pool split into parts where the
anchors alone do not fill the device; a second launch merges the parts,

    m = max_p m_p,   l = Σ_p e^{m_p − m} l_p,   c = Σ_p e^{m_p − m} c_p,   ℓ = m + log l

(split as in Dao et al. 2023, "Flash-Decoding"). c/l, over τ, is the anchors' gradient. The pool's
takes a pass over its rows j,

    ∂L/∂k_j = (1/τ) Σ_i g_i e^{s_ij − ℓ_i} a_i,      g_i = ∂L/∂ℓ_i,

and that of a symmetric batch one pass for both sides, with g_i e^{s_ij − ℓ_i} + g_j e^{s_ij − ℓ_j}.
The running maximum makes all of it exact at every temperature, and no sum depends on the order in
which programs run. Products of float32 take three products of float16 each, which are quick and
nearly as exact; three of TF32 ("tf32x3") would not fit into the registers. Under autocast the rows
are rounded to float16, which for numbers below 1 has three bits more than bfloat16 and is as quick;
sums stay float32. Logits are those of :mod:`negplug.kernels.pool.logits`.

Import this module only where Triton is installed.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from negplug.kernels.pool.frozen import frozen_logsumexp
from negplug.kernels.pool.launches import gradient, sums
from negplug.kernels.pool.question import Operand, Question
from negplug.kernels.pool.tiled import tiled_logsumexp
from negplug.kernels.precision import under_autocast


def fused_logsumexp(
    anchors: Tensor,
    pool: Tensor,
    anchor_ids: Tensor,
    pool_ids: Tensor,
    temperature: float,
    log_weight: Tensor | None = None,
    mask: Tensor | None = None,
) -> Tensor:
    """Return ℓ ``[N]``; see :func:`negplug.kernels.pool.pool_logsumexp`."""
    question = (anchor_ids, pool_ids, temperature, log_weight, mask)
    if not _served(anchors):
        # What needs no gradient may be written to before the backward pass, as a queue is.
        tiled = tiled_logsumexp if pool.requires_grad else frozen_logsumexp
        return tiled(anchors, pool, *question)
    value: Tensor = _PoolLogSumExp.apply(anchors, pool, *question)
    return value


def fused_symmetric(anchors: Tensor, ids: Tensor, temperature: float) -> Tensor:
    """Return ℓ ``[N]`` over the anchors themselves, whatever the temperature."""
    if not _served(anchors):
        return tiled_logsumexp(anchors, anchors, ids, ids, temperature)
    value: Tensor = _SymmetricLogSumExp.apply(anchors, ids, temperature)
    return value


def _served(anchors: Tensor) -> bool:
    return anchors.dtype == torch.float32 and anchors.shape[1] > 0


class _PoolLogSumExp(torch.autograd.Function):
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
        question = Question.of(anchor_ids, pool_ids, temperature, log_weight, mask)
        half = under_autocast()
        rows, columns = (Operand.of(each, half) for each in (anchors, pool))
        value, total, mean = sums(rows, columns, question, means=ctx.needs_input_grad[0])
        frozen = not ctx.needs_input_grad[1]
        ctx.save_for_backward(mean, *(() if frozen else (*rows[:2], *columns[:2], total)))
        ctx.question = None if frozen else question
        ctx.kind = rows.kind
        return value

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        mean, *others = ctx.saved_tensors
        grad_anchors = None if mean is None else mean * grad[:, None]
        grad_pool = None
        if ctx.question is not None:
            anchors, anchors_low, pool, pool_low, total = others
            rows = Operand(pool, pool_low, ctx.kind)
            columns = Operand(anchors, anchors_low, ctx.kind)
            grad_pool = gradient(rows, columns, ctx.question.swapped(), total, grad, both=False)
        return grad_anchors, grad_pool, None, None, None, None, None


class _SymmetricLogSumExp(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, z: Tensor, ids: Tensor, temperature: float) -> Tensor:
        question = Question.of(ids, ids, temperature, None, None)
        rows = Operand.of(z, under_autocast())
        value, total, _ = sums(rows, rows, question, means=False)
        ctx.save_for_backward(*rows[:2], total)
        ctx.question = question
        ctx.kind = rows.kind
        return value

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        rows, low, total = ctx.saved_tensors
        operand = Operand(rows, low, ctx.kind)
        return gradient(operand, operand, ctx.question, total, grad, both=True), None, None
