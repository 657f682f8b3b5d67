"""Logits of states by a loop, compiled by numba, for tensors on the CPU.

Import this module only where numba is installed.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from negplug.kernels.compiling import compiled
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


# Of a sum, the compiler may choose the order, once and for all.
@compiled(fastmath={"reassoc", "contract"})
def _product(one: Any, other: Any) -> Any:
    total = 0.0
    for k in range(len(one)):
        total += np.float64(one[k]) * np.float64(other[k])
    return total


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
                logits[u, i] = _product(table[u, here], anchors[i]) / temperature
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
