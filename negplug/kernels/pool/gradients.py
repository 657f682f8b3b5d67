"""The Triton program of a pool's gradient: one block of its rows, one part of the anchors each.

Logits are those of :mod:`negplug.kernels.pool.logits`. Of rows wider than a block a program writes
one block: several compute the same logits, for sums of whole rows would fit no registers.

Where ``FLAT``, exponentials of logits fit float32 as they are, and a symmetric batch takes one for
both sides, 2^{s_ij} (g_i 2^{−ℓ_i} + g_j 2^{−ℓ_j}).

Import this module only where Triton is installed.
"""

from __future__ import annotations

import triton
import triton.language as tl

from negplug.kernels.pool.logits import (
    logits_of,
    may_meet,
    product,
    rows_of,
    weighted,
    wide_products,
)


@triton.jit
def gradient_of_part(
    R,
    RLow,
    X,
    XLow,
    RowIds,
    ColumnIds,
    RowSpans,
    ColumnSpans,
    Weight,
    Mask,
    Total,
    Grad,
    Largest,
    Out,
    rows,
    columns,
    width,
    chunk,
    scale,
    unit,
    factor,
    lift,
    weight_column,
    mask_column,
    BM: tl.constexpr,
    BN: tl.constexpr,
    BD: tl.constexpr,
    BLOCKS: tl.constexpr,
    SPLIT: tl.constexpr,
    SPANS: tl.constexpr,
    FLAT: tl.constexpr,
    WEIGHTED: tl.constexpr,
    MASKED: tl.constexpr,
    BOTH: tl.constexpr,
):
    """Write factor · Σ_i g_i 2^{s_ij − ℓ_i} x_i of each row j, over one part of the columns i.

    With ``BOTH`` rows and columns are the same, and the sum is of g_i 2^{s_ij − ℓ_i} +
    g_j 2^{s_ij − ℓ_j}. Of float16, which has few digits near 0, the weights are up to ``lift``, the
    largest |g| being known.
    """
    first, part = tl.program_id(0) * BM, tl.program_id(1)
    row = first + tl.arange(0, BM)
    block = tl.program_id(2) * BD
    if BLOCKS == 1:
        r = rows_of(R, row, 0, rows, width, BD)
        r_low = r
        if SPLIT:
            r_low = rows_of(RLow, row, 0, rows, width, BD)
    up = 1.0
    if R.dtype.element_ty == tl.float16:
        largest = tl.load(Largest)
        up = lift / tl.where(largest > 0, largest, 1.0)
        factor = factor * largest / lift
    if BOTH:
        row_grad = tl.load(Grad + row, mask=row < rows, other=0.0) * up
        row_total = tl.load(Total + row, mask=row < rows, other=0.0)
        row_total = tl.where(row_total == float("-inf"), 0.0, row_total)
        if FLAT:
            row_grad *= tl.exp2(-unit * scale - row_total)
    out = tl.zeros([BM, BD], tl.float32)
    for start in range(part * chunk, tl.minimum((part + 1) * chunk, columns), BN):
        column = start + tl.arange(0, BN)
        x = rows_of(X, column, block, columns, width, BD)
        x_low = x
        if SPLIT:
            x_low = rows_of(XLow, column, block, columns, width, BD)
        if BLOCKS == 1:
            products = tl.zeros([BM, BN], tl.float32)
            products = product(r, r_low, tl.trans(x), tl.trans(x_low), products, SPLIT, "ieee")
        else:
            products = wide_products(
                R, RLow, X, XLow, row, column, rows, columns, width, BM, BN, BD, SPLIT, "ieee"
            )
        grad = tl.load(Grad + column, mask=column < columns, other=0.0) * up
        total = tl.load(Total + column, mask=column < columns, other=0.0)
        total = tl.where(total == float("-inf"), 0.0, total)
        meet = True
        if SPANS:
            meet = may_meet(RowSpans, ColumnSpans, first, start, rows, columns, BM, BN)
        s = logits_of(
            products,
            row,
            column,
            RowIds,
            ColumnIds,
            meet,
            rows,
            columns,
            Weight,
            1,
            weight_column,
            Mask,
            1,
            mask_column,
            scale,
            unit,
            WEIGHTED,
            MASKED,
            FLAT,
        )
        if FLAT:
            grad *= tl.exp2(-unit * scale - total)
            p = tl.exp2(s) * (grad[None, :] + row_grad[:, None])
        else:
            p = tl.exp2(s - total[None, :]) * grad[None, :]
            if BOTH:
                p += tl.exp2(s - row_total[:, None]) * row_grad[:, None]
        out = weighted(p, x, x_low, out, SPLIT)
    dim = block + tl.arange(0, BD)
    inside = (row[:, None] < rows) & (dim[None, :] < width)
    at = (part.to(tl.int64) * rows + row)[:, None] * width + dim[None, :]
    tl.store(Out + at, out * factor, mask=inside)
