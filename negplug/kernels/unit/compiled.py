"""Rows of unit length by loops, compiled by numba, for few rows on the CPU.

Of few rows an operation of torch costs more than its arithmetic.

Import this module only where numba is installed.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from negplug.kernels.compiling import compiled
from negplug.kernels.loops import product
from negplug.kernels.unit.blocked import SHORTEST


def compiled_unit_rows(*parts: Tensor) -> Tensor:
    """Return rows of unit length; see :func:`negplug.kernels.unit.unit_rows`.

    Args:
        *parts: All of them in float32, or in float64.
    """
    unit: Tensor = _UnitRows.apply(*parts)
    return unit


class _UnitRows(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, *parts: Tensor) -> Tensor:
        ctx.lengths = [len(part) for part in parts]
        rows = torch.cat(parts) if len(parts) > 1 else parts[0].detach().contiguous()
        unit, norm = rows.new_empty(rows.shape), rows.new_empty(len(rows))
        _write(rows.numpy(), SHORTEST, unit.numpy(), norm.numpy())
        ctx.save_for_backward(unit, norm)
        return unit

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        unit, norm = ctx.saved_tensors
        passed = unit.new_empty(unit.shape)
        given = grad.contiguous(), unit, norm, passed
        _pass_on(*(tensor.detach().numpy() for tensor in given))
        parts = torch.split(passed, ctx.lengths)
        wanted = ctx.needs_input_grad
        return tuple(part if want else None for part, want in zip(parts, wanted, strict=True))


@compiled()
def _write(rows: Any, shortest: float, unit: Any, norm: Any) -> None:
    for i in range(len(rows)):
        length = np.sqrt(product(rows[i], rows[i]))
        # The backward pass divides by it: of rows without a direction nothing is left.
        norm[i] = np.inf if length <= shortest else length
        # NaN stays NaN.
        divisor = shortest if length < shortest else length
        for k in range(rows.shape[1]):
            unit[i, k] = rows[i, k] / divisor


@compiled()
def _pass_on(grad: Any, unit: Any, norm: Any, passed: Any) -> None:
    for i in range(len(unit)):
        along = product(grad[i], unit[i])
        for k in range(unit.shape[1]):
            passed[i, k] = (grad[i, k] - along * unit[i, k]) / norm[i]
