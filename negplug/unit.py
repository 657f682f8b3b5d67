"""Rows of unit length, u = z/‖z‖, accurate and lean.

The forward pass works in float64: a norm rounded to float32 would scale a whole row of logits,
which at τ = 0.02 is the largest error of the gradient. For the backward pass,

    ∂L/∂z = (g − ⟨g, u⟩ u) / ‖z‖,

the rounded rows and norms suffice, so no float64 copy is kept.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from negplug.precision import widest

# At a time: their float64 copies stay in a core's cache.
_ROWS = 1024

# As torch.nn.functional.normalize: a zero row stays zero.
_SHORTEST = 1e-12


def unit_rows(z: Tensor) -> Tensor:
    """Return ``z`` ``[N, d]`` with rows of unit length, in float32 or better."""
    unit: Tensor = _UnitRows.apply(z)
    return unit


class _UnitRows(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, z: Tensor) -> Tensor:
        dtype = torch.promote_types(z.dtype, torch.float32)
        unit = torch.empty_like(z, dtype=dtype)
        norm = z.new_empty(len(z), 1, dtype=dtype)
        for start in range(0, len(z), _ROWS):
            rows = slice(start, start + _ROWS)
            wide = z[rows].to(widest(z.device), copy=True)
            length = torch.linalg.vector_norm(wide, dim=1, keepdim=True).clamp_min_(_SHORTEST)
            norm[rows] = length
            unit[rows] = wide.div_(length)
        ctx.save_for_backward(unit, norm)
        ctx.dtype = z.dtype
        return unit

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        unit, norm = ctx.saved_tensors
        along = (grad * unit).sum(1, keepdim=True)
        across: Tensor = torch.addcmul(grad, along, unit, value=-1)
        return across.div_(norm).to(ctx.dtype)
