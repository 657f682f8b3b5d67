"""Distinct random integers in torch operations, on any device, of shapes that are known before.

Floyd's algorithm (:mod:`negplug.kernels.random`) asks at each step whether t_i has been taken. All
steps at once: step i takes its last candidate j_i in place of t_i iff

    t_i = t_k for some k < i,   or t_i = j_k for some k < i that took j_k in place of t_k.

The first is found by sorting. The second follows steps back, t_i = j_k for k = t_i − (b − M), so
that ⌈log₂ M⌉ rounds of pointer jumping settle it. (j_k that was drawn itself, t_k = j_k, is a case
of the first.)
"""

from __future__ import annotations

import torch
from torch import Tensor

from negplug.kernels.late import free_to_read, known
from negplug.kernels.random.hashing import GAMMA, mix_, shift

# Numbers at a time: what a CPU's cache holds. Large temporaries cost page faults there.
_AT_ONCE = {"cpu": 2**17}
_AT_ONCE_ELSEWHERE = 2**26


def floyd_integers(bounds: Tensor, count: int, seed: int | Tensor) -> Tensor:
    """Return the integers as drawn; see :func:`negplug.kernels.random.distinct_integers`."""
    drawn = _of_all(bounds.clamp(min=count), count, seed)
    if free_to_read(bounds.device) and known(bounds.min()) >= count:
        return drawn
    step, bounds = torch.arange(count, device=bounds.device), bounds[:, None]
    return torch.where(bounds < count, torch.where(step < bounds, step, 0), drawn)


def _of_all(bounds: Tensor, count: int, seed: int | Tensor) -> Tensor:
    """Return the integers of bounds that are at least ``count``."""
    streams = torch.arange(len(bounds), device=bounds.device).mul_(GAMMA).add_(seed)
    streams = mix_(streams, torch.empty_like(streams))
    rows = max(_AT_ONCE.get(bounds.device.type, _AT_ONCE_ELSEWHERE) // count, 1)
    if len(bounds) <= rows:
        return _of_some(streams[:, None], bounds[:, None], count)
    drawn = bounds.new_empty(len(bounds), count)
    parts = (torch.split(whole, rows) for whole in (drawn, streams, bounds))
    for out, stream, bound in zip(*parts, strict=True):
        out.copy_(_of_some(stream[:, None], bound[:, None], count))
    return drawn


def _of_some(streams: Tensor, bounds: Tensor, count: int) -> Tensor:
    """Return the integers of some streams ``[n, 1]``, ``[n, M]``."""
    step = torch.arange(count, device=streams.device)
    states = streams + step * GAMMA
    spare = torch.empty_like(states)
    last = bounds - count + step
    numbers = shift(mix_(states, spare), 1, spare).remainder_(last + 1)
    # Stable, so that of equal numbers the earliest comes first and is not a repetition.
    ordered, order = numbers.sort(dim=1, stable=True)
    repeated = torch.zeros_like(ordered, dtype=torch.bool)
    repeated[:, 1:] = ordered[:, 1:] == ordered[:, :-1]
    takes_last = torch.empty_like(repeated).scatter_(1, order, repeated)
    back = numbers - (bounds - count)
    back = torch.where(back < 0, step, back)
    for _ in range((count - 1).bit_length()):
        takes_last = takes_last | takes_last.gather(1, back)
        back = back.gather(1, back)
    return torch.where(takes_last, last, numbers)
