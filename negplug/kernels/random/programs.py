"""Triton programs of uniform numbers and of distinct integers: see :mod:`negplug.kernels.random`.

Import this module only where Triton is installed.
"""

from __future__ import annotations

import triton
import triton.language as tl

from negplug.kernels.searching import number_below

GAMMA = tl.constexpr(0x9E3779B97F4A7C15)

# Steps that each other step is compared with at a time.
AT_ONCE = tl.constexpr(16)


@triton.jit
def mix(state):
    """Return the hash of unsigned 64-bit states."""
    state = (state ^ (state >> 30)) * 0xBF58476D1CE4E5B9
    state = (state ^ (state >> 27)) * 0x94D049BB133111EB
    return state ^ (state >> 31)


@triton.jit
def _uniform(half):
    """Return ½ + (k + ½) · 2⁻³² of the signed 32-bit integers k that unsigned ones are."""
    half = half.to(tl.uint32).to(tl.int32, bitcast=True)
    return half.to(tl.float64) * 2.3283064365386963e-10 + (0.5 + 1.1641532182693481e-10)


@triton.jit
def uniforms_of(seed, before):
    """Return the two numbers of each hash that so many, int64, come before in a stream."""
    state = mix(seed.to(tl.uint64) + (before + 1).to(tl.uint64) * GAMMA)
    return _uniform(state), _uniform(state >> 32)


@triton.jit
def _write(Out, place, number, count):
    """Write numbers, float32 ones inside of (0, 1) too."""
    if Out.dtype.element_ty != tl.float64:
        number = tl.minimum(tl.maximum(number, 1.1641532182693481e-10), 1 - 5.960464477539063e-08)
    tl.store(Out + place, number.to(Out.dtype.element_ty), mask=place < count)


@triton.jit(do_not_specialize=["seed", "start", "count"])
def uniforms_of_stream(Out, seed, start, count, PAIRS: tl.constexpr):
    """Write two numbers of each hash, ``start`` hashes coming before."""
    pair = tl.program_id(0).to(tl.int64) * PAIRS + tl.arange(0, PAIRS)
    first, second = uniforms_of(seed, start + pair)
    _write(Out, 2 * pair, first, count)
    _write(Out, 2 * pair + 1, second, count)


@triton.jit
def _distinct(Room, bound, row, rows, seed, count, BR: tl.constexpr, BM: tl.constexpr):
    """Return the distinct integers of some rows, ``[BR, BM]``: all steps of Floyd's at once.

    A step takes its last candidate where a step before drew the same, or took it as its last: step
    k's is the k-th. The latter is asked again until nothing changes, which is soon. ``Room``
    ``[rows, count]``, int64, is written to: what all steps look at is quicker read than exchanged.
    """
    step = tl.arange(0, BM)[None, :].to(tl.int64)
    first = (bound - count)[:, None]
    stream = mix(seed.to(tl.uint64) + row.to(tl.uint64) * GAMMA)[:, None]
    state = mix(stream + step.to(tl.uint64) * GAMMA)
    numbers = (state >> 1).to(tl.int64) % tl.maximum(first + step + 1, 1)
    at = Room + row[:, None] * count + step
    inside = (row[:, None] < rows) & (step < count)
    tl.store(at, numbers, mask=inside)
    tl.debug_barrier()
    numbers = tl.load(at, mask=inside, other=0)
    taken = tl.zeros([BR, BM], tl.int32)
    for start in range(0, count, AT_ONCE):
        k, own, there = _others(Room, start, row, rows, count)
        same = (own == numbers[:, None, :]) & (k < step[:, None, :]) & there
        taken = tl.maximum(taken, tl.max(same.to(tl.int32), 1))
    back = numbers - first
    looks_back = (back >= 0) & (back < step) & inside
    may_change = tl.max(tl.max(looks_back.to(tl.int32), 1), 0)
    while may_change > 0:
        tl.debug_barrier()
        tl.store(at, taken.to(tl.int64), mask=inside)
        tl.debug_barrier()
        after = taken
        for start in range(0, count, AT_ONCE):
            k, own, there = _others(Room, start, row, rows, count)
            found = (k == back[:, None, :]) & (k < step[:, None, :]) & there & (own > 0)
            after = tl.maximum(after, tl.max(found.to(tl.int32), 1))
        # In this order, or Triton 3.2 aborts the process: it numbers what a loop carries by it.
        before, taken = taken, after
        may_change = tl.max(tl.max(after - before, 1), 0)
    all_there_are = tl.where(step < bound[:, None], step, 0)
    return tl.where(first < 0, all_there_are, tl.where(taken > 0, first + step, numbers))


@triton.jit
def _others(Room, start, row, rows, count):
    """Return some steps ``[1, k, 1]``, what they have written, and whether there are such."""
    k = start + tl.arange(0, AT_ONCE)[None, :, None].to(tl.int64)
    there = (row[:, None, None] < rows) & (k < count)
    return k, tl.load(Room + row[:, None, None] * count + k, mask=there, other=0), there


@triton.jit(do_not_specialize=["seed"])
def distinct_below(Bounds, Out, rows, count, seed, BR: tl.constexpr, BM: tl.constexpr):
    """Write distinct integers below the bounds of some rows."""
    row = tl.program_id(0).to(tl.int64) * BR + tl.arange(0, BR)
    bound = tl.load(Bounds + row, mask=row < rows, other=0)
    drawn = _distinct(Out, bound, row, rows, seed, count, BR, BM)
    tl.debug_barrier()
    place = tl.arange(0, BM)[None, :]
    inside = (row[:, None] < rows) & (place < count)
    tl.store(Out + row[:, None] * count + place, drawn, mask=inside)


@triton.jit(do_not_specialize=["Seed"])
def distinct_others(
    Ids,
    Ordered,
    Order,
    Columns,
    Mask,
    rows,
    keys,
    count,
    halvings,
    beyond,
    Seed,
    BR: tl.constexpr,
    BM: tl.constexpr,
    SEED_ON_DEVICE: tl.constexpr,
):
    """Write distinct columns of other ids than those of some rows, and which of them there are.

    The ids of the columns are ascending, those from ``beyond`` on serve nobody.
    """
    seed = tl.load(Seed) if SEED_ON_DEVICE else Seed
    row = tl.program_id(0).to(tl.int64) * BR + tl.arange(0, BR)
    own = tl.load(Ids + row, mask=row < rows, other=0)
    first = number_below(Ordered, own, keys, halvings)
    excluded = number_below(Ordered, own + 1, keys, halvings) - first
    number = number_below(Ordered, tl.zeros_like(own) + beyond, keys, halvings)
    available = number - excluded
    drawn = _distinct(Columns, available, row, rows, seed, count, BR, BM)
    tl.debug_barrier()
    drawn += tl.where(drawn >= first[:, None], excluded[:, None], 0)
    place = tl.arange(0, BM)[None, :]
    inside = (row[:, None] < rows) & (place < count)
    at = row[:, None] * count + place
    # Where a row has fewer, one past the end may be meant by what the mask leaves out.
    column = tl.load(Order + tl.minimum(drawn, keys - 1), mask=inside, other=0)
    tl.store(Columns + at, column, mask=inside)
    tl.store(Mask + at, (place < available[:, None]).to(tl.uint8), mask=inside)
