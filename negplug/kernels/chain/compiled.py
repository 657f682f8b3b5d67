"""Chains as the plain loop over proposals, compiled by numba, for tensors on the CPU.

Import this module only where numba is installed.
"""

from __future__ import annotations

from typing import Any

import numba
import numpy as np
import torch
from torch import Tensor

from negplug.kernels.chain.result import Walk
from negplug.kernels.compiling import compiled, threads

# Below so many proposals the loop takes a few milliseconds at most. Threads may take longer, where
# they wait for a core that a data loader holds.
_FEW = 2**20


def compiled_walk(scores: Tensor, noise: Tensor, initial: Tensor, burn_in: Tensor) -> Walk:
    """Return what :func:`negplug.kernels.chain.walk` returns; see there for the arguments."""
    chains = len(scores)
    walk = Walk(
        torch.empty(scores.shape, dtype=torch.int32),
        torch.empty(chains, dtype=torch.int32),
        torch.empty(chains, dtype=torch.int64),
        torch.empty(chains, dtype=torch.int32),
    )
    arguments = (scores, noise, initial, burn_in, *walk)
    # One memory layout, so that there is one compiled function for each dtype.
    arrays = [tensor.detach().contiguous().numpy() for tensor in arguments]
    with threads(scores.numel() >= _FEW) as at_once:
        (_walk_at_once if at_once else _walk_in_turn)(*arrays)
    return walk


@compiled()
def _walk_one(
    i: int,
    scores: Any,
    noise: Any,
    initial: Any,
    burn_in: Any,
    counts: Any,
    stayed: Any,
    last: Any,
    accepted: Any,
) -> None:
    current = initial[i]
    # Draws of the initial state, then of each proposal.
    draws = np.zeros(scores.shape[1] + 1, np.int32)
    place = 0
    moves = 0
    uncounted = burn_in[i]
    # Selections, not branches: a processor cannot predict what is accepted.
    for j in range(scores.shape[1]):
        score = scores[i, j]
        proposed = score != -np.inf
        # False where there is no proposal: -inf, and -inf + inf, exceed nothing.
        accept = score + noise[i, j] > current
        current = score if accept else current
        place = j + 1 if accept else place
        moves += accept
        draws[place] += proposed and uncounted <= 0
        uncounted -= proposed
    stayed[i] = draws[0]
    for j in range(scores.shape[1]):
        counts[i, j] = draws[j + 1]
    last[i] = place - 1
    accepted[i] = moves


# Two functions: on disk numba tells functions apart by name, not by how they were compiled.


@compiled()
def _walk_in_turn(*arrays: Any) -> None:
    for i in range(arrays[0].shape[0]):
        _walk_one(i, *arrays)


@compiled(parallel=True)
def _walk_at_once(*arrays: Any) -> None:
    for i in numba.prange(arrays[0].shape[0]):
        _walk_one(i, *arrays)
