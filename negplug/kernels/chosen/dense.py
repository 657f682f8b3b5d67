"""Similarities of chosen pairs as entries of whole products, block of rows after block.

Forward, the chosen entries of A·Kᵀ are kept. Backward, the gradients g go to their places in a
matrix G that is zero elsewhere, and

    ∂L/∂A = G·K,        ∂L/∂K = Gᵀ·A.

That is K/M times the arithmetic that is needed, at a matrix product's speed. Memory is one block
of ``[512, K]``.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from negplug.kernels.chosen.gradient import differentiable
from negplug.kernels.product import write_products

_ROWS = 512


def _products(anchors: Tensor, pool: Tensor, columns: Tensor) -> Tensor:
    products = anchors.new_empty(columns.shape)
    for rows, block in _blocks(anchors, pool):
        write_products(anchors[rows], pool, block)
        torch.gather(block, 1, columns[rows], out=products[rows])
    return products


def _gradients(
    grad: Tensor, anchors: Tensor, pool: Tensor, columns: Tensor, wanted: tuple[bool, bool]
) -> tuple[Tensor | None, Tensor | None]:
    grad_anchors = torch.zeros_like(anchors) if wanted[0] else None
    both = anchors is pool and wanted == (True, True)
    grad_pool = grad_anchors if both else torch.zeros_like(pool) if wanted[1] else None
    for rows, block in _blocks(anchors, pool):
        # Adds: a row of the pool may be chosen twice.
        block.zero_().scatter_add_(1, columns[rows], grad[rows])
        if grad_anchors is not None:
            grad_anchors[rows].addmm_(block, pool)
        if grad_pool is not None:
            grad_pool.addmm_(block.T, anchors[rows])
    return grad_anchors, None if both else grad_pool


def _blocks(anchors: Tensor, pool: Tensor) -> Iterator[tuple[slice, Tensor]]:
    """Yield (rows, a buffer ``[rows, K]``), which the next block uses again."""
    buffer = anchors.new_empty(min(_ROWS, len(anchors)), len(pool))
    for start in range(0, len(anchors), _ROWS):
        rows = slice(start, min(start + _ROWS, len(anchors)))
        yield rows, buffer[: rows.stop - rows.start]


dense_similarities = differentiable(_products, _gradients)
