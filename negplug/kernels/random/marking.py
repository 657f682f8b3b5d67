"""Distinct random integers by marks: what is drawn is set in a row of truth values.

In torch operations, on any device; quicker than sorting where a good part of all is drawn. As many
numbers are drawn anew as are missing, so those used are the first of a row's stream, as if drawn
one after the other.
"""

from __future__ import annotations

import torch
from torch import Tensor

from negplug.kernels.random.streams import drawn_in_parts, numbers_at

# Marks at a time: what a CPU's cache holds. Large temporaries cost page faults there.
_AT_ONCE = {"cpu": 2**20}
_AT_ONCE_ELSEWHERE = 2**26


def marked_integers(bounds: Tensor, count: int, seed: Tensor) -> Tensor:
    """Return the integers in ascending order; see :mod:`negplug.kernels.random`."""
    rows = _AT_ONCE.get(bounds.device.type, _AT_ONCE_ELSEWHERE) // int(bounds.max())
    return drawn_in_parts(_of_some, bounds, count, seed, rows)


def _of_some(streams: Tensor, bounds: Tensor, count: int) -> Tensor:
    marks = torch.zeros(len(bounds), int(bounds.max()), dtype=torch.bool, device=bounds.device)
    place = torch.arange(count, device=bounds.device)
    numbers = numbers_at(streams, place, bounds)
    some = numbers[:, :1]
    marks.scatter_(1, numbers, True)
    used = torch.full_like(bounds, count)
    while True:
        missing = count - marks.sum(1, keepdim=True)
        widest = int(missing.max())
        if not widest:
            return marks.nonzero()[:, 1].view(len(bounds), count)
        slot = place[:widest]
        numbers = numbers_at(streams, used + slot, bounds)
        # Beyond what is missing, one that is marked already.
        marks.scatter_(1, torch.where(slot < missing, numbers, some), True)
        used += missing
