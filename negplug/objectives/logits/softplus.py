"""The sum of softplus(s + b) over each anchor's negatives: what a sigmoid loss pays for them.

    f_i = Σ_j w_ij log(1 + e^{s_ij + b}),      ∂f_i/∂s_ij = w_ij σ(s_ij + b),   ∂f_i/∂b = Σ_j of it

Over a whole pool the sum is streamed in tiles, as in :mod:`negplug.kernels.pool.tiled`, which the
backward pass computes again; memory is O((N + K)·d).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn.functional import softplus

from negplug.contract.batch import ContrastiveBatch
from negplug.contract.negatives import Negatives, Whole
from negplug.contract.rows import Rows
from negplug.kernels.pool.tiled import tiles
from negplug.objectives.logits.blocks import over_blocks
from negplug.objectives.logits.chosen import chosen_logits

# Beyond it softplus is the identity; the default of 20 rounds too early for float64.
STEEP = 50.0


def negative_softplus(
    batch: ContrastiveBatch, negatives: Sequence[Negatives], temperature: float, bias: Tensor
) -> Tensor:
    """Return f ``[N]``; 0, with zero gradient, for an anchor without negatives.

    Args:
        batch: Anchors and ids.
        negatives: Those of each anchor, with the ``"partition"`` estimator.
        temperature: τ > 0.
        bias: b, ``[]``; gets a gradient if it requires one.
    """
    each = [_of_part(batch.anchors, part, temperature, bias) for part in negatives]
    return each[0] if len(each) == 1 else torch.stack(each).sum(0)


def _of_part(anchors: Rows, part: Negatives, temperature: float, bias: Tensor) -> Tensor:
    weight = part.log_weight
    if weight is not None and weight.shape[1] == 1:
        found = _of_part(anchors, replace(part, log_weight=None), temperature, bias)
        return found * weight[:, 0].exp()
    if not isinstance(part.choice, Whole):
        logits = chosen_logits(anchors.embeddings, replace(part, log_weight=None), temperature)
        paid = softplus(logits + bias, threshold=STEEP)
        return (paid if weight is None else paid * weight.exp()).sum(1)
    if part.blocks is not None:
        return over_blocks(anchors, part, lambda b: (_of_part(*b[:2], temperature, bias),))[0]
    value: Tensor = _PoolSoftplus.apply(
        anchors.embeddings,
        part.rows.embeddings,
        bias,
        anchors.comparable_ids,
        part.rows.ids,
        temperature,
        weight,
        part.mask,
    )
    return value


class _PoolSoftplus(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        anchors: Tensor,
        pool: Tensor,
        bias: Tensor,
        anchor_ids: Tensor,
        pool_ids: Tensor,
        temperature: float,
        log_weight: Tensor | None,
        mask: Tensor | None,
    ) -> Tensor:
        total = anchors.new_zeros(len(anchors))
        for rows, columns, tile in tiles(
            anchors, pool, anchor_ids, pool_ids, None, mask, temperature
        ):
            paid = softplus(tile.add_(bias), threshold=STEEP)
            total[rows] += _weighed(paid, log_weight, rows, columns).sum(1)
        ctx.save_for_backward(anchors, pool, bias, anchor_ids, pool_ids, log_weight, mask)
        ctx.temperature = temperature
        return total

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        anchors, pool, bias, anchor_ids, pool_ids, log_weight, mask = ctx.saved_tensors
        grad_anchors, grad_bias = torch.zeros_like(anchors), torch.zeros_like(bias)
        grad_pool = torch.zeros_like(pool) if ctx.needs_input_grad[1] else None
        question = (anchor_ids, pool_ids, None, mask, ctx.temperature)
        for rows, columns, tile in tiles(anchors, pool, *question):
            slope = _weighed(tile.add_(bias).sigmoid_(), log_weight, rows, columns)
            slope.mul_(grad[rows, None])
            grad_bias += slope.sum()
            grad_anchors[rows].addmm_(slope, pool[columns])
            if grad_pool is not None:
                grad_pool[columns].addmm_(slope.T, anchors[rows])
        if grad_pool is not None:
            grad_pool.div_(ctx.temperature)
        return grad_anchors.div_(ctx.temperature), grad_pool, grad_bias, *([None] * 5)


def _weighed(tile: Tensor, log_weight: Tensor | None, rows: slice, columns: slice) -> Tensor:
    if log_weight is None:
        return tile
    weight = log_weight[rows if len(log_weight) > 1 else slice(None), columns]
    return tile.mul_(weight.exp())
