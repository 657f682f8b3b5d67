"""What a step of chains leaves behind."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor


class Walk(NamedTuple):
    """Counted draws and final states of N chains of R proposals each.

    Numbers have the dtype of the scores, in which they are multiplied: float32 is exact up to 2²⁴.

    Attributes:
        counts: ``[N, R]``, how many of a chain's counted draws are proposal j.
        stayed: ``[N]``, how many of them are still the initial state.
        last: ``[N]`` int64, column of the final state; -1 is the initial state.
        accepted: ``[N]``, number of accepted proposals.
    """

    counts: Tensor
    stayed: Tensor
    last: Tensor
    accepted: Tensor


class Moves(NamedTuple):
    """Where N chains went in a step.

    Attributes:
        weights: ``[N, C]``, the weight of each proposed sample in a chain's draws.
        outside: ``[N]``, the weight of the state that the chain came with, if that is not among
            the proposed samples; otherwise 0.
        last: ``[N]`` int64, the column of the final state; -1 = the one that it came with.
        accepted: ``[N]``, how much of what was proposed was accepted, in [0, 1]; NaN if nothing
            was.
    """

    weights: Tensor
    outside: Tensor
    last: Tensor
    accepted: Tensor
