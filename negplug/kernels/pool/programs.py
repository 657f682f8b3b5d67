"""Triton programs of a pool's log-sum-exp: one row block and one part of the pool each.

Logits are those of :mod:`negplug.kernels.pool.logits`. Of rows wider than a block a program writes
one block: several compute the same logits, for sums of whole rows would fit no registers.

Where ``FLAT``, exponentials of logits and their sums fit float32 as they are, and no maximum is
looked for.

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

LOG2E = tl.constexpr(1.4426950408889634)


@triton.jit
def sums_of_part(
    A,
    ALow,
    K,
    KLow,
    RowIds,
    ColumnIds,
    RowSpans,
    ColumnSpans,
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
    unit,
    weight_row,
    mask_row,
    BM: tl.constexpr,
    BN: tl.constexpr,
    BD: tl.constexpr,
    BLOCKS: tl.constexpr,
    SPLIT: tl.constexpr,
    SPANS: tl.constexpr,
    FLAT: tl.constexpr,
    WEIGHTED: tl.constexpr,
    MASKED: tl.constexpr,
    MEANS: tl.constexpr,
    LIFT: tl.constexpr,
):
    """Write m, Σ 2^{s − m} and Σ 2^{s − m} k of one part, m being the part's highest logit.

    Weights of float16 are multiplied by ``LIFT``: so far below 1 it has few digits.
    """
    first, part = tl.program_id(0) * BM, tl.program_id(1)
    row = first + tl.arange(0, BM)
    block = tl.program_id(2) * BD
    if BLOCKS == 1:
        a = rows_of(A, row, 0, rows, width, BD)
        a_low = a
        if SPLIT:
            a_low = rows_of(ALow, row, 0, rows, width, BD)
    highest = tl.full([BM], float("-inf"), tl.float32)
    sums = tl.zeros([BM], tl.float32)
    means = tl.zeros([BM, BD], tl.float32)
    for start in range(part * chunk, tl.minimum((part + 1) * chunk, columns), BN):
        column = start + tl.arange(0, BN)
        k = rows_of(K, column, block, columns, width, BD)
        k_low = k
        if SPLIT:
            k_low = rows_of(KLow, column, block, columns, width, BD)
        if BLOCKS == 1:
            products = tl.zeros([BM, BN], tl.float32)
            products = product(a, a_low, tl.trans(k), tl.trans(k_low), products, SPLIT, "ieee")
        else:
            products = wide_products(
                A, ALow, K, KLow, row, column, rows, columns, width, BM, BN, BD, SPLIT, "ieee"
            )
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
            weight_row,
            1,
            Mask,
            mask_row,
            1,
            scale,
            unit,
            WEIGHTED,
            MASKED,
            FLAT,
        )
        if FLAT:
            sums += tl.sum(tl.exp2(s), 1)
        else:
            after = tl.maximum(highest, tl.max(s, 1))
            # exp2(-inf − 0) = 0: where there is no negative yet, there is nothing to sum.
            shift = tl.where(after == float("-inf"), 0.0, after)
            faded = tl.exp2(highest - shift)
            p = tl.exp2(s - shift[:, None])
            sums = sums * faded + tl.sum(p, 1)
            if MEANS:
                means = weighted(p * LIFT, k, k_low, means * faded[:, None], SPLIT)
            highest = after
    if FLAT:
        # What the logits are greater by.
        highest = tl.full([BM], 0.0, tl.float32) - unit * scale
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
    means_unit,
    BM: tl.constexpr,
    BP: tl.constexpr,
    BD: tl.constexpr,
    MEANS: tl.constexpr,
):
    """Write ℓ, that of the programs' logits, and its gradient by the anchors, of all parts.

    The gradient is the softmax's mean of the pool's rows, divided by τ; ``means_unit`` is what the
    rows are multiplied by.
    """
    row = tl.program_id(0) * BM + tl.arange(0, BM)
    part = tl.arange(0, BP)
    # The greatest of each column of parts first: where a loop's maximum over loaded numbers is used
    # more than once, Triton 3.2 aborts the process, and 3.6 fails.
    each = tl.full([BM, BP], float("-inf"), tl.float32)
    for start in range(0, parts, BP):
        place = (start + part)[None, :] * rows + row[:, None]
        there = (row[:, None] < rows) & (start + part < parts)[None, :]
        own = tl.load(Highest + place, mask=there, other=float("-inf"))
        each = tl.maximum(each, own)
    highest = tl.max(each, 1)
    shift = tl.where(highest == float("-inf"), 0.0, highest)
    dim = tl.program_id(1) * BD + tl.arange(0, BD)
    sums = tl.zeros([BM], tl.float32)
    means = tl.zeros([BM, BD], tl.float32)
    for start in range(0, parts, BP):
        place = (start + part)[None, :] * rows + row[:, None]
        there = (row[:, None] < rows) & (start + part < parts)[None, :]
        own = tl.load(Highest + place, mask=there, other=float("-inf"))
        share = tl.exp2(own - shift[:, None])
        sums += tl.sum(tl.load(Sums + place, mask=there, other=0.0) * share, 1)
        if MEANS:
            at = Means + place[:, :, None].to(tl.int64) * width + dim[None, None, :]
            inside = there[:, :, None] & (dim < width)[None, None, :]
            means += tl.sum(tl.load(at, mask=inside, other=0.0) * share[:, :, None], 1)
    # Not where it is above zero, which what is not a number is not.
    none = sums == 0
    total = tl.where(none, float("-inf"), highest + tl.log2(tl.where(none, 1.0, sums)))
    once = row < tl.where(tl.program_id(1) == 0, rows, 0)
    tl.store(Total + row, total, mask=once)
    tl.store(Value + row, total / LOG2E + steepness, mask=once)
    if MEANS:
        means = means * (steepness / (tl.where(none, 1.0, sums) * means_unit))[:, None]
        at = Mean + row[:, None].to(tl.int64) * width + dim[None, :]
        tl.store(at, means, mask=(row[:, None] < rows) & (dim[None, :] < width))
