"""Random numbers one after the other, compiled by numba, for tensors on the CPU.

Whether an integer has been taken before is looked up in a hash table of its row: open addressing
with linear probing, at most a quarter full.

Import this module only where numba is installed.
"""

from __future__ import annotations

from typing import Any

import numba
import numpy as np
from torch import Tensor

from negplug.kernels.compiling import compiled, threads

# Numbers; below so many, threads cost more than they save.
_FEW = 2**15


def compiled_integers(bounds: Tensor, count: int, seed: int) -> Tensor:
    """Return distinct integers; see :func:`negplug.kernels.random.distinct_integers`."""
    drawn = bounds.new_empty(len(bounds), count)
    start = np.uint64(seed % 2**64)
    with threads(drawn.numel() >= _FEW) as at_once:
        draw = _draw_at_once if at_once else _draw_in_turn
        draw(bounds.contiguous().numpy(), start, drawn.numpy())
    return drawn


def compiled_uniforms(out: Tensor, seed: int, start: int) -> None:
    """Write uniform numbers; see :func:`negplug.kernels.random.write_uniforms`."""
    _uniforms(np.uint64(seed % 2**64), np.uint64(start // 2), out.numpy())


@compiled()
def _mix(state: Any) -> Any:
    state = (state ^ (state >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    state = (state ^ (state >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return state ^ (state >> np.uint64(31))


@compiled()
def _draw_row(i: int, bounds: Any, seed: Any, drawn: Any) -> None:
    gamma = np.uint64(0x9E3779B97F4A7C15)
    stream = _mix(seed + np.uint64(i) * gamma)
    count = drawn.shape[1]
    if bounds[i] < count:
        for step in range(count):
            drawn[i, step] = step if step < bounds[i] else 0
        return
    slots = 4
    while slots < 4 * count:
        slots *= 2
    table = np.full(slots, -1, np.int64)
    for step in range(count):
        last = bounds[i] - count + step
        number = np.int64(
            (_mix(stream + np.uint64(step) * gamma) >> np.uint64(1)) % np.uint64(last + 1)
        )
        slot = number & (slots - 1)
        while table[slot] != -1 and table[slot] != number:
            slot = (slot + 1) & (slots - 1)
        if table[slot] == number:
            number = last
            slot = number & (slots - 1)
            while table[slot] != -1:
                slot = (slot + 1) & (slots - 1)
        table[slot] = number
        drawn[i, step] = number


@compiled()
def _uniforms(seed: Any, start: Any, out: Any) -> None:
    gamma = np.uint64(0x9E3779B97F4A7C15)
    for t in range(out.size // 2):
        state = _mix(seed + (start + np.uint64(t + 1)) * gamma)
        out[2 * t] = _uniform(np.int32(state))
        out[2 * t + 1] = _uniform(np.int32(np.int64(state) >> 32))
    if out.size % 2:
        state = _mix(seed + (start + np.uint64(out.size // 2 + 1)) * gamma)
        out[out.size - 1] = _uniform(np.int32(state))


@compiled()
def _uniform(half: Any) -> Any:
    return np.float64(half) * 2.0**-32 + (0.5 + 2.0**-33)


# Two functions: on disk numba tells functions apart by name, not by how they were compiled.


@compiled()
def _draw_in_turn(bounds: Any, seed: Any, drawn: Any) -> None:
    for i in range(len(bounds)):
        _draw_row(i, bounds, seed, drawn)


@compiled(parallel=True)
def _draw_at_once(bounds: Any, seed: Any, drawn: Any) -> None:
    for i in numba.prange(len(bounds)):
        _draw_row(i, bounds, seed, drawn)
