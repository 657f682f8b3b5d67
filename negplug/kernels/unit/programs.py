"""Triton programs of unit rows: some rows of one of two views each.

Import this module only where Triton is installed.
"""

from __future__ import annotations

import triton
import triton.language as tl

from negplug.kernels.unit.blocked import SHORTEST, SHORTEST_HALF

_SHORTEST = tl.constexpr(SHORTEST)
_SHORTEST_HALF = tl.constexpr(SHORTEST_HALF)


@triton.jit
def _places(first, stride, width, row, count, BD: tl.constexpr):
    """Return where the numbers of some rows are, and which of them exist."""
    dim = tl.arange(0, BD)
    at = (first + row)[:, None].to(tl.int64) * stride + dim[None, :]
    return at, (row[:, None] < count) & (dim[None, :] < width)


@triton.jit
def _unit_rows_of(Z, first, count, stride, Unit, Norm, width, BM: tl.constexpr, BD: tl.constexpr):
    row = tl.program_id(0) * BM + tl.arange(0, BM)
    at, inside = _places(0, stride, width, row, count, BD)
    z = tl.load(Z + at, mask=inside, other=0.0).to(tl.float64)
    length = tl.sqrt(tl.sum(z * z, 1))
    # Comparisons that a NaN passes through.
    short = length <= _SHORTEST
    divisor = tl.where(short, _SHORTEST, length)
    at, _ = _places(first, width, width, row, count, BD)
    tl.store(Unit + at, (z / divisor[:, None]).to(tl.float32), mask=inside)
    divisor = tl.where(short, float("inf"), length)
    if Z.dtype.element_ty == tl.float16:
        divisor = tl.where(divisor < _SHORTEST_HALF, _SHORTEST_HALF, divisor)
    tl.store(Norm + first + row, divisor.to(tl.float32), mask=row < count)


@triton.jit
def unit_rows_of_views(
    Z0,
    Z1,
    first0,
    first1,
    count0,
    count1,
    stride0,
    stride1,
    Unit,
    Norm,
    width,
    BM: tl.constexpr,
    BD: tl.constexpr,
):
    """Write u and what the backward pass divides by, of two views, each to its place.

    A view's rows are ``stride`` numbers apart.
    """
    if tl.program_id(1) == 0:
        _unit_rows_of(Z0, first0, count0, stride0, Unit, Norm, width, BM, BD)
    else:
        _unit_rows_of(Z1, first1, count1, stride1, Unit, Norm, width, BM, BD)


@triton.jit
def _gradient_of(Out, first, count, Grad, Unit, Norm, width, BM: tl.constexpr, BD: tl.constexpr):
    row = tl.program_id(0) * BM + tl.arange(0, BM)
    at, inside = _places(first, width, width, row, count, BD)
    grad = tl.load(Grad + at, mask=inside, other=0.0)
    unit = tl.load(Unit + at, mask=inside, other=0.0)
    norm = tl.load(Norm + first + row, mask=row < count, other=1.0)
    passed = (grad - tl.sum(grad * unit, 1)[:, None] * unit) / norm[:, None]
    at, _ = _places(0, width, width, row, count, BD)
    tl.store(Out + at, passed.to(Out.dtype.element_ty), mask=inside)


@triton.jit
def gradients_of_views(
    Out0,
    Out1,
    first0,
    first1,
    count0,
    count1,
    Grad,
    Unit,
    Norm,
    width,
    BM: tl.constexpr,
    BD: tl.constexpr,
):
    """Write (g − ⟨g, u⟩ u) / ‖z‖ of two views."""
    if tl.program_id(1) == 0:
        _gradient_of(Out0, first0, count0, Grad, Unit, Norm, width, BM, BD)
    else:
        _gradient_of(Out1, first1, count1, Grad, Unit, Norm, width, BM, BD)
