"""Weights, means and products of draws by loops, compiled by numba, for few draws on the CPU.

Of few draws an operation of torch costs more than its arithmetic. See
:mod:`negplug.kernels.posterior`.

Import this module only where numba is installed.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from torch import Tensor

from negplug.kernels.compiling import compiled
from negplug.kernels.loops import product
from negplug.kernels.posterior import plain
from negplug.kernels.posterior.draws import WeightedDraws

# In place of a mask and of ids that are not given.
_ALL = np.ones((1, 1), np.bool_)
_NO_IDS = np.empty(0, np.int64)


def weights(
    drawn: WeightedDraws, shape: tuple[int, int], pool: Tensor, total: Tensor | None
) -> tuple[Tensor, Tensor]:
    """Return weights and their sums; see :func:`negplug.kernels.posterior.plain.weights`."""
    if drawn.pairs is not None or drawn.log_weight is None:
        return plain.weights(drawn, shape, pool, total)
    sums = pool.new_zeros(shape[0]) if total is None else total
    weight = pool.new_empty(shape)
    tiny = torch.finfo(pool.dtype).tiny
    mask = _ALL if drawn.mask is None else drawn.mask.numpy()
    ids = (_NO_IDS, _NO_IDS) if drawn.ids is None else [each.numpy() for each in drawn.ids]
    # Of 4 · tiny and less, nothing is left.
    bounds = math.log(4 * tiny), -math.log(tiny) - 1
    log_weight = drawn.log_weight.expand(shape).numpy()
    _weigh(log_weight, np.broadcast_to(mask, shape), *ids, *bounds, weight.numpy(), sums.numpy())
    return weight, sums


def added(mean: Tensor | None, weight: Tensor, columns: Tensor, pool: Tensor) -> Tensor:
    """Return a mean and the weighted rows of columns; see :func:`.plain.added`."""
    sums = pool.new_zeros(len(weight), pool.shape[1]) if mean is None else mean
    arrays = weight.numpy(), columns.numpy(), pool.detach().contiguous().numpy(), sums.numpy()
    if not _add(*arrays):
        raise IndexError(f"columns must lie in [0, {len(pool)}), the rows of the pool")
    return sums


def products(anchors: Tensor, mean: Tensor, total: Tensor, temperature: float) -> Tensor:
    """Return ⟨a_i, z̄_i⟩/τ ``[N]``, -inf where the total is 0."""
    found = torch.empty_like(total)
    arrays = [anchors.detach().contiguous().numpy(), mean.numpy(), total.numpy(), found.numpy()]
    _multiply(*arrays, temperature)
    return found


def gradients(
    grad: Tensor, mean: Tensor, total: Tensor, anchors: Tensor | None, temperature: float
) -> tuple[Tensor, Tensor | None]:
    """Return the gradients of anchors and means; see :func:`.plain.gradients`."""
    given = grad.contiguous(), mean, total, mean if anchors is None else anchors.contiguous()
    passed, scaled = mean.new_empty(2, *mean.shape)
    _pass_on(*(each.detach().numpy() for each in (*given, passed, scaled)), temperature)
    return passed, None if anchors is None else scaled


@compiled()
def _weigh(
    log_weight: Any,
    mask: Any,
    anchor_ids: Any,
    row_ids: Any,
    least: float,
    most: float,
    weight: Any,
    sums: Any,
) -> None:
    named = len(anchor_ids) > 0
    for i in range(weight.shape[0]):
        total = 0.0
        for e in range(weight.shape[1]):
            value = log_weight[i, e]
            excluded = not mask[i, e] or (named and anchor_ids[i] == row_ids[e])
            if excluded or value <= least:
                weight[i, e] = 0.0
            else:
                weight[i, e] = np.exp(min(value, most))
                total += weight[i, e]
        sums[i] += total


@compiled()
def _add(weight: Any, columns: Any, pool: Any, sums: Any) -> bool:
    for i in range(weight.shape[0]):
        for e in range(weight.shape[1]):
            j = columns[i, e]
            if j < 0 or j >= len(pool):
                return False
            for k in range(pool.shape[1]):
                sums[i, k] += weight[i, e] * pool[j, k]
    return True


@compiled()
def _multiply(anchors: Any, mean: Any, total: Any, found: Any, temperature: float) -> None:
    for i in range(len(found)):
        found[i] = -np.inf if total[i] == 0 else product(anchors[i], mean[i]) / temperature


@compiled()
def _pass_on(
    grad: Any, mean: Any, total: Any, anchors: Any, passed: Any, scaled: Any, temperature: float
) -> None:
    for i in range(len(grad)):
        factor = 0.0 if total[i] == 0 else grad[i] / temperature
        for k in range(mean.shape[1]):
            passed[i, k] = mean[i, k] * factor
            scaled[i, k] = anchors[i, k] * factor
