"""Resampling of a few chains by a loop, compiled by numba, for tensors on the CPU.

Import this module only where numba is installed.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from negplug.kernels.chain.result import Moves
from negplug.kernels.compiling import compiled


def compiled_resampling(scores: Tensor, noise: Tensor, initial: Tensor, place: Tensor) -> Moves:
    """Return what :func:`negplug.kernels.chain.resample` returns; see there for the arguments."""
    given = scores.T, noise.T, initial, place
    arrays = [tensor.detach().contiguous().numpy() for tensor in given]
    weights, last, accepted = map(torch.from_numpy, _resampled(*arrays))
    return Moves(weights[1:].T, weights[0], last, accepted)


@compiled()
def _resampled(scores: Any, noise: Any, initial: Any, place: Any) -> tuple[Any, Any, Any]:
    count, chains = scores.shape
    weights = np.zeros((1 + count, chains), scores.dtype)
    last, accepted = np.full(chains, -1, np.int64), np.full(chains, np.nan, scores.dtype)
    for i in range(chains):
        weights[0, i] = initial[i] if place[i] < 0 else -np.inf
        inside = -np.inf
        best = weights[0, i] + noise[0, i]
        for j in range(count):
            inside = max(inside, scores[j, i])
            weights[1 + j, i] = scores[j, i]
            noisy = scores[j, i] + noise[1 + j, i]
            if noisy > best:
                best, last[i] = noisy, j
        highest = max(inside, weights[0, i])
        if inside > -np.inf:
            accepted[i] = last[i] >= 0 and last[i] != place[i]
        total = 0.0
        for j in range(1 + count):
            weights[j, i] = np.exp(weights[j, i] - highest) if highest > -np.inf else 0
            total += weights[j, i]
        for j in range(1 + count):
            weights[j, i] /= total if total > 0 else 1.0
    return weights, last, accepted
