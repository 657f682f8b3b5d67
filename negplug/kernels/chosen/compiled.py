"""Similarities of chosen pairs by loops, compiled by numba, for tensors on the CPU.

Forward and to the anchors, rows are independent. To the pool, the pairs are first put in the order
of their rows (a counting sort), and then rows of the pool are independent: each sums over its
anchors in ascending order, whatever the number of threads.

Import this module only where numba is installed.
"""

from __future__ import annotations

from typing import Any

import numba
import numpy as np
import torch
from torch import Tensor

from negplug.kernels.chosen.gradient import differentiable
from negplug.kernels.compiling import compiled, threads

# Numbers that are read. Below so many, threads cost more than they save.
_FEW = 2**18

# Of a sum, the compiler may choose the order, once and for all.
_SUMS = {"reassoc", "contract"}


def _products(anchors: Tensor, pool: Tensor, columns: Tensor) -> Tensor:
    products = anchors.new_empty(columns.shape)
    arrays = [tensor.detach().numpy() for tensor in (anchors, pool, columns, products)]
    with threads(columns.numel() * anchors.shape[1] >= _FEW) as at_once:
        inside = (_products_at_once if at_once else _products_in_turn)(*arrays)
    if not inside:
        raise IndexError(f"columns must lie in [0, {len(pool)}), the rows of the pool")
    return products


def _gradients(
    grad: Tensor, anchors: Tensor, pool: Tensor, columns: Tensor, wanted: tuple[bool, bool]
) -> tuple[Tensor | None, Tensor | None]:
    rows, keys, chosen = anchors.detach().numpy(), pool.detach().numpy(), columns.numpy()
    weights = grad.numpy()
    grad_anchors = torch.empty_like(anchors) if wanted[0] else None
    both = anchors is pool and wanted == (True, True)
    grad_pool = grad_anchors if both else torch.empty_like(pool) if wanted[1] else None
    with threads(columns.numel() * anchors.shape[1] >= _FEW) as at_once:
        if grad_anchors is not None:
            sums = _anchors_at_once if at_once else _anchors_in_turn
            sums(weights, keys, chosen, grad_anchors.numpy())
        if grad_pool is not None:
            sums = _pool_at_once if at_once else _pool_in_turn
            sums(*_by_row(weights, chosen, len(pool)), rows, grad_pool.numpy(), not both)
    return grad_anchors, None if both else grad_pool


compiled_similarities = differentiable(_products, _gradients)


@compiled(fastmath=_SUMS)
def _products_of(i: int, anchors: Any, pool: Any, columns: Any, products: Any) -> bool:
    inside = True
    for m in range(columns.shape[1]):
        j = columns[i, m]
        if j < 0 or j >= pool.shape[0]:
            inside = False
            continue
        # In float64: the rounding of a sum in float32 is the largest error of a steep softmax.
        total = 0.0
        for k in range(anchors.shape[1]):
            total += np.float64(anchors[i, k]) * np.float64(pool[j, k])
        products[i, m] = total
    return inside


@compiled(fastmath=_SUMS)
def _anchor_sum(i: int, weights: Any, pool: Any, columns: Any, sums: Any) -> None:
    for k in range(pool.shape[1]):
        sums[i, k] = 0
    for m in range(columns.shape[1]):
        j, weight = columns[i, m], weights[i, m]
        for k in range(pool.shape[1]):
            sums[i, k] += weight * pool[j, k]


@compiled(fastmath=_SUMS)
def _pool_sum(
    j: int, weights: Any, owners: Any, starts: Any, anchors: Any, sums: Any, fresh: bool
) -> None:
    if fresh:
        for k in range(anchors.shape[1]):
            sums[j, k] = 0
    for place in range(starts[j], starts[j + 1]):
        i, weight = owners[place], weights[place]
        for k in range(anchors.shape[1]):
            sums[j, k] += weight * anchors[i, k]


@compiled()
def _by_row(weights: Any, columns: Any, count: int) -> tuple[Any, Any, Any]:
    """Return anchor and weight of all pairs, by row of the pool, and where each row's start."""
    starts = np.zeros(count + 2, np.int64)
    for i in range(columns.shape[0]):
        for m in range(columns.shape[1]):
            starts[columns[i, m] + 2] += 1
    for j in range(count):
        starts[j + 2] += starts[j + 1]
    owners = np.empty(columns.size, np.int32)
    ordered = np.empty(columns.size, weights.dtype)
    for i in range(columns.shape[0]):
        for m in range(columns.shape[1]):
            j = columns[i, m] + 1
            owners[starts[j]] = i
            ordered[starts[j]] = weights[i, m]
            starts[j] += 1
    return ordered, owners, starts


# Two functions each: on disk numba tells functions apart by name, not by how they were compiled.


@compiled()
def _products_in_turn(anchors: Any, pool: Any, columns: Any, products: Any) -> bool:
    inside = True
    for i in range(len(anchors)):
        inside &= _products_of(i, anchors, pool, columns, products)
    return inside


@compiled(parallel=True)
def _products_at_once(anchors: Any, pool: Any, columns: Any, products: Any) -> bool:
    outside = 0
    for i in numba.prange(len(anchors)):
        outside += not _products_of(i, anchors, pool, columns, products)
    return outside == 0


@compiled()
def _anchors_in_turn(weights: Any, pool: Any, columns: Any, sums: Any) -> None:
    for i in range(len(columns)):
        _anchor_sum(i, weights, pool, columns, sums)


@compiled(parallel=True)
def _anchors_at_once(weights: Any, pool: Any, columns: Any, sums: Any) -> None:
    for i in numba.prange(len(columns)):
        _anchor_sum(i, weights, pool, columns, sums)


@compiled()
def _pool_in_turn(
    weights: Any, owners: Any, starts: Any, anchors: Any, sums: Any, fresh: bool
) -> None:
    for j in range(len(sums)):
        _pool_sum(j, weights, owners, starts, anchors, sums, fresh)


@compiled(parallel=True)
def _pool_at_once(
    weights: Any, owners: Any, starts: Any, anchors: Any, sums: Any, fresh: bool
) -> None:
    for j in numba.prange(len(sums)):
        _pool_sum(j, weights, owners, starts, anchors, sums, fresh)
