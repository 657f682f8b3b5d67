"""Triton programs of draws from the softmax over a pool.

A program has a block of anchors, some of their draws, and a part of the pool: whole tiles, each in
steps of BN columns. It goes through a tile twice: for the log-sum-exp, and where that with its
Gumbel variables wins any draw, for the column. Shares are integers, as those of
:mod:`negplug.kernels.softmax_draws.tiled`, so that a column without a share is never drawn.

Import this module only where Triton is installed.
"""

from __future__ import annotations

import triton
import triton.language as tl

from negplug.kernels.nearest.programs import serving
from negplug.kernels.pool.logits import wide_products
from negplug.kernels.random.programs import uniforms_of

SHARES = tl.constexpr(2.0**42)


@triton.jit
def _logits(
    A,
    K,
    RowIds,
    ColumnIds,
    Weight,
    Mask,
    row,
    column,
    rows,
    columns,
    width,
    scale,
    weight_row,
    weight_column,
    mask_row,
    mask_column,
    BM: tl.constexpr,
    BN: tl.constexpr,
    BD: tl.constexpr,
    WEIGHTED: tl.constexpr,
    MASKED: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """Return a tile of weighted logits, -inf where excluded or beyond an end."""
    s = (
        wide_products(A, A, K, K, row, column, rows, columns, width, BM, BN, BD, False, PRECISION)
        * scale
    )
    serves = serving(row, column, rows, columns, RowIds, ColumnIds)
    if WEIGHTED:
        at = row[:, None].to(tl.int64) * weight_row + column[None, :].to(tl.int64) * weight_column
        s += tl.load(Weight + at, mask=serves, other=0.0).to(tl.float32)
    if MASKED:
        at = row[:, None].to(tl.int64) * mask_row + column[None, :].to(tl.int64) * mask_column
        serves &= tl.load(Mask + at, mask=serves, other=0) != 0
    return tl.where(serves, s, float("-inf"))


@triton.jit
def _finite(highest):
    """Return what may be subtracted from any logit."""
    return tl.where(highest == float("-inf"), 0.0, highest)


@triton.jit(do_not_specialize=["Seed"])
def draws_of_part(
    A,
    K,
    RowIds,
    ColumnIds,
    Weight,
    Mask,
    Columns,
    Maxima,
    rows,
    columns,
    width,
    tile,
    chunk,
    count,
    scale,
    Seed,
    weight_row,
    weight_column,
    mask_row,
    mask_column,
    BM: tl.constexpr,
    BN: tl.constexpr,
    BD: tl.constexpr,
    BC: tl.constexpr,
    WEIGHTED: tl.constexpr,
    MASKED: tl.constexpr,
    SEED_ON_DEVICE: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """Write the draws from one part, and their maxima."""
    seed = tl.load(Seed) if SEED_ON_DEVICE else Seed
    row, part = tl.program_id(0) * BM + tl.arange(0, BM), tl.program_id(1)
    place = tl.arange(0, BC)
    draw = tl.program_id(2) * BC + place
    best = tl.full([BM, BC], float("-inf"), tl.float64)
    chosen = tl.zeros([BM, BC], tl.int64)
    for first in range(part * chunk, tl.minimum((part + 1) * chunk, columns), tile):
        last = tl.minimum(first + tile, columns)
        highest = tl.full([BM], float("-inf"), tl.float32)
        total = tl.zeros([BM], tl.float64)
        for start in range(first, last, BN):
            s = _logits(
                A,
                K,
                RowIds,
                ColumnIds,
                Weight,
                Mask,
                row,
                start + tl.arange(0, BN),
                rows,
                last,
                width,
                scale,
                weight_row,
                weight_column,
                mask_row,
                mask_column,
                BM,
                BN,
                BD,
                WEIGHTED,
                MASKED,
                PRECISION,
            )
            after = tl.maximum(highest, tl.max(s, 1))
            shift = _finite(after)
            total *= tl.exp(highest - shift).to(tl.float64)
            total += tl.sum(tl.exp(s - shift[:, None]).to(tl.float64), 1)
            highest = after
        some = total > 0
        lse = tl.where(some, tl.log(tl.where(some, total, 1.0)) + highest, float("-inf"))
        before = ((first // tile).to(tl.int64) * rows + row)[:, None] * count + draw[None, :]
        gumbel, inversion = uniforms_of(seed, before)
        value = lse[:, None] - tl.log(-tl.log(gumbel))
        beats = value > best
        if tl.max(tl.max(beats.to(tl.int32), 1), 0) > 0:
            best = tl.where(beats, value, best)
            shift = _finite(highest)
            target = (inversion * (total * SHARES)[:, None]).to(tl.int64)
            passed = tl.zeros([BM], tl.int64)
            # Columns up to which the shares add up to no more, and the last with a share.
            number = tl.zeros([BM, BC], tl.int32)
            end = tl.zeros([BM], tl.int32)
            for start in range(first, last, BN):
                s = _logits(
                    A,
                    K,
                    RowIds,
                    ColumnIds,
                    Weight,
                    Mask,
                    row,
                    start + tl.arange(0, BN),
                    rows,
                    last,
                    width,
                    scale,
                    weight_row,
                    weight_column,
                    mask_row,
                    mask_column,
                    BM,
                    BN,
                    BD,
                    WEIGHTED,
                    MASKED,
                    PRECISION,
                )
                share = (tl.exp(s - shift[:, None]).to(tl.float64) * SHARES).to(tl.int64)
                below = tl.cumsum(share, 1) + passed[:, None]
                inside = start - first + tl.arange(0, BN)
                end = tl.maximum(end, tl.max(tl.where(share > 0, inside[None, :], 0), 1))
                for m in range(tl.minimum(BC, count - tl.program_id(2) * BC)):
                    mine = place[None, :] == m
                    wanted = tl.sum(tl.where(mine, target, 0), 1)
                    more = tl.sum((below <= wanted[:, None]).to(tl.int32), 1)
                    number += tl.where(mine, more[:, None], 0)
                passed += tl.sum(share, 1)
            # Sums are rounded in one order and another: the last target may be the end itself.
            number = first + tl.minimum(number, end[:, None])
            chosen = tl.where(beats, number.to(tl.int64), chosen)
    at = (part.to(tl.int64) * rows + row)[:, None] * count + draw[None, :]
    here = (row[:, None] < rows) & (draw[None, :] < count)
    tl.store(Columns + at, chosen, mask=here)
    tl.store(Maxima + at, best, mask=here)


@triton.jit
def draws_of_parts(PartColumns, PartMaxima, Columns, Maxima, size, parts, BC: tl.constexpr):
    """Write the draws from all parts: of each, that with the greatest maximum."""
    at = tl.program_id(0).to(tl.int64) * BC + tl.arange(0, BC)
    best = tl.full([BC], float("-inf"), tl.float64)
    chosen = tl.zeros([BC], tl.int64)
    for part in range(parts):
        other = part * size + at
        value = tl.load(PartMaxima + other, mask=at < size, other=float("-inf"))
        column = tl.load(PartColumns + other, mask=at < size, other=0)
        chosen = tl.where(value > best, column, chosen)
        best = tl.maximum(value, best)
    tl.store(Columns + at, chosen, mask=at < size)
    tl.store(Maxima + at, best, mask=at < size)
