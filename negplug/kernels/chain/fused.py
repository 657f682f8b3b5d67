"""Chains in one launch on a GPU: see :mod:`negplug.kernels.chain.programs`.

Import this module only where Triton is installed.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from negplug.kernels.chain.programs import (
    entries_of_chains,
    moves_of_chains,
    resampled_chains,
    walk_of_chains,
)
from negplug.kernels.chain.result import Moves, Walk
from negplug.kernels.launching import launch
from negplug.kernels.sizes import cdiv, power_of_2

# Chains of one program: neighbours in memory, which a device reads together.
_CHAINS = 4
# Entries of a program.
_ENTRIES = 8192
# Chains of a program that looks at one entry of each.
_SINGLE = 256


def fused_walk(scores: Tensor, noise: Tensor, initial: Tensor, burn_in: Tensor) -> Walk:
    """Return what :func:`negplug.kernels.chain.walk` returns; see there for the arguments.

    Quickest where ``scores.T`` and ``noise.T`` are contiguous; ``counts.T`` is.
    """
    return Walk(*_launched(walk_of_chains, scores, noise, initial, burn_in))


def fused_moves(
    scores: Tensor, noise: Tensor, initial: Tensor, place: Tensor, burn_in: float
) -> Moves:
    """Return what :func:`negplug.kernels.chain.chain_moves` returns."""
    kind = {"BURN_IN": burn_in, "SHARE": isinstance(burn_in, float)}
    return Moves(*_launched(moves_of_chains, scores, noise, initial, place, **kind))


def fused_resample(scores: Tensor, noise: Tensor, initial: Tensor, place: Tensor) -> Moves:
    """Return what :func:`negplug.kernels.chain.resample` returns."""
    return Moves(*_launched(resampled_chains, scores, noise, initial, place))


def fused_pick(values: Tensor, place: Tensor, otherwise: Tensor) -> Tensor:
    """Return what :func:`negplug.kernels.chain.pick` returns."""
    found = torch.empty_like(otherwise, memory_format=torch.contiguous_format)
    launch(
        entries_of_chains,
        (cdiv(len(place), _SINGLE),),
        values,
        place.contiguous(),
        otherwise.contiguous(),
        found,
        len(place),
        *values.stride(),
        BN=_SINGLE,
    )
    return found


def _launched(
    program: Any, scores: Tensor, noise: Tensor, initial: Tensor, last: Tensor, **kind: Any
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Launch a program over some chains at a time, and return what it writes.

    Args:
        program: Whose arguments begin with these, and with what it writes.
        scores: ``[N, C]``.
        noise: ``[N, …]``.
        initial: ``[N]``.
        last: ``[N]`` int64.
        **kind: Further constants of the program.
    """
    chains, steps = scores.shape
    entries = scores.new_empty(steps, chains)
    one, other = scores.new_empty(2, chains)
    state = scores.new_empty(chains, dtype=torch.int64)
    rows = power_of_2(steps)
    width = max(1, min(_CHAINS, _ENTRIES // rows))
    launch(
        program,
        (cdiv(chains, width),),
        scores.T.contiguous(),
        noise.T.contiguous(),
        initial.contiguous(),
        last.contiguous(),
        entries,
        one,
        state,
        other,
        chains,
        steps,
        BN=width,
        BR=rows,
        **kind,
        num_warps=8 if rows * width > 2048 else 4,
    )
    return entries.T, one, state, other
