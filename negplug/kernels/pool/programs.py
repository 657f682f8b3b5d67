"""Triton programs of a pool's log-sum-exp: one row block and one part of the pool each.

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
def rows_of(X, place, count, width, BD: tl.constexpr):
    """Return some rows of ``X`` ``[count, width]``, zeros beyond either end."""
    dim = tl.arange(0, BD)
    inside = (place[:, None] < count) & (dim[None, :] < width)
    return tl.load(X + place[:, None].to(tl.int64) * width + dim[None, :], mask=inside, other=0.0)


@triton.jit
def logits_of(
    a,
    k,
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
    PRECISION: tl.constexpr,
):
    """Return a tile of weighted logits, -inf where excluded or beyond an end."""
    s = (tl.dot(a, tl.trans(k), input_precision=PRECISION) - 1.0) * scale
    inside = (row[:, None] < rows) & (column[None, :] < columns)
    serves = inside & (row_ids[:, None] != column_ids[None, :])
    if WEIGHTED:
        at = row[:, None].to(tl.int64) * weight_row + column[None, :].to(tl.int64) * weight_column
        s += tl.load(Weight + at, mask=inside, other=0.0) * LOG2E
    if MASKED:
        at = row[:, None].to(tl.int64) * mask_row + column[None, :].to(tl.int64) * mask_column
        serves &= tl.load(Mask + at, mask=inside, other=0) != 0
    return tl.where(serves, s, float("-inf"))


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
    WEIGHTED: tl.constexpr,
    MASKED: tl.constexpr,
    MEANS: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """Write m, Σ 2^{s − m} and Σ 2^{s − m} k of one part, m being the part's highest logit."""
    row, part = tl.program_id(0) * BM + tl.arange(0, BM), tl.program_id(1)
    a = rows_of(A, row, rows, width, BD)
    row_ids = tl.load(RowIds + row, mask=row < rows, other=0)
    highest = tl.full([BM], float("-inf"), tl.float32)
    sums = tl.zeros([BM], tl.float32)
    means = tl.zeros([BM, BD], tl.float32)
    for start in range(part * chunk, tl.minimum((part + 1) * chunk, columns), BN):
        column = start + tl.arange(0, BN)
        k = rows_of(K, column, columns, width, BD)
        column_ids = tl.load(ColumnIds + column, mask=column < columns, other=0)
        s = logits_of(
            a,
            k,
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
            PRECISION,
        )
        after = tl.maximum(highest, tl.max(s, 1))
        # exp2(-inf − 0) = 0: where there is no negative yet, there is nothing to sum.
        shift = tl.where(after == float("-inf"), 0.0, after)
        faded = tl.exp2(highest - shift)
        p = tl.exp2(s - shift[:, None])
        sums = sums * faded + tl.sum(p, 1)
        if MEANS:
            means = means * faded[:, None] + tl.dot(p, k, input_precision=PRECISION)
        highest = after
    place = part.to(tl.int64) * rows + row
    tl.store(Highest + place, highest, mask=row < rows)
    tl.store(Sums + place, sums, mask=row < rows)
    if MEANS:
        dim = tl.arange(0, BD)
        inside = (row[:, None] < rows) & (dim[None, :] < width)
        tl.store(Means + place[:, None] * width + dim[None, :], means, mask=inside)


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
    row, dim = tl.program_id(0) * BM + tl.arange(0, BM), tl.arange(0, BD)
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
    some = sums > 0
    total = tl.where(some, highest + tl.log2(tl.where(some, sums, 1.0)), float("-inf"))
    tl.store(Total + row, total, mask=row < rows)
    tl.store(Value + row, total / LOG2E + steepness, mask=row < rows)
    if MEANS:
        means = means * (steepness / tl.where(some, sums, 1.0))[:, None]
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
    Out,
    rows,
    columns,
    width,
    chunk,
    scale,
    factor,
    weight_column,
    mask_column,
    BM: tl.constexpr,
    BN: tl.constexpr,
    BD: tl.constexpr,
    WEIGHTED: tl.constexpr,
    MASKED: tl.constexpr,
    BOTH: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """Write factor · Σ_i g_i 2^{s_ij − ℓ_i} x_i of each row j, over one part of the columns i.

    With ``BOTH`` rows and columns are the same, and the sum is of g_i 2^{s_ij − ℓ_i} +
    g_j 2^{s_ij − ℓ_j}.
    """
    row, part = tl.program_id(0) * BM + tl.arange(0, BM), tl.program_id(1)
    r = rows_of(R, row, rows, width, BD)
    row_ids = tl.load(RowIds + row, mask=row < rows, other=0)
    if BOTH:
        row_grad = tl.load(Grad + row, mask=row < rows, other=0.0)
        row_total = tl.load(Total + row, mask=row < rows, other=0.0)
        row_total = tl.where(row_total == float("-inf"), 0.0, row_total)
    out = tl.zeros([BM, BD], tl.float32)
    for start in range(part * chunk, tl.minimum((part + 1) * chunk, columns), BN):
        column = start + tl.arange(0, BN)
        x = rows_of(X, column, columns, width, BD)
        column_ids = tl.load(ColumnIds + column, mask=column < columns, other=0)
        grad = tl.load(Grad + column, mask=column < columns, other=0.0)
        total = tl.load(Total + column, mask=column < columns, other=0.0)
        total = tl.where(total == float("-inf"), 0.0, total)
        s = logits_of(
            r,
            x,
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
            PRECISION,
        )
        p = tl.exp2(s - total[None, :]) * grad[None, :]
        if BOTH:
            p += tl.exp2(s - row_total[:, None]) * row_grad[:, None]
        out += tl.dot(p, x, input_precision=PRECISION)
    dim = tl.arange(0, BD)
    inside = (row[:, None] < rows) & (dim[None, :] < width)
    at = (part.to(tl.int64) * rows + row)[:, None] * width + dim[None, :]
    tl.store(Out + at, out * factor, mask=inside)
