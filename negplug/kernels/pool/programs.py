"""Triton programs of a pool's log-sum-exp: one row block and one part of the pool each.

Logits are those of :mod:`negplug.kernels.pool.logits`. Of rows wider than a block a program writes
one block: several compute the same logits, for sums of whole rows would fit no registers.

Import this module only where Triton is installed.
"""

from __future__ import annotations

import triton
import triton.language as tl

from negplug.kernels.pool.logits import logits_of, rows_of, wide_products

LOG2E = tl.constexpr(1.4426950408889634)


@triton.jit
def sums_of_part(
    A,
    K,
    RowIds,
    ColumnIds,
    Weight,
    Mask,
    Highest,
    Sums,
    Means,
    rows,
    columns,
    width,
    chunk,
    scale,
    weight_row,
    mask_row,
    BM: tl.constexpr,
    BN: tl.constexpr,
    BD: tl.constexpr,
    BLOCKS: tl.constexpr,
    WEIGHTED: tl.constexpr,
    MASKED: tl.constexpr,
    MEANS: tl.constexpr,
    PRECISION: tl.constexpr,
    LIFT: tl.constexpr,
):
    """Write m, Σ 2^{s − m} and Σ 2^{s − m} k of one part, m being the part's highest logit.

    Weights of float16 are multiplied by ``LIFT``: so far below 1 it has few digits.
    """
    row, part = tl.program_id(0) * BM + tl.arange(0, BM), tl.program_id(1)
    block = tl.program_id(2) * BD
    if BLOCKS == 1:
        a = rows_of(A, row, 0, rows, width, BD)
    row_ids = tl.load(RowIds + row, mask=row < rows, other=0)
    highest = tl.full([BM], float("-inf"), tl.float32)
    sums = tl.zeros([BM], tl.float32)
    means = tl.zeros([BM, BD], tl.float32)
    for start in range(part * chunk, tl.minimum((part + 1) * chunk, columns), BN):
        column = start + tl.arange(0, BN)
        k = rows_of(K, column, block, columns, width, BD)
        if BLOCKS == 1:
            products = tl.dot(a, tl.trans(k), input_precision=PRECISION)
        else:
            products = wide_products(A, K, row, column, rows, columns, width, BM, BN, BD, PRECISION)
        column_ids = tl.load(ColumnIds + column, mask=column < columns, other=0)
        s = logits_of(
            products,
            row,
            column,
            row_ids,
            column_ids,
            rows,
            columns,
            Weight,
            weight_row,
            1,
            Mask,
            mask_row,
            1,
            scale,
            WEIGHTED,
            MASKED,
        )
        after = tl.maximum(highest, tl.max(s, 1))
        # exp2(-inf − 0) = 0: where there is no negative yet, there is nothing to sum.
        shift = tl.where(after == float("-inf"), 0.0, after)
        faded = tl.exp2(highest - shift)
        p = tl.exp2(s - shift[:, None])
        sums = sums * faded + tl.sum(p, 1)
        if MEANS:
            means = means * faded[:, None] + tl.dot(
                (p * LIFT).to(k.dtype), k, input_precision=PRECISION
            )
        highest = after
    place = part.to(tl.int64) * rows + row
    once = row < tl.where(block == 0, rows, 0)
    tl.store(Highest + place, highest, mask=once)
    tl.store(Sums + place, sums, mask=once)
    if MEANS:
        dim = block + tl.arange(0, BD)
        inside = (row[:, None] < rows) & (dim[None, :] < width)
        tl.store(Means + place[:, None] * width + dim[None, :], means / LIFT, mask=inside)


