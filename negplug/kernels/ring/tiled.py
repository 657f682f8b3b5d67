"""A block of a ring in torch operations, streamed in tiles; see :mod:`negplug.kernels.ring`."""

from __future__ import annotations

import torch
from torch import Tensor

from negplug.kernels.pool.frozen import streamed_sums
from negplug.kernels.pool.tiled import finite, tiles


def tiled_sums(
    anchors: Tensor,
    block: Tensor,
    anchor_ids: Tensor,
    block_ids: Tensor,
    temperature: float,
    half: bool,
    slopes: bool,
) -> tuple[Tensor, Tensor | None]:
    """Return v and u; in full precision, whatever ``half`` says."""
    question = (anchor_ids, block_ids, None, None, temperature)
    total, mean = streamed_sums(anchors, block, *question, means=slopes)
    return total, None if mean is None else mean.div_(temperature)


def tiled_gradient(
    anchors: Tensor,
    block: Tensor,
    anchor_ids: Tensor,
    block_ids: Tensor,
    temperature: float,
    half: bool,
    total: Tensor,
    grad: Tensor,
) -> Tensor:
    """Return what the anchors add to the gradient of the block."""
    # exp(-inf) = 0: a row without negatives passes no gradient.
    total, grad = finite(total), grad / temperature
    added = torch.zeros_like(block)
    for rows, columns, tile in tiles(
        anchors, block, anchor_ids, block_ids, None, None, temperature
    ):
        tile.sub_(total[rows, None]).exp_().mul_(grad[rows, None])
        added[columns].addmm_(tile.T, anchors[rows])
    return added
