"""A stream of random integers for each row, in torch operations, on any device.

See :mod:`negplug.kernels.random`. Kernels that draw distinct ones differ in how they find what
repeats an earlier number.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from negplug.kernels.random.hashing import GAMMA, mix_, shift

OfSome = Callable[[Tensor, Tensor, int], Tensor]
"""(streams ``[n, 1]``, bounds ``[n, 1]``, M) → distinct integers ``[n, M]`` of some rows."""


def drawn_in_parts(of_some: OfSome, bounds: Tensor, count: int, seed: Tensor, rows: int) -> Tensor:
    """Return distinct integers ``[N, M]``, some rows after the others.

    Args:
        of_some: Draws them.
        bounds: ``[N]`` int64.
        count: M.
        seed: One int64.
        rows: At a time; one at least.
    """
    number = torch.arange(len(bounds), device=bounds.device)
    streams = mix_(seed + number * GAMMA, torch.empty_like(number))
    drawn = bounds.new_empty(len(bounds), count)
    parts = (torch.split(whole, max(rows, 1)) for whole in (drawn, streams, bounds))
    for out, stream, bound in zip(*parts, strict=True):
        out.copy_(of_some(stream[:, None], bound[:, None], count))
    return drawn


def numbers_at(streams: Tensor, places: Tensor, bounds: Tensor) -> Tensor:
    """Return the numbers at some places of some streams."""
    states = streams + places * GAMMA
    spare = torch.empty_like(states)
    return shift(mix_(states, spare), 1, spare).remainder_(bounds)
