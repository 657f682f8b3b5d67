"""A Triton program of uniform random numbers: see :mod:`negplug.kernels.random`.

Import this module only where Triton is installed.
"""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def _mix(state):
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
    state = _mix(seed.to(tl.uint64) + (before + 1).to(tl.uint64) * 0x9E3779B97F4A7C15)
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
