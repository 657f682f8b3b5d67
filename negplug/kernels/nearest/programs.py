"""Triton programs of the nearest of a pool: one block of anchors and one part of the pool each.

A similarity and its column are one 64-bit key, whose order is that of the answer: the greater
similarity first, and of equal ones the smaller column. A program keeps its M greatest keys in no
order. Of a tile of the pool it takes the greatest key in place of the least that it has, as long
as that is greater for some anchor of the block. In a pool in random order M + M log(K/M) of an
anchor's K keys are taken, so most tiles have few, and there is no sort.

Import this module only where Triton is installed.
"""

from __future__ import annotations

import triton
import triton.language as tl

from negplug.kernels.pool.logits import wide_products

# A key of no column, less than those of any; so are the keys up to 2³² above it.
NONE = tl.constexpr(-(2**63) + 1)
# A key that stays.
FULL = tl.constexpr(2**63 - 1)
# Of columns, which are below.
LAST = tl.constexpr(2**32 - 1)


@triton.jit
def serving(row, column, rows, columns, RowIds, ColumnIds):
    """Return whether columns serve rows: both are inside, and of different ids or of none."""
    row_ids = tl.load(RowIds + row, mask=row < rows, other=-1)
    column_ids = tl.load(ColumnIds + column, mask=column < columns, other=-1)
    same = (row_ids[:, None] == column_ids[None, :]) & (row_ids[:, None] != -1)
    return (row[:, None] < rows) & (column[None, :] < columns) & (same == 0)


@triton.jit
def _keys(s, column):
    """Return the keys of similarities and their columns."""
    # Added to 0, a zero with a sign is one without.
    bits = (s + 0.0).to(tl.int32, bitcast=True)
    # Of negative numbers, the greater has the smaller bits.
    ordered = bits ^ ((bits >> 31) & 0x7FFFFFFF)
    return (ordered.to(tl.int64) << 32) + (column.to(tl.int64) ^ LAST)[None, :]


@triton.jit
def _taken(best, keys):
    """Return the greatest of the best keys and others, in no order."""
    least, greatest = tl.min(best, 1), tl.max(keys, 1)
    while tl.max((greatest > least).to(tl.int32), 0) > 0:
        takes = (best == least[:, None]) & (greatest > least)[:, None]
        best = tl.where(takes, greatest[:, None], best)
        keys = tl.where(keys == greatest[:, None], NONE, keys)
        least, greatest = tl.min(best, 1), tl.max(keys, 1)
    return best


@triton.jit
def _empty(count, BM: tl.constexpr, BC: tl.constexpr):
    """Return room for ``count`` keys of each anchor: different keys of no column."""
    place = tl.broadcast_to(tl.arange(0, BC)[None, :].to(tl.int64), (BM, BC))
    return tl.where(place < count, NONE + 1 + place, FULL)


@triton.jit
def _write(best, Columns, There, row, rows, count):
    """Write the columns of the best keys in their order, 0 where there is none."""
    best = tl.where(best == FULL, NONE, best)
    for place in range(count):
        greatest = tl.max(best, 1)
        best = tl.where(best == greatest[:, None], NONE, best)
        there = greatest > NONE + LAST
        column = tl.where(there, (greatest & LAST) ^ LAST, 0)
        at = row.to(tl.int64) * count + place
        tl.store(Columns + at, column, mask=row < rows)
        tl.store(There + at, there.to(tl.uint8), mask=row < rows)


@triton.jit
def nearest_of_part(
    A,
    K,
    RowIds,
    ColumnIds,
    Mask,
    Keys,
    Columns,
    There,
    rows,
    columns,
    width,
    chunk,
    count,
    mask_row,
    mask_column,
    BM: tl.constexpr,
    BN: tl.constexpr,
    BD: tl.constexpr,
    BC: tl.constexpr,
    MASKED: tl.constexpr,
    WHOLE: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """Write the nearest of one part: if it is the whole pool the answer, else their keys."""
    row, part = tl.program_id(0) * BM + tl.arange(0, BM), tl.program_id(1)
    best = _empty(count, BM, BC)
    for start in range(part * chunk, tl.minimum((part + 1) * chunk, columns), BN):
        column = start + tl.arange(0, BN)
        s = wide_products(
            A, A, K, K, row, column, rows, columns, width, BM, BN, BD, False, PRECISION
        )
        serves = serving(row, column, rows, columns, RowIds, ColumnIds)
        if MASKED:
            at = row[:, None].to(tl.int64) * mask_row + column[None, :].to(tl.int64) * mask_column
            serves &= tl.load(Mask + at, mask=serves, other=0) != 0
        best = _taken(best, tl.where(serves, _keys(s, column), NONE))
    if WHOLE:
        _write(best, Columns, There, row, rows, count)
    else:
        place = tl.arange(0, BC)
        at = (part.to(tl.int64) * rows + row)[:, None] * count + place[None, :]
        tl.store(Keys + at, best, mask=(row[:, None] < rows) & (place[None, :] < count))


@triton.jit
def nearest_of_parts(Keys, Columns, There, rows, count, parts, BM: tl.constexpr, BC: tl.constexpr):
    """Write the nearest of all parts."""
    row, place = tl.program_id(0) * BM + tl.arange(0, BM), tl.arange(0, BC)
    inside = (row[:, None] < rows) & (place[None, :] < count)
    best = _empty(count, BM, BC)
    for part in range(parts):
        at = (part * rows + row)[:, None].to(tl.int64) * count + place[None, :]
        keys = tl.load(Keys + at, mask=inside, other=NONE)
        best = _taken(best, tl.where(keys > NONE + LAST, keys, NONE))
    _write(best, Columns, There, row, rows, count)
