"""The expected logit of weighted draws, Σ_r w_r ⟨a_i, Z_r⟩/τ, and its gradient.

With the weighted mean of the drawn rows it is one product,

    z̄_i = Σ_r w_ir Z_r,   e_i = ⟨a_i, z̄_i⟩/τ,   ∂e_i/∂a_i = z̄_i/τ,   ∂e_i/∂Z_r = w_ir a_i/τ,

so that means and weights are all that the backward pass needs.

Kernels of the steps around the products: :mod:`negplug.kernels.posterior.fused`, in Triton, on a
GPU; :mod:`negplug.kernels.posterior.compiled`, loops in numba, for few draws on the CPU;
:mod:`negplug.kernels.posterior.plain`, in torch operations, on any device.
"""

from __future__ import annotations

from collections.abc import Sequence
from types import ModuleType
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from negplug.kernels.choice import Kernel, Operation, numba_refusal, triton_refusal
from negplug.kernels.posterior import plain
from negplug.kernels.posterior.draws import WeightedDraws

__all__ = ["POSTERIOR", "WeightedDraws", "expectation"]


def _plain() -> ModuleType:
    return plain


def _fused() -> ModuleType:
    from negplug.kernels.posterior import fused

    return fused


def _compiled() -> ModuleType:
    from negplug.kernels.posterior import compiled

    return compiled


# Entries of all anchors, and numbers of all anchors: beyond, operations of torch cost less.
_FEW_ENTRIES = 2**12
_FEW_NUMBERS = 2**15


class Sizes(NamedTuple):
    """N anchors of d numbers, and the most entries that a pool has for each."""

    anchors: int
    width: int
    entries: int


def _for_loops(sizes: Sizes) -> bool:
    few = sizes.anchors * sizes.entries <= _FEW_ENTRIES
    return few and sizes.anchors * sizes.width <= _FEW_NUMBERS


POSTERIOR: Operation[Sizes] = Operation(
    "expected logits",
    Sizes(512, 128, 512),
    (
        Kernel("triton", lambda: _fused, triton_refusal),
        Kernel("numba", lambda: _compiled, numba_refusal, _for_loops),
        Kernel("torch", lambda: _plain),
    ),
)


def expectation(
    anchors: Tensor, pools: Sequence[Tensor], draws: Sequence[WeightedDraws], temperature: float
) -> Tensor:
    """Return the expected logit of each anchor, ``[N]``; -inf without gradient where none is drawn.

    Args:
        anchors: ``[N, d]``.
        pools: ``[K, d]`` each.
        draws: Of each pool; an anchor's weights sum to one over all of them.
        temperature: τ > 0.
    """
    value: Tensor = _Expectation.apply(anchors, draws, temperature, *pools)
    return value


class _Expectation(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        anchors: Tensor,
        draws: Sequence[WeightedDraws],
        temperature: float,
        *pools: Tensor,
    ) -> Tensor:
        count, width = anchors.shape
        entries = [
            len(pool) if drawn.columns is None else drawn.columns.shape[1]
            for pool, drawn in zip(pools, draws, strict=True)
        ]
        kernel: Any = POSTERIOR.kernel(anchors.device, Sizes(count, width, max(entries)))()
        weights, total = [], None
        mean: Tensor | None = None
        for pool, drawn, number in zip(pools, draws, entries, strict=True):
            shape = count, number
            weight, total = kernel.weights(drawn, shape, pool, total)
            weights.append(weight)
            if drawn.columns is not None:
                mean = kernel.added(mean, weight, drawn.columns, pool)
            else:
                mean = weight @ pool if mean is None else mean.addmm(weight, pool)
        assert mean is not None
        assert total is not None
        value: Tensor = kernel.products(anchors, mean, total, temperature)
        ctx.kernel, ctx.temperature = kernel, temperature
        wanted = ctx.needs_input_grad[3:]
        ctx.columns = [drawn.columns for drawn in draws]
        kept = zip(weights, pools, draws, wanted, strict=True)
        saved = [
            (weight, pool if drawn.columns is not None else None) if wants else (None, None)
            for weight, pool, drawn, wants in kept
        ]
        some = anchors if any(wanted) else None
        ctx.save_for_backward(mean, total, some, *(one for pair in saved for one in pair))
        return value

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Any, ...]:
        mean, total, anchors, *saved = ctx.saved_tensors
        to_anchors, scaled = ctx.kernel.gradients(grad, mean, total, anchors, ctx.temperature)
        to_pools: list[Tensor | None] = []
        for weight, pool, columns in zip(saved[::2], saved[1::2], ctx.columns, strict=True):
            if weight is None:
                to_pools.append(None)
            elif columns is None:
                # Into a tensor: autocast, of a backward pass inside of it, leaves that in peace.
                room = scaled.new_empty(weight.shape[1], scaled.shape[1])
                to_pools.append(torch.mm(weight.T, scaled, out=room))
            else:
                to_pools.append(plain.gradient_of_columns(weight, columns, pool, scaled))
        return to_anchors if ctx.needs_input_grad[0] else None, None, None, *to_pools
