"""Random numbers one after the other, compiled by numba, for tensors on the CPU.

Whether a distinct integer has been drawn before is looked up in a hash table of its row: open
addressing with linear probing, at most a quarter full.

Import this module only where numba is installed.
"""

from __future__ import annotations

from typing import Any

import numba
import numpy as np
import torch
from torch import Tensor

from negplug.kernels.compiling import compiled, threads

# Numbers; below so many, threads cost more than they save.
_FEW = 2**15
_FEW_UNIFORMS = 2**20


def compiled_integers(bounds: Tensor, count: int, seed: Tensor) -> Tensor:
    """Return distinct integers; see :func:`negplug.kernels.random.distinct_integers`."""
    drawn = torch.empty(len(bounds), count, dtype=torch.int64)
    start = np.uint64(int(seed) % 2**64)
    with threads(drawn.numel() >= _FEW) as at_once:
        draw = _draw_at_once if at_once else _draw_in_turn
        draw(bounds.contiguous().numpy(), start, drawn.numpy())
    return drawn


def compiled_uniforms(count: int, seed: Tensor) -> Tensor:
    """Return uniform numbers; see :func:`negplug.kernels.random.uniforms`."""
    drawn = torch.empty(count, dtype=torch.float64)
    start = np.uint64(int(seed) % 2**64)
    with threads(count >= _FEW_UNIFORMS) as at_once:
        (_uniforms_at_once if at_once else _uniforms_in_turn)(start, drawn.numpy())
    return drawn


@compiled()
def _mix(state: Any) -> Any:
    state = (state ^ (state >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    state = (state ^ (state >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return state ^ (state >> np.uint64(31))


@compiled()
def _draw_row(i: int, bounds: Any, seed: Any, drawn: Any) -> None:
    gamma = np.uint64(0x9E3779B97F4A7C15)
    stream = _mix(seed + np.uint64(i) * gamma)
    bound = np.uint64(bounds[i])
    count = drawn.shape[1]
    slots = 4
    while slots < 4 * count:
        slots *= 2
    table = np.full(slots, -1, np.int64)
    found = 0
    place = np.uint64(0)
    while found < count:
        number = np.int64((_mix(stream + place * gamma) >> np.uint64(1)) % bound)
        place += np.uint64(1)
        slot = number & (slots - 1)
        while table[slot] != -1 and table[slot] != number:
            slot = (slot + 1) & (slots - 1)
        if table[slot] == -1:
            table[slot] = number
            drawn[i, found] = number
            found += 1


@compiled()
def _uniforms(seed: Any, drawn: Any, start: int, stop: int) -> None:
    for t in range(start, stop):
        state = _mix(seed + np.uint64(t + 1) * np.uint64(0x9E3779B97F4A7C15))
        # Through a signed integer, for which there is a vector instruction everywhere.
        drawn[t] = (np.float64(np.int64(state >> np.uint64(12))) + 0.5) * 2.0**-52


# Two functions each: on disk numba tells functions apart by name, not by how they were compiled.


@compiled()
def _draw_in_turn(bounds: Any, seed: Any, drawn: Any) -> None:
    for i in range(len(bounds)):
        _draw_row(i, bounds, seed, drawn)


@compiled(parallel=True)
def _draw_at_once(bounds: Any, seed: Any, drawn: Any) -> None:
    for i in numba.prange(len(bounds)):
        _draw_row(i, bounds, seed, drawn)


@compiled()
def _uniforms_in_turn(seed: Any, drawn: Any) -> None:
    _uniforms(seed, drawn, 0, len(drawn))


@compiled(parallel=True)
def _uniforms_at_once(seed: Any, drawn: Any) -> None:
    parts = 64
    for part in numba.prange(parts):
        _uniforms(seed, drawn, len(drawn) * part // parts, len(drawn) * (part + 1) // parts)
