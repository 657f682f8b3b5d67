"""Triton programs of the samples of a pool: each row or sample is compared with all.

Import this module only where Triton is installed.
"""

from __future__ import annotations

import triton
import triton.language as tl

from negplug.kernels.random.programs import mix


@triton.jit
def first_of_equals(Indexes, Views, Flags, count, BN: tl.constexpr, BT: tl.constexpr):
    """Write 1 for the first row of a sample, plus 2 for the first of a sample's view."""
    first = tl.program_id(0) * BN
    row = first + tl.arange(0, BN)
    here = row < count
    index = tl.load(Indexes + row, mask=here, other=0)
    view = tl.load(Views + row, mask=here, other=0)
    seen = tl.zeros([BN], tl.int32)
    for start in range(0, tl.minimum(first + BN, count), BT):
        other = start + tl.arange(0, BT)
        inside = other < count
        others = tl.load(Indexes + other, mask=inside, other=0)
        views = tl.load(Views + other, mask=inside, other=0)
        same = (others[None, :] == index[:, None]) & (other[None, :] < row[:, None])
        both = same & (views[None, :] == view[:, None])
        seen |= tl.max(same.to(tl.int32) + 2 * both.to(tl.int32), 1)
    tl.store(Flags + row, 3 - seen, mask=here)


@triton.jit
def grouped_rows(
    Indexes,
    Views,
    Flags,
    Samples,
    Rows,
    empty,
    count,
    samples,
    number,
    BN: tl.constexpr,
    BT: tl.constexpr,
):
    """Write each row to its view and the place of its sample, and the others behind them."""
    row = tl.program_id(0) * BN + tl.arange(0, BN)
    here = row < count
    index = tl.load(Indexes + row, mask=here, other=0)
    view = tl.load(Views + row, mask=here, other=-1)
    flags = tl.load(Flags + row, mask=here, other=0)
    smaller = tl.zeros([BN], tl.int32)
    left_before = tl.zeros([BN], tl.int32)
    total = tl.zeros([BN], tl.int32)
    for start in range(0, count, BT):
        other = start + tl.arange(0, BT)
        inside = other < count
        others = tl.load(Indexes + other, mask=inside, other=0)
        views = tl.load(Views + other, mask=inside, other=-1)
        flag = tl.load(Flags + other, mask=inside, other=2)
        starts = (flag & 1)[None, :]
        smaller += tl.sum(tl.where(others[None, :] < index[:, None], starts, 0), 1)
        left = (flag < 2)[None, :] & (views[None, :] == view[:, None])
        left_before += tl.sum((left & (other[None, :] < row[:, None])).to(tl.int32), 1)
        total += tl.sum(flag & 1, 0)
    left = flags < 2
    column = tl.where(left, total + left_before, smaller)
    inside = here & (view >= 0) & (view < number) & (column < samples)
    tl.store(Rows + view * samples + column, row.to(tl.int64), mask=inside)
    # Of every column, the row in the first view says what it is.
    sample = tl.where(left, empty, index)
    tl.store(Samples + column, sample, mask=inside & (view == 0))


@triton.jit(do_not_specialize=["seed"])
def shuffled_samples(
    Samples,
    Rows,
    SamplesOut,
    RowsOut,
    seed,
    empty,
    samples,
    number,
    PADDED: tl.constexpr,
    BN: tl.constexpr,
    BT: tl.constexpr,
):
    """Write samples and rows to where the hash of a sample's number is among all."""
    column = tl.program_id(0) * BN + tl.arange(0, BN)
    here = column < samples
    sample = tl.load(Samples + column, mask=here, other=0)
    key = _key(column, seed)
    before = tl.zeros([BN], tl.int32)
    for start in range(0, samples, BT):
        other = start + tl.arange(0, BT)
        inside = other < samples
        keys = _key(other, seed)
        if PADDED:
            others = tl.load(Samples + other, mask=inside, other=0)
            inside = inside & (others != empty)
        ties = (keys[None, :] == key[:, None]) & (other[None, :] < column[:, None])
        smaller = inside[None, :] & ((keys[None, :] < key[:, None]) | ties)
        before += tl.sum(smaller.to(tl.int32), 1)
    if PADDED:
        before = tl.where(sample == empty, column, before)
    tl.store(SamplesOut + before, sample, mask=here)
    for view in range(0, number):
        row = tl.load(Rows + view * samples + column, mask=here, other=0)
        tl.store(RowsOut + view * samples + before, row, mask=here)


@triton.jit
def _key(column, seed):
    """Return the upper 63 bits of the hash of a number."""
    number = (column.to(tl.int64) + 1).to(tl.uint64)
    return mix(seed.to(tl.uint64) + number * 0x9E3779B97F4A7C15) >> 1


@triton.jit
def columns_of_samples(
    Samples, Wanted, Columns, samples, count, BN: tl.constexpr, BT: tl.constexpr
):
    """Write the column of each wanted sample, -1 where it is not there."""
    place = tl.program_id(0) * BN + tl.arange(0, BN)
    wanted = tl.load(Wanted + place, mask=place < count, other=0)
    column = tl.full([BN], -1, tl.int64)
    for start in range(0, samples, BT):
        other = start + tl.arange(0, BT)
        found = tl.load(Samples + other, mask=other < samples, other=0)
        same = (found[None, :] == wanted[:, None]) & (other[None, :] < samples)
        column = tl.maximum(column, tl.max(tl.where(same, other[None, :], -1), 1).to(tl.int64))
    tl.store(Columns + place, column, mask=place < count)
