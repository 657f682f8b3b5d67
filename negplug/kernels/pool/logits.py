"""What the Triton programs of a pool have in common: rows, their products, and logits.

Logits are in powers of two, s = c·(⟨a_i, k_j⟩ − 1) + log₂ w_ij with c = log₂e/τ, so that a program
needs ``exp2`` alone. The rows have unit length: less one, the similarities that count are small,
and so is what rounding does to them.

Rows of float32 may come as two of float16, x = (h + l)/64 with h = x·64 rounded and l what is left:
their products are three quick ones, ⟨h, h'⟩ + ⟨h, l'⟩ + ⟨l, h'⟩, and ⟨l, l'⟩ is less than float32
would keep. Multiplied by 64, l has its digits above the least number of float16.

Ids are compared inside the tile, so there are no lists of exclusions. Of many rows the least and
the greatest id of each 64 are known: tiles whose spans have nothing in common need not compare,
which takes longer than their products. So it is where ids ascend, as they do in a batch of views.

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
def product(a, a_low, b, b_low, c, SPLIT: tl.constexpr, PRECISION: tl.constexpr):
    """Return c + a @ b, each of which has a lower half where ``SPLIT``."""
    c = tl.dot(a, b, c, input_precision=PRECISION)
    if SPLIT:
        c = tl.dot(a, b_low, c)
        c = tl.dot(a_low, b, c)
    return c


@triton.jit
def weighted(p, b, b_low, c, SPLIT: tl.constexpr):
    """Return c + p @ b of weights, which are rounded, or split, as the rows are."""
    high = p.to(b.dtype)
    low = high
    if SPLIT:
        low = (p - high.to(tl.float32)).to(b.dtype)
    return product(high, low, b, b_low, c, SPLIT, "ieee")


@triton.jit
def wide_products(
    A,
    ALow,
    K,
    KLow,
    row,
    column,
    rows,
    columns,
    width,
    BM: tl.constexpr,
    BN: tl.constexpr,
    BD: tl.constexpr,
    SPLIT: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """Return ⟨a_i, k_j⟩ of some rows and columns, block after block; 0 beyond either end."""
    s = tl.zeros([BM, BN], tl.float32)
    for first in range(0, width, BD):
        a = rows_of(A, row, first, rows, width, BD)
        k = rows_of(K, column, first, columns, width, BD)
        a_low, k_low = a, k
        if SPLIT:
            a_low = rows_of(ALow, row, first, rows, width, BD)
            k_low = rows_of(KLow, column, first, columns, width, BD)
        s = product(a, a_low, tl.trans(k), tl.trans(k_low), s, SPLIT, PRECISION)
    return s


@triton.jit
def span_of(Spans, first, count, LENGTH: tl.constexpr):
    """Return the least and the greatest id of ``LENGTH`` rows from ``first`` on, of ``count``.

    Of fewer than 64 rows they may be those of the 64 among which they are.
    """
    spans = (count + 63) // 64
    least = tl.load(Spans + first // 64)
    greatest = tl.load(Spans + spans + first // 64)
    for more in tl.static_range(1, LENGTH // 64):
        at = tl.minimum(first // 64 + more, spans - 1)
        least = tl.minimum(least, tl.load(Spans + at))
        greatest = tl.maximum(greatest, tl.load(Spans + spans + at))
    return least, greatest


@triton.jit
def may_meet(
    RowSpans,
    ColumnSpans,
    first,
    start,
    rows,
    columns,
    BM: tl.constexpr,
    BN: tl.constexpr,
):
    """Return whether a tile may have equal ids, or lies beyond an end."""
    least, greatest = span_of(RowSpans, first, rows, BM)
    low, high = span_of(ColumnSpans, start, columns, BN)
    beyond = (first + BM > rows) | (start + BN > columns)
    return (least <= high) & (low <= greatest) | beyond


@triton.jit
def logits_of(
    products,
    row,
    column,
    RowIds,
    ColumnIds,
    meet,
    rows,
    columns,
    Weight,
    weight_row,
    weight_column,
    Mask,
    mask_row,
    mask_column,
    scale,
    unit,
    WEIGHTED: tl.constexpr,
    MASKED: tl.constexpr,
    FLAT: tl.constexpr,
):
    """Return a tile of weighted logits, -inf where excluded or beyond an end.

    ``meet`` says whether a row and a column may have the same id, or lie beyond an end. ``unit`` is
    a product of equal rows, and ``scale`` is c by it. ``FLAT`` logits are greater by c.
    """
    if FLAT:
        s = products * scale
    else:
        s = (products - unit) * scale
    if WEIGHTED or MASKED:
        inside = (row[:, None] < rows) & (column[None, :] < columns)
    if WEIGHTED:
        at = row[:, None].to(tl.int64) * weight_row + column[None, :].to(tl.int64) * weight_column
        s += tl.load(Weight + at, mask=inside, other=0.0) * LOG2E
    if MASKED:
        at = row[:, None].to(tl.int64) * mask_row + column[None, :].to(tl.int64) * mask_column
        s = tl.where(tl.load(Mask + at, mask=inside, other=0) != 0, s, float("-inf"))
    if meet:
        row_ids = tl.load(RowIds + row, mask=row < rows, other=0)
        column_ids = tl.load(ColumnIds + column, mask=column < columns, other=0)
        serves = (row[:, None] < rows) & (column[None, :] < columns)
        serves &= row_ids[:, None] != column_ids[None, :]
        s = tl.where(serves, s, float("-inf"))
    return s
