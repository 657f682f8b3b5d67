"""Rows of unit length, u = z/‖z‖, accurate and lean.

The forward pass works in float64: a norm rounded to float32 would scale a whole row of logits,
which at τ = 0.02 is the largest error of the gradient. For the backward pass,

    ∂L/∂z = (g − ⟨g, u⟩ u) / ‖z‖,

the rounded rows and norms suffice, so no float64 copy is kept. Both passes go through a few rows
at a time, and views are written to their place in one tensor: on a CPU fresh temporaries of a
large batch's size cost more than the arithmetic.

A row shorter than 1e-12 has no direction and gets no gradient, of whatever type it is; that of
``torch.nn.functional.normalize`` would be 1e12 times the unit row's. A row of float16 that is
shorter than 2⁻¹⁰, where its digits are few, gets the gradient of a row of that length, which stays
finite.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from negplug.kernels.precision import widest

# At a time: what stays in a core's cache, and on other devices is worth a kernel launch.
_ROWS = {"cpu": 1024}
_ROWS_ELSEWHERE = 2**14

# As torch.nn.functional.normalize: a zero row stays zero.
_SHORTEST = 1e-12
_SHORTEST_HALF = 2.0**-10


def unit_rows(*parts: Tensor) -> Tensor:
    """Return rows of unit length, ``[N, d]``, in float32 or better.

    Args:
        *parts: ``[n, d]`` each; their rows follow one another.
    """
    unit: Tensor = _UnitRows.apply(*parts)
    return unit


class _UnitRows(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, *parts: Tensor) -> Tensor:
        ctx.dtypes = [part.dtype for part in parts]
        ctx.lengths = [len(part) for part in parts]
        dtype = functools.reduce(torch.promote_types, ctx.dtypes, torch.float32)
        unit = parts[0].new_empty(sum(ctx.lengths), parts[0].shape[1], dtype=dtype)
        norm = unit.new_empty(len(unit), 1)
        places = (torch.split(whole, ctx.lengths) for whole in (unit, norm))
        for part, units, norms in zip(parts, *places, strict=True):
            _write(part, units, norms)
        ctx.save_for_backward(unit, norm)
        return unit

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        unit, norm = ctx.saved_tensors
        wholes = (torch.split(whole, ctx.lengths) for whole in (grad, unit, norm))
        return tuple(
            _gradient(*part) if wanted else None
            for *part, wanted in zip(*wholes, ctx.dtypes, ctx.needs_input_grad, strict=True)
        )


def _write(z: Tensor, unit: Tensor, norm: Tensor) -> None:
    for rows, units, norms in _blocks(z, unit, norm):
        wide = rows.to(widest(rows.device))
        length = torch.linalg.vector_norm(wide, dim=1, keepdim=True).clamp_min_(_SHORTEST)
        torch.div(wide, length, out=units)
        # The backward pass divides by it: of rows without a direction nothing is left.
        norms.copy_(torch.threshold(length, _SHORTEST, torch.inf))
        if z.dtype == torch.float16:
            norms.clamp_min_(_SHORTEST_HALF)


def _gradient(grad: Tensor, unit: Tensor, norm: Tensor, dtype: torch.dtype) -> Tensor:
    passed = torch.empty_like(unit, dtype=dtype)
    for grads, units, norms, ours in _blocks(grad, unit, norm, passed):
        along = (grads * units).sum(1, keepdim=True)
        torch.div(torch.addcmul(grads, along, units, value=-1), norms, out=ours)
    return passed


def _blocks(*wholes: Tensor) -> Iterator[tuple[Tensor, ...]]:
    """Yield the same few rows of each tensor, and then the next ones."""
    width = _ROWS.get(wholes[0].device.type, _ROWS_ELSEWHERE)
    return zip(*(torch.split(whole, width) for whole in wholes), strict=True)
