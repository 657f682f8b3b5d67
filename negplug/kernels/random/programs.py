"""Triton programs of uniform numbers and of distinct integers: see :mod:`negplug.kernels.random`.

Import this module only where Triton is installed.
"""

from __future__ import annotations

import triton
import triton.language as tl

from negplug.kernels.searching import number_below

GAMMA = tl.constexpr(0x9E3779B97F4A7C15)


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
def _distinct(bound, row, seed, count, BR: tl.constexpr, BM: tl.constexpr):
    """Return the distinct integers of some rows, ``[BR, BM]``, one step of Floyd's at a time."""
    step = tl.arange(0, BM)[None, :].to(tl.int64)
    first = (bound - count)[:, None]
    stream = mix(seed.to(tl.uint64) + row.to(tl.uint64) * GAMMA)[:, None]
    state = mix(stream + step.to(tl.uint64) * GAMMA)
    numbers = (state >> 1).to(tl.int64) % tl.maximum(first + step + 1, 1)
    drawn = tl.full([BR, BM], -1, tl.int64)
    for place in range(count):
        here = step == place
        number = tl.sum(tl.where(here, numbers, 0), 1, keep_dims=True)
        taken = tl.max((drawn == number).to(tl.int32), 1, keep_dims=True) > 0
        drawn = tl.where(here, tl.where(taken, first + place, number), drawn)
    all_there_are = tl.where(step < bound[:, None], step, 0)
    return tl.where(first < 0, all_there_are, drawn)


@triton.jit(do_not_specialize=["seed"])
def distinct_below(Bounds, Out, rows, count, seed, BR: tl.constexpr, BM: tl.constexpr):
    """Write distinct integers below the bounds of some rows."""
    row = tl.program_id(0).to(tl.int64) * BR + tl.arange(0, BR)
    bound = tl.load(Bounds + row, mask=row < rows, other=0)
    drawn = _distinct(bound, row, seed, count, BR, BM)
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
    drawn = _distinct(available, row, seed, count, BR, BM)
    drawn += tl.where(drawn >= first[:, None], excluded[:, None], 0)
    place = tl.arange(0, BM)[None, :]
    inside = (row[:, None] < rows) & (place < count)
    at = row[:, None] * count + place
    # Where a row has fewer, one past the end may be meant by what the mask leaves out.
    column = tl.load(Order + tl.minimum(drawn, keys - 1), mask=inside, other=0)
    tl.store(Columns + at, column, mask=inside)
    tl.store(Mask + at, (place < available[:, None]).to(tl.uint8), mask=inside)