@triton.jit
def merged_parts(
    Highest,
    Sums,
    Means,
    Value,
    Total,
    Mean,
    rows,
    width,
    parts,
    steepness,
    BM: tl.constexpr,
    BD: tl.constexpr,
    MEANS: tl.constexpr,
):
    """Write ℓ, that of the programs' logits, and its gradient by the anchors, of all parts.

    The gradient is the softmax's mean of the pool's rows, divided by τ.
    """
    row = tl.program_id(0) * BM + tl.arange(0, BM)
    dim = tl.program_id(1) * BD + tl.arange(0, BD)
    inside = (row[:, None] < rows) & (dim[None, :] < width)
    highest = tl.full([BM], float("-inf"), tl.float32)
    sums = tl.zeros([BM], tl.float32)
    means = tl.zeros([BM, BD], tl.float32)
    for part in range(parts):
        place = part * rows + row
        own = tl.load(Highest + place, mask=row < rows, other=float("-inf"))
        after = tl.maximum(highest, own)
        shift = tl.where(after == float("-inf"), 0.0, after)
        faded, share = tl.exp2(highest - shift), tl.exp2(own - shift)
        sums = sums * faded + tl.load(Sums + place, mask=row < rows, other=0.0) * share
        if MEANS:
            at = Means + place[:, None].to(tl.int64) * width + dim[None, :]
            means = means * faded[:, None] + tl.load(at, mask=inside, other=0.0) * share[:, None]
        highest = after
    # Not where it is above zero, which what is not a number is not.
    none = sums == 0
    total = tl.where(none, float("-inf"), highest + tl.log2(tl.where(none, 1.0, sums)))
    once = row < tl.where(tl.program_id(1) == 0, rows, 0)
    tl.store(Total + row, total, mask=once)
    tl.store(Value + row, total / LOG2E + steepness, mask=once)
    if MEANS:
        means = means * (steepness / tl.where(none, 1.0, sums))[:, None]
        tl.store(Mean + row[:, None].to(tl.int64) * width + dim[None, :], means, mask=inside)


@triton.jit
def gradient_of_part(
    R,
    X,
    RowIds,
    ColumnIds,
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
    factor,
    lift,
    weight_column,
    mask_column,
    BM: tl.constexpr,
    BN: tl.constexpr,
    BD: tl.constexpr,
    BLOCKS: tl.constexpr,
    WEIGHTED: tl.constexpr,
    MASKED: tl.constexpr,
    BOTH: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """Write factor · Σ_i g_i 2^{s_ij − ℓ_i} x_i of each row j, over one part of the columns i.

    With ``BOTH`` rows and columns are the same, and the sum is of g_i 2^{s_ij − ℓ_i} +
    g_j 2^{s_ij − ℓ_j}. Of float16, which has few digits near 0, the weights are up to ``lift``, the
    largest |g| being known.
    """
    row, part = tl.program_id(0) * BM + tl.arange(0, BM), tl.program_id(1)
    block = tl.program_id(2) * BD
    if BLOCKS == 1:
        r = rows_of(R, row, 0, rows, width, BD)
    row_ids = tl.load(RowIds + row, mask=row < rows, other=0)
    up = 1.0
    if R.dtype.element_ty == tl.float16:
        largest = tl.load(Largest)
        up = lift / tl.where(largest > 0, largest, 1.0)
        factor = factor * largest / lift
    if BOTH:
        row_grad = tl.load(Grad + row, mask=row < rows, other=0.0) * up
        row_total = tl.load(Total + row, mask=row < rows, other=0.0)
        row_total = tl.where(row_total == float("-inf"), 0.0, row_total)
    out = tl.zeros([BM, BD], tl.float32)
    for start in range(part * chunk, tl.minimum((part + 1) * chunk, columns), BN):
        column = start + tl.arange(0, BN)
        x = rows_of(X, column, block, columns, width, BD)
        if BLOCKS == 1:
            products = tl.dot(r, tl.trans(x), input_precision=PRECISION)
        else:
            products = wide_products(R, X, row, column, rows, columns, width, BM, BN, BD, PRECISION)
        column_ids = tl.load(ColumnIds + column, mask=column < columns, other=0)
        grad = tl.load(Grad + column, mask=column < columns, other=0.0) * up
        total = tl.load(Total + column, mask=column < columns, other=0.0)
        total = tl.where(total == float("-inf"), 0.0, total)
        s = logits_of(
            products,
            row,
            column,
            row_ids,
            column_ids,
            rows,
            columns,
            Weight,
            1,
            weight_column,
            Mask,
            1,
            mask_column,
            scale,
            WEIGHTED,
            MASKED,
        )
        p = tl.exp2(s - total[None, :]) * grad[None, :]
        if BOTH:
            p += tl.exp2(s - row_total[:, None]) * row_grad[:, None]
        out += tl.dot(p.to(x.dtype), x, input_precision=PRECISION)
    dim = block + tl.arange(0, BD)
    inside = (row[:, None] < rows) & (dim[None, :] < width)
    at = (part.to(tl.int64) * rows + row)[:, None] * width + dim[None, :]
    tl.store(Out + at, out * factor, mask=inside)
