"""What the Triton programs of a pool have in common: rows, their products, and logits.

Logits are in powers of two, s = c·(⟨a_i, k_j⟩ − 1) + log₂ w_ij with c = log₂e/τ, so that a program
needs ``exp2`` alone. The rows have unit length: less one, the similarities that count are small,
and so is what rounding does to them. Ids are compared inside the tile, so there are no lists of
exclusions.

Import this module only where Triton is installed.
"""

from __future__ import annotations

import triton
import triton.language as tl

LOG2E = tl.constexpr(1.4426950408889634)


@triton.jit
def rows_of(X, place, first, count, width, BD: tl.constexpr):
    """Return some rows of ``X`` ``[count, width]`` from a number on, zeros beyond either end."""
    dim = first + tl.arange(0, BD)
    inside = (place[:, None] < count) & (dim[None, :] < width)
    return tl.load(X + place[:, None].to(tl.int64) * width + dim[None, :], mask=inside, other=0.0)


@triton.jit
def wide_products(
    A,
    K,
    row,
    column,
    rows,
    columns,
    width,
    BM: tl.constexpr,
    BN: tl.constexpr,
    BD: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """Return ⟨a_i, k_j⟩ of some rows and columns, block after block; 0 beyond either end."""
    s = tl.zeros([BM, BN], tl.float32)
    for first in range(0, width, BD):
        a = rows_of(A, row, first, rows, width, BD)
        k = rows_of(K, column, first, columns, width, BD)
        s = tl.dot(a, tl.trans(k), s, input_precision=PRECISION)
    return s


@triton.jit
def logits_of(
    products,
    row,
    column,
    row_ids,
    column_ids,
    rows,
    columns,
    Weight,
    weight_row,
    weight_column,
    Mask,
    mask_row,
    mask_column,
    scale,
    WEIGHTED: tl.constexpr,
    MASKED: tl.constexpr,
):
    """Return a tile of weighted logits, -inf where excluded or beyond an end."""
    s = (products - 1.0) * scale
    inside = (row[:, None] < rows) & (column[None, :] < columns)
    serves = inside & (row_ids[:, None] != column_ids[None, :])
    if WEIGHTED:
        at = row[:, None].to(tl.int64) * weight_row + column[None, :].to(tl.int64) * weight_column
        s += tl.load(Weight + at, mask=inside, other=0.0) * LOG2E
    if MASKED:
        at = row[:, None].to(tl.int64) * mask_row + column[None, :].to(tl.int64) * mask_column
        serves &= tl.load(Mask + at, mask=inside, other=0) != 0
    return tl.where(serves, s, float("-inf"))
