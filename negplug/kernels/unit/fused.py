"""Rows of unit length in Triton, for GPUs: a launch for a pass of two views.

The arithmetic is that of :mod:`negplug.kernels.unit`: float64 forward, of which each number is used
once, float32 backward.

Import this module only where Triton is installed.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from negplug.kernels.launching import launch
from negplug.kernels.sizes import cdiv, power_of_2
from negplug.kernels.unit.blocked import blocked_unit_rows
from negplug.kernels.unit.programs import gradients_of_views, unit_rows_of_views

# Numbers of a program; a row that is wider does not fit its registers.
_NUMBERS = 2048
_WIDEST = 4096


def fused_unit_rows(*parts: Tensor) -> Tensor:
    """Return rows of unit length; see :func:`negplug.kernels.unit.unit_rows`."""
    served = (torch.float32, torch.float16, torch.bfloat16)
    if parts[0].shape[1] > _WIDEST or any(part.dtype not in served for part in parts):
        return blocked_unit_rows(*parts)
    unit: Tensor = _UnitRows.apply(*parts)
    return unit


class _View(NamedTuple):
    """Some rows of the whole.

    Attributes:
        rows: A tensor of them.
        first: Where in the whole they begin.
        number: How many they are.
    """

    rows: Tensor
    first: int
    number: int


class _UnitRows(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, *parts: Tensor) -> Tensor:
        ctx.dtypes = [part.dtype for part in parts]
        ctx.lengths = [len(part) for part in parts]
        unit = parts[0].new_empty(sum(ctx.lengths), parts[0].shape[1], dtype=torch.float32)
        norm = unit.new_empty(len(unit))
        parts = tuple(part if part.stride(1) == 1 else part.contiguous() for part in parts)
        for one, other in _pairs(parts, ctx.lengths):
            grid, cut = _cut(unit, one, other)
            launch(
                unit_rows_of_views,
                grid,
                one.rows,
                other.rows,
                one.first,
                other.first,
                one.number,
                other.number,
                one.rows.stride(0),
                other.rows.stride(0),
                unit,
                norm,
                unit.shape[1],
                **cut,
            )
        ctx.save_for_backward(unit, norm)
        return unit

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        unit, norm = ctx.saved_tensors
        grad = grad.contiguous()
        out = [
            unit.new_empty(length, unit.shape[1], dtype=dtype) if wanted else None
            for length, dtype, wanted in zip(
                ctx.lengths, ctx.dtypes, ctx.needs_input_grad, strict=True
            )
        ]
        for one, other in _pairs(out, ctx.lengths):
            grid, cut = _cut(unit, one, other)
            launch(
                gradients_of_views,
                grid,
                one.rows,
                other.rows,
                one.first,
                other.first,
                one.number,
                other.number,
                grad,
                unit,
                norm,
                unit.shape[1],
                **cut,
            )
        return tuple(out)


def _pairs(parts: Sequence[Tensor | None], lengths: Sequence[int]) -> list[tuple[_View, _View]]:
    """Return the parts that are there, two by two; an odd one with nothing of its own."""
    views, first = [], 0
    for part, length in zip(parts, lengths, strict=True):
        if part is not None and length:
            views.append(_View(part, first, length))
        first += length
    if len(views) % 2:
        views.append(_View(views[-1].rows, first, 0))
    return list(zip(views[::2], views[1::2], strict=True))


def _cut(unit: Tensor, one: _View, other: _View) -> tuple[tuple[int, int], dict[str, int]]:
    """Return how many programs there are, and how much each does."""
    width = power_of_2(unit.shape[1])
    rows = max(_NUMBERS // width, 1)
    blocks = cdiv(max(one.number, other.number), rows)
    return (blocks, 2 if other.number else 1), {"BM": rows, "BD": width, "num_warps": 4}
