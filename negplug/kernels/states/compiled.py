"""Logits of states, and weights of their views, by loops compiled by numba, for the CPU.

Import this module only where numba is installed.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from negplug.kernels.compiling import compiled
from negplug.kernels.loops import product
from negplug.kernels.states.result import Compared


def compiled_comparison(
    table: Tensor,
    known: Tensor,
    state: Tensor,
    place: Tensor,
    initial: Tensor,
    anchors: Tensor,
    temperature: float,
) -> Compared:
    """Return logits of states; see :func:`negplug.kernels.states.compare`."""
    given = table, known, state, place, initial, anchors
    arrays = [tensor.detach().contiguous().numpy() for tensor in given]
    return Compared(*map(torch.from_numpy, _compared(*arrays, temperature)))


def compiled_weights(compared: Compared, weight: Tensor) -> Tensor:
    """Return log weights of views; see :func:`negplug.kernels.states.view_weights`."""
    given = compared.logits, compared.log_number, compared.scores, weight
    arrays = [tensor.detach().contiguous().numpy() for tensor in given]
    return torch.from_numpy(_weighed(*arrays, 2 * torch.finfo(weight.dtype).tiny))


@compiled()
def _compared(
    table: Any, known: Any, state: Any, place: Any, initial: Any, anchors: Any, temperature: float
) -> tuple[Any, Any, Any, Any, Any]:
    (views, length), count = known.shape, len(state)
    columns = np.empty((count, views), np.int64)
    logits = np.full((views, count), -np.inf, anchors.dtype)
    log_number, scores = np.zeros(count, anchors.dtype), np.full(count, -np.inf, anchors.dtype)
    initials = np.empty(count, anchors.dtype)
    for i in range(count):
        away = state[i] >= 0 and place[i] < 0
        here = min(max(state[i], 0), length - 1)
        number, highest = 0, -np.inf
        for u in range(views):
            columns[i, u] = u * length + here
            if away and state[i] < length and known[u, here]:
                logits[u, i] = product(table[u, here], anchors[i]) / temperature
                highest = max(highest, logits[u, i])
                number += 1
        if number:
            total = 0.0
            for u in range(views):
                total += np.exp(logits[u, i] - highest)
            log_number[i] = np.log(number)
            scores[i] = highest + np.log(total) - np.log(number)
        initials[i] = scores[i] if away else initial[i]
    return columns, logits, log_number, scores, initials


@compiled()
def _weighed(logits: Any, log_number: Any, scores: Any, weight: Any, least: float) -> Any:
    views, count = logits.shape
    out = np.full((count, views), -np.inf, logits.dtype)
    for i in range(count):
        # A weight without a normal number counts as 0.
        if weight[i] > least and scores[i] > -np.inf:
            scale = np.log(weight[i]) - scores[i] - log_number[i]
            for u in range(views):
                out[i, u] = logits[u, i] + scale
    return out
