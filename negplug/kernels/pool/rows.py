"""Log-sum-exp of rows of logits, such as those of several pools in one denominator.

Its gradient, the softmax, is made in the forward pass, so that the backward pass multiplies alone.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from negplug.kernels.pool.tiled import finite


def row_logsumexp(logits: Tensor) -> Tensor:
    """Return the log-sum-exp of each row; -inf with zero gradient for a row of nothing but -inf."""
    value: Tensor = _RowLogSumExp.apply(logits)
    return value


class _RowLogSumExp(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, logits: Tensor) -> Tensor:
        highest = logits.amax(1)
        # exp(-inf) = 0: a row of nothing but -inf has nothing to sum.
        exponentials = (logits - finite(highest)[:, None]).exp_()
        sums = exponentials.sum(1)
        ctx.save_for_backward(exponentials, sums)
        return sums.log().add_(highest)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        exponentials, sums = ctx.saved_tensors
        # The sum is 1 or more, but for a row of nothing.
        passed: Tensor = exponentials * (grad / sums.clamp(min=1))[:, None]
        return passed
