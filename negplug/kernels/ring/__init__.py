"""Log-sum-exp over the keys of all ranks, which go around a ring of ranks in blocks.

    ℓ_i = log Σ_r Σ_{j of rank r: id_j ≠ id_i} exp(⟨a_i, k_j⟩/τ)

Each rank begins with its own keys and hands them to the next rank while it computes with them; so
every block passes every rank (ring attention; for this loss Inf-CL, Cheng et al. 2024,
arXiv:2410.17243). Blocks are merged by a running maximum m and running sums l and c: a block of
log-sum-exp v and slope u = ∂v/∂a gives

    m' = max(m, v),   l' = e^{m−m'} l + e^{v−m'},   c' = e^{m−m'} c + e^{v−m'} u,

and in the end ℓ = m + log l, ∂ℓ/∂a = c/l. In the backward pass the blocks go around again, each
with its gradient

    ∂L/∂k_j = Σ_ranks (1/τ) Σ_i g_i e^{s_ij − ℓ_i} a_i,      g_i = ∂L/∂ℓ_i,

to which every rank adds the terms of its anchors i, until it is back where it came from.

Nothing materialises ``[N, K]``, and no rank holds more than two blocks of other ranks' keys: the
one it computes with and the one that arrives. Blocks and gradients travel while a rank computes.

- :mod:`negplug.kernels.ring.passing`: who sends what to whom;
- :mod:`negplug.kernels.ring.tiled`: a block in torch operations, on any device;
- :mod:`negplug.kernels.ring.fused`: a block in the Triton programs of a pool, on a GPU;
- :mod:`negplug.kernels.ring.reference`: a block by its definition.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from negplug.kernels.announcing import Purpose, announce_gradient
from negplug.kernels.choice import Kernel, Operation, lazily, triton_refusal
from negplug.kernels.distributed import agree_on_rows
from negplug.kernels.pool.tiled import finite
from negplug.kernels.precision import under_autocast
from negplug.kernels.ring.passing import Returning, circulating
from negplug.kernels.ring.reference import full_gradient, full_sums
from negplug.kernels.ring.tiled import tiled_gradient, tiled_sums

__all__ = ["BLOCK_GRADIENT", "BLOCK_SUMS", "ring_logsumexp"]


BLOCK_SUMS: Operation[None] = Operation(
    "log-sum-exp over a block",
    None,
    (
        Kernel("triton", lazily("ring.fused", "fused_sums"), triton_refusal),
        Kernel("torch", lambda: tiled_sums),
        Kernel("reference", lambda: full_sums),
    ),
)
"""``(anchors, block, anchor_ids, block_ids, temperature, half, slopes)`` → (v ``[N]``, u ``[N, d]``
or None)."""

BLOCK_GRADIENT: Operation[None] = Operation(
    "gradient of a block",
    None,
    (
        Kernel("triton", lazily("ring.fused", "fused_gradient"), triton_refusal),
        Kernel("torch", lambda: tiled_gradient),
        Kernel("reference", lambda: full_gradient),
    ),
)
"""``(anchors, block, anchor_ids, block_ids, temperature, half, total, grad)`` → ``[n, d]``, what
the anchors add to the gradient of a block, with ℓ ``[N]`` and g ``[N]``."""


def ring_logsumexp(
    anchors: Tensor, keys: Tensor, anchor_ids: Tensor, key_ids: Tensor, temperature: float
) -> tuple[Tensor, Tensor]:
    """Return ℓ ``[N]`` of this rank's anchors, and a token, a zero to be added to the loss.

    Every rank calls it, and the backward pass is a collective too; the token makes it run whatever
    a loss uses. ℓ is -inf (with no gradient) for an anchor without negatives.

    Args:
        anchors: ``[N, d]``, float32 or float64; any number on each rank.
        keys: This rank's, ``[n, d]``; any number on each rank.
        anchor_ids: ``[N]`` int64, comparable with ``==`` (an unknown anchor is not -1).
        key_ids: ``[n]`` int64.
        temperature: τ > 0.

    Raises:
        RanksError: If the width or type of the keys differs between ranks, if only some of them
            carry gradient, or if a rank has failed; on every rank, so that none is left waiting.
    """
    sizes = agree_on_rows(Purpose.RING, keys, 1)
    total, token = _RingLogSumExp.apply(anchors, keys, anchor_ids, key_ids, temperature, sizes)
    return total, token


class _RingLogSumExp(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        anchors: Tensor,
        keys: Tensor,
        anchor_ids: Tensor,
        key_ids: Tensor,
        temperature: float,
        sizes: tuple[int, ...],
    ) -> tuple[Tensor, Tensor]:
        a, slopes, half = anchors.detach(), ctx.needs_input_grad[0], under_autocast()
        kernel = BLOCK_SUMS.kernel(a.device, None)
        highest = a.new_full((len(a),), -torch.inf)
        sums, slope = torch.zeros_like(highest), torch.zeros_like(a) if slopes else None
        for block, ids in circulating(keys.detach(), key_ids, sizes):
            value, own = kernel(a, block, anchor_ids, ids, temperature, half, slopes)
            before, highest = highest, torch.maximum(highest, value)
            # exp(-inf) = 0: where there is no negative yet, there is nothing to sum.
            shift = finite(highest)
            faded, share = (before - shift).exp_(), (value - shift).exp_()
            sums = sums.mul_(faded).add_(share)
            if slope is not None:
                slope.mul_(faded[:, None]).addcmul_(own, share[:, None])
            del block, own  # before the next but one arrives
        if slope is not None:
            slope /= sums.clamp(min=torch.finfo(sums.dtype).tiny)[:, None]
        total = highest + sums.log()
        ctx.save_for_backward(anchors, keys, anchor_ids, key_ids, total, slope)
        ctx.question = (temperature, half)
        ctx.sizes = sizes
        return total, total.new_zeros(())

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
        anchors, keys, anchor_ids, key_ids, total, slope = ctx.saved_tensors
        grad_anchors = None if slope is None else slope * grad[:, None]
        if not ctx.needs_input_grad[1]:  # on no rank
            return grad_anchors, *[None] * 5
        announce_gradient(keys.device)
        a, kernel = anchors.detach(), BLOCK_GRADIENT.kernel(anchors.device, None)
        returning = Returning(keys, ctx.sizes)
        for block, ids in circulating(keys.detach(), key_ids, ctx.sizes):
            returning.add(kernel(a, block, anchor_ids, ids, *ctx.question, total, grad))
            del block
        return grad_anchors, returning.home(), *[None] * 4
