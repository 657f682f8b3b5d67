"""Triton programs of a table: a launch for the entries of one table.

Import this module only where Triton is installed.
"""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def _places(Views, Indexes, row, height, width, count):
    """Return the places in a table of some rows, -1 of what lies outside of it."""
    here = row < count
    view = tl.load(Views + row, mask=here, other=-1)
    index = tl.load(Indexes + row, mask=here, other=-1)
    inside = (view >= 0) & (view < height) & (index >= 0) & (index < width)
    return tl.where(inside, view * width + index, -1)


@triton.jit
def entries_of_table(
    Table,
    Views,
    Indexes,
    Found,
    empty,
    height,
    width,
    count,
    numbers,
    BN: tl.constexpr,
    BD: tl.constexpr,
):
    """Look up some rows of entries, of some of their numbers."""
    row = tl.program_id(0) * BN + tl.arange(0, BN)
    number = tl.program_id(1) * BD + tl.arange(0, BD)
    place = _places(Views, Indexes, row, height, width, count)
    inside = (row[:, None] < count) & (number[None, :] < numbers)
    written = place[:, None] >= 0
    at = Table + place[:, None] * numbers + number[None, :]
    value = tl.load(at, mask=inside & written, other=0)
    value = tl.where(written, value, tl.full([BN, BD], empty, Found.dtype.element_ty))
    tl.store(Found + row[:, None].to(tl.int64) * numbers + number[None, :], value, mask=inside)


@triton.jit
def last_entries(
    Table,
    Views,
    Indexes,
    Values,
    height,
    width,
    count,
    numbers,
    BN: tl.constexpr,
    BD: tl.constexpr,
    BT: tl.constexpr,
):
    """Write some rows of entries, those that no later row writes again."""
    first = tl.program_id(0) * BN
    row = first + tl.arange(0, BN)
    place = _places(Views, Indexes, row, height, width, count)
    again = tl.zeros([BN], tl.int32)
    for start in range(first, count, BT):
        other = start + tl.arange(0, BT)
        others = _places(Views, Indexes, other, height, width, count)
        later = (others[None, :] == place[:, None]) & (other[None, :] > row[:, None])
        again = tl.maximum(again, tl.max(later.to(tl.int32), 1))
    writes = (place >= 0) & (again == 0)
    for start in range(0, numbers, BD):
        number = start + tl.arange(0, BD)
        inside = writes[:, None] & (number[None, :] < numbers)
        at = row[:, None].to(tl.int64) * numbers + number[None, :]
        value = tl.load(Values + at, mask=inside, other=0)
        at = place[:, None] * numbers + number[None, :]
        tl.store(Table + at, value.to(Table.dtype.element_ty), mask=inside)
