"""What a walk of Metropolis–Hastings chains leaves behind."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor


class Walk(NamedTuple):
    """Counted draws and final states of N chains of R proposals each.

    Attributes:
        counts: ``[N, R]`` int32, how many of a chain's counted draws are proposal j.
        stayed: ``[N]`` int32, how many of them are still the initial state.
        last: ``[N]`` int64, column of the final state; -1 is the initial state.
        accepted: ``[N]`` int32, number of accepted proposals.
    """

    counts: Tensor
    stayed: Tensor
    last: Tensor
    accepted: Tensor
