"""What makes a differentiable function of a kernel's two passes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

Similarities = Callable[[Tensor, Tensor, Tensor, Tensor | None], Tensor]
"""(anchors, pool, columns, mask) → ``[N, M]``, as ``negplug.kernels.chosen`` describes it."""


class Products(Protocol):
    """The forward pass."""

    def __call__(self, anchors: Tensor, pool: Tensor, columns: Tensor) -> Tensor:
        """Return ⟨a_i, k_{c(i,m)}⟩, ``[N, M]``."""


class Gradients(Protocol):
    """The backward pass."""

    def __call__(
        self,
        grad: Tensor,
        anchors: Tensor,
        pool: Tensor,
        columns: Tensor,
        wanted: tuple[bool, bool],
    ) -> tuple[Tensor | None, Tensor | None]:
        """Return the gradients of anchors and pool, as far as they are wanted.

        Args:
            grad: ``[N, M]``, that of the similarities.
            anchors: ``[N, d]``.
            pool: ``[K, d]``. Where it is the very tensor of the anchors, and both gradients are
                wanted, the first may be their sum and the second None.
            columns: ``[N, M]`` int64.
            wanted: Whether the anchors' and the pool's are.
        """


def differentiable(products: Products, gradients: Gradients) -> Similarities:
    """Return the function whose passes these are."""

    def similarities(anchors: Tensor, pool: Tensor, columns: Tensor, mask: Tensor | None) -> Tensor:
        # A slice of a sampler's columns is strided.
        columns = columns.contiguous()
        value: Tensor = _Similarities.apply(products, gradients, anchors, pool, columns, mask)
        return value

    return similarities


class _Similarities(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        products: Products,
        gradients: Gradients,
        anchors: Tensor,
        pool: Tensor,
        columns: Tensor,
        mask: Tensor | None,
    ) -> Tensor:
        ctx.save_for_backward(anchors, pool, columns, mask)
        ctx.gradients = gradients
        ctx.own = pool is anchors
        return products(anchors.contiguous(), pool.contiguous(), columns)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        anchors, pool, columns, mask = ctx.saved_tensors
        if mask is not None:
            grad = grad.masked_fill(~mask, 0.0)
        wanted = (ctx.needs_input_grad[2], ctx.needs_input_grad[3])
        rows = anchors.contiguous()
        keys = rows if ctx.own else pool.contiguous()
        passed = ctx.gradients(grad.contiguous(), rows, keys, columns, wanted)
        return None, None, *passed, None, None
