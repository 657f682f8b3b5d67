"""Distinct random integers by sorting: what repeats its neighbour is drawn anew.

In torch operations, on any device. As many numbers are drawn anew as are missing, so those used
are the first of a row's stream, as if drawn one after the other.
"""

from __future__ import annotations

import torch
from torch import Tensor

from negplug.kernels.random.streams import drawn_in_parts, numbers_at

# Integers at a time: what a CPU's cache holds. Large temporaries cost page faults there.
_AT_ONCE = {"cpu": 2**17}
_AT_ONCE_ELSEWHERE = 2**24


def sorted_integers(bounds: Tensor, count: int, seed: Tensor) -> Tensor:
    """Return the integers in ascending order; see :mod:`negplug.kernels.random`."""
    rows = _AT_ONCE.get(bounds.device.type, _AT_ONCE_ELSEWHERE) // count
    return drawn_in_parts(_of_some, bounds, count, seed, rows)


def _of_some(streams: Tensor, bounds: Tensor, count: int) -> Tensor:
    number = torch.arange(count, device=bounds.device)
    drawn = numbers_at(streams, number, bounds).sort(1).values
    todo = torch.arange(len(bounds), device=bounds.device)
    used = torch.full_like(bounds, count)
    rows = drawn
    while True:
        repeated = torch.zeros_like(rows, dtype=torch.bool)
        repeated[:, 1:] = rows[:, 1:] == rows[:, :-1]
        missing = repeated.sum(1, keepdim=True)
        unfinished = missing[:, 0] > 0
        todo, rows, repeated = todo[unfinished], rows[unfinished], repeated[unfinished]
        if not len(todo):
            return drawn
        next_ones = repeated.cumsum(1) - 1 + used[todo]
        anew = numbers_at(streams[todo], next_ones, bounds[todo])
        rows = torch.where(repeated, anew, rows).sort(1).values
        used[todo] += missing[unfinished]
        drawn[todo] = rows
