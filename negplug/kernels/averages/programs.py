"""A Triton program of moving averages: a few keys each, compared with all.

Import this module only where Triton is installed.
"""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def _unit(x):
    """Return rows of unit length; a row that is shorter than 1e-12 stays as short."""
    wide = x.to(tl.float64)
    length = tl.maximum(tl.sqrt(tl.sum(wide * wide, 1)), 1e-12)
    return (wide / length[:, None]).to(x.dtype)


@triton.jit
def averages_of_samples(
    Rows,
    Names,
    Keys,
    Arriving,
    Flags,
    Found,
    Written,
    momentum,
    slots,
    count,
    width,
    kinds,
    name_row,
    arriving_row,
    BN: tl.constexpr,
    BT: tl.constexpr,
    BD: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """Average the keys of some samples, those of whose first keys these are, into their slots."""
    row, dim = tl.program_id(0) * BN + tl.arange(0, BN), tl.arange(0, BD)
    here = row < count
    index = tl.load(Arriving + arriving_row + row, mask=here, other=0)
    found = tl.load(Found + row, mask=here, other=-1)
    first = here & ((tl.load(Flags + row, mask=here, other=0) & 1) == 1)
    before = tl.zeros([BN], tl.int32)
    number = tl.zeros([BN], tl.float32)
    spoils = tl.zeros([BN], tl.int32)
    mean = tl.zeros([BN, BD], tl.float32)
    for start in range(0, count, BT):
        other = start + tl.arange(0, BT)
        inside = other < count
        others = tl.load(Arriving + arriving_row + other, mask=inside, other=0)
        flags = tl.load(Flags + other, mask=inside, other=0) & 1
        fresh = tl.load(Found + other, mask=inside, other=0) < 0
        starts = tl.where(fresh & inside, flags, 0)
        before += tl.sum(tl.where(others[None, :] < index[:, None], starts[None, :], 0), 1)
        equal = (others[None, :] == index[:, None]) & inside[None, :]
        same = equal.to(tl.float32)
        number += tl.sum(same, 1)
        at = other[:, None].to(tl.int64) * width + dim[None, :]
        keys = tl.load(Keys + at, mask=inside[:, None] & (dim[None, :] < width), other=0.0)
        # A key that is not finite would spoil the sums of all, for 0 times NaN is NaN.
        finite = tl.abs(keys) < float("inf")
        spoilt = 1 - tl.min(finite.to(tl.int32), 1)
        spoils += tl.sum(tl.where(equal, spoilt[None, :], 0), 1)
        mean += tl.dot(same, tl.where(finite, keys, 0.0), input_precision=PRECISION)
    mean = _unit(mean / tl.maximum(number, 1.0)[:, None])
    mean = tl.where(spoils[:, None] > 0, float("nan"), mean)
    # No more than there is room for, unless a check has yet to refuse them.
    made = tl.minimum(tl.load(Written) + before, slots - 1)
    slot = tl.where(found < 0, made, found)
    inside = first[:, None] & (dim[None, :] < width)
    at = Rows + slot[:, None] * width + dim[None, :]
    old = tl.load(at, mask=inside, other=0.0)
    tl.store(at, _unit(mean + momentum * (old - mean)), mask=inside)
    for kind in range(0, kinds):
        name = tl.load(Arriving + kind * arriving_row + row, mask=here, other=0)
        tl.store(Names + kind * name_row + slot, name, mask=first)
