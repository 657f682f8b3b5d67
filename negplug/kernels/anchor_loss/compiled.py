"""The loss of each anchor from its one positive by loops, compiled by numba, for few anchors.

Of few anchors an operation of torch costs more than its arithmetic. Import this module only where
numba is installed.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from negplug.kernels.compiling import compiled
from negplug.kernels.loops import product


def compiled_losses(
    anchors: Tensor,
    keys: Tensor,
    positives: Tensor,
    negative: Tensor,
    temperature: float,
    form: str,
    apart: bool,
) -> Tensor:
    """Return the losses; see :func:`negplug.kernels.anchor_loss.anchor_losses`.

    Args:
        anchors: As there.
        keys: As there.
        positives: ``[N, 1]``.
        negative: As there.
        temperature: As there.
        form: Of one positive, all are the same.
        apart: As there.
    """
    losses: Tensor = _Losses.apply(anchors, keys, positives[:, 0], negative, temperature, apart)
    return losses


class _Losses(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        anchors: Tensor,
        keys: Tensor,
        positives: Tensor,
        negative: Tensor,
        temperature: float,
        apart: bool,
    ) -> Tensor:
        columns = positives.contiguous()
        losses, slope = torch.empty_like(negative), torch.empty_like(negative)
        given = anchors, keys, columns, negative
        arrays = [tensor.detach().contiguous().numpy() for tensor in given]
        inside = _write(*arrays, temperature, apart, losses.numpy(), slope.numpy())
        if not inside:
            raise IndexError(f"positives must lie below {len(keys)}, the number of keys")
        ctx.save_for_backward(anchors, keys, columns, slope)
        ctx.temperature = temperature
        # What is stored elsewhere, as by a checkpoint, comes back as two tensors.
        ctx.own_keys = anchors is keys
        return losses

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        anchors, keys, columns, slope = ctx.saved_tensors
        wanted = ctx.needs_input_grad
        to_negative = slope * grad
        # Rows that are their own keys get one sum of both.
        to_anchors = anchors.new_zeros(anchors.shape)
        to_keys = to_anchors if ctx.own_keys else keys.new_zeros(keys.shape)
        given = anchors, keys, columns, to_negative, to_anchors, to_keys
        arrays = [tensor.detach().contiguous().numpy() for tensor in given]
        _pull(*arrays, ctx.temperature, wanted[0], wanted[1])
        own = to_anchors if wanted[0] or ctx.own_keys else None
        others = to_keys if wanted[1] and not ctx.own_keys else None
        return own, others, None, to_negative if wanted[3] else None, None, None


@compiled()
def _write(
    anchors: Any,
    keys: Any,
    columns: Any,
    negative: Any,
    temperature: float,
    apart: bool,
    losses: Any,
    slope: Any,
) -> bool:
    for i in range(len(anchors)):
        column = columns[i]
        if column >= len(keys):
            return False
        x = 0.0
        if column >= 0:
            x = negative[i] - product(anchors[i], keys[column]) / temperature
        if column < 0 or x == -np.inf:
            losses[i] = slope[i] = 0.0
        elif apart:
            losses[i], slope[i] = x, 1.0
        else:
            # Neither exponential overflows; NaN stays NaN.
            small = np.exp(-abs(x))
            losses[i] = np.log1p(small) + max(x, 0.0)
            slope[i] = 1 / (1 + small) if x > 0 else small / (1 + small)
    return True


@compiled()
def _pull(
    anchors: Any,
    keys: Any,
    columns: Any,
    to_negative: Any,
    to_anchors: Any,
    to_keys: Any,
    temperature: float,
    of_anchors: bool,
    of_keys: bool,
) -> None:
    for i in range(len(anchors)):
        column = columns[i]
        if column >= 0:
            pull = -to_negative[i] / temperature
            for k in range(anchors.shape[1]):
                if of_anchors:
                    to_anchors[i, k] += pull * keys[column, k]
                if of_keys:
                    to_keys[column, k] += pull * anchors[i, k]
