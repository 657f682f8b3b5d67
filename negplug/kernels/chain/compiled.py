"""Chains as the plain loop over proposals, compiled by numba, for tensors on the CPU.

Chains go in lock step, a block of them at a time: a proposal is then a handful of selections over
neighbours in memory, which the compiler turns into vector instructions. How often a proposal is
drawn follows on the way back: with W_j the draws counted before step j, an accepted proposal j is
drawn W' − W_j times, where W' is the W of the next accepted step.

Import this module only where numba is installed.
"""

from __future__ import annotations

from typing import Any

import numba
import numpy as np
import torch
from torch import Tensor

from negplug.kernels.chain.result import Moves, Walk
from negplug.kernels.compiling import compiled, threads

# Below so many proposals the loop takes a millisecond at most. Threads may take longer, where
# they wait for a core that a data loader holds.
_FEW = 2**20

# Chains in lock step: what they carry along stays in the first cache, and memory is read in long
# runs, which a processor foresees.
_BLOCK = 512


def compiled_walk(scores: Tensor, noise: Tensor, initial: Tensor, burn_in: Tensor) -> Walk:
    """Return what :func:`negplug.kernels.chain.walk` returns; see there for the arguments.

    Quickest where ``scores.T`` and ``noise.T`` are contiguous; ``counts.T`` is.
    """
    arrays = _arrays(scores.T, noise.T, initial, burn_in)
    counts, stayed, last, accepted = map(torch.from_numpy, _walked(*arrays))
    return Walk(counts.T, stayed, last, accepted)


def compiled_moves(
    scores: Tensor, noise: Tensor, initial: Tensor, place: Tensor, burn_in: float
) -> Moves:
    """Return what :func:`negplug.kernels.chain.chain_moves` returns; see there."""
    rows, more, first, places = _arrays(scores.T, noise.T, initial, place)
    proposed = _proposed(rows)
    most = np.maximum(proposed - 1, 0)
    share = isinstance(burn_in, float)
    passed = np.minimum((proposed * burn_in).astype(np.int64) if share else burn_in, most)
    counts, stayed, last, accepted = _walked(rows, more, first, passed)
    _weigh(proposed, passed, first, places, counts, stayed, accepted)
    weights, outside, last, accepted = map(torch.from_numpy, (counts, stayed, last, accepted))
    return Moves(weights.T, outside, last, accepted)


def _arrays(*tensors: Tensor) -> list[Any]:
    """Return arrays of one memory layout, so that there is one compiled function for each dtype."""
    return [tensor.detach().contiguous().numpy() for tensor in tensors]


def _walked(scores: Any, noise: Any, initial: Any, burn_in: Any) -> tuple[Any, Any, Any, Any]:
    """Return counts, stays, last columns and numbers of accepted proposals of a walk."""
    counts, last = np.empty_like(scores), np.empty(len(initial), np.int64)
    stayed, accepted = np.empty_like(initial), np.empty_like(initial)
    with threads(scores.size >= _FEW) as at_once:
        walk = _walk_at_once if at_once else _walk_in_turn
        walk(scores, noise, initial, burn_in, counts, stayed, last, accepted)
    return counts, stayed, last, accepted


@compiled()
def _proposed(scores: Any) -> Any:
    """Return how many proposals each chain has."""
    number = np.zeros(scores.shape[1], np.int64)
    for j in range(scores.shape[0]):
        for i in range(scores.shape[1]):
            number[i] += scores[j, i] != -np.inf
    return number


@compiled()
def _weigh(
    proposed: Any, passed: Any, initial: Any, place: Any, counts: Any, stayed: Any, accepted: Any
) -> None:
    """Make weights of draws out of their numbers, and shares of the numbers of what is accepted."""
    one = np.ones(1, counts.dtype)[0]
    share = np.empty_like(stayed)
    for i in range(len(share)):
        share[i] = one / max(proposed[i] - passed[i], 1)
    for j in range(len(counts)):
        for i in range(len(share)):
            counts[j, i] *= share[i]
    for i in range(len(share)):
        idle = proposed[i] == passed[i] and initial[i] > -np.inf
        # Where nothing is proposed, the state is still a draw.
        stayed[i] = one if idle else stayed[i] * share[i]
        if place[i] >= 0:
            counts[place[i], i] += stayed[i]
            stayed[i] = 0
        accepted[i] = accepted[i] / proposed[i] if proposed[i] else np.nan


@compiled()
def _walk_block(
    start: int,
    scores: Any,
    noise: Any,
    initial: Any,
    burn_in: Any,
    counts: Any,
    stayed: Any,
    last: Any,
    accepted: Any,
) -> None:
    steps = scores.shape[0]
    width = min(_BLOCK, scores.shape[1] - start)
    stop = start + width
    current = initial[start:stop].copy()
    place = np.full(width, -1, np.int32)
    moves = np.zeros(width, np.int32)
    # Minus the proposals that are still uncounted, then the number of those that are counted.
    counted = np.empty(width, np.int32)
    for i in range(width):
        counted[i] = -min(burn_in[start + i], steps)
    for j in range(steps):
        score, more, accepts = scores[j, start:stop], noise[j, start:stop], counts[j, start:stop]
        # Selections, not branches: a processor cannot predict what is accepted.
        for i in range(width):
            # False where there is no proposal: -inf, and -inf + inf, exceed nothing.
            accept = score[i] + more[i] > current[i]
            current[i] = score[i] if accept else current[i]
            place[i] = j if accept else place[i]
            moves[i] += accept
            counted[i] += score[i] != -np.inf
            accepts[i] = accept
    until = np.maximum(counted, np.int32(0))
    for j in range(steps - 1, -1, -1):
        score, draws = scores[j, start:stop], counts[j, start:stop]
        for i in range(width):
            counted[i] -= score[i] != -np.inf
            before = max(counted[i], np.int32(0))
            accept = draws[i] != 0
            draws[i] = until[i] - before if accept else 0
            until[i] = before if accept else until[i]
    for i in range(width):
        stayed[start + i] = until[i]
        last[start + i] = place[i]
        accepted[start + i] = moves[i]


# Two functions: on disk numba tells functions apart by name, not by how they were compiled.


@compiled()
def _walk_in_turn(*arrays: Any) -> None:
    for start in range(0, arrays[0].shape[1], _BLOCK):
        _walk_block(start, *arrays)


@compiled(parallel=True)
def _walk_at_once(*arrays: Any) -> None:
    for block in numba.prange((arrays[0].shape[1] + _BLOCK - 1) // _BLOCK):
        _walk_block(block * _BLOCK, *arrays)
