"""Log-sum-exp over a whole pool, streamed in tiles.

    ℓ_i = log Σ_{j: id_j ≠ id_i} w_ij exp(⟨a_i, k_j⟩/τ)
    P_ij = (∂L/∂ℓ_i) w_ij e^{s_ij − ℓ_i},   ∂L/∂a_i = Σ_j P_ij k_j / τ,   ∂L/∂k_j = Σ_i P_ij a_i / τ

This is attention with k = v = keys, kept in the log domain: each tile is reduced with its row
maximum subtracted and merged by logaddexp, so it is exact for every temperature. Tiles are
recomputed in the backward pass; memory is O((N + K)·d).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

_ROWS = 512
_COLUMNS = 1024


def pool_logsumexp(
    anchors: Tensor,
    pool: Tensor,
    anchor_ids: Tensor,
    pool_ids: Tensor,
    temperature: float,
    log_weight: Tensor | None = None,
    mask: Tensor | None = None,
) -> Tensor:
    """Return ℓ ``[N]``; -inf (and no gradient) for an anchor without negatives.

    Args:
        anchors: ``[N, d]``.
        pool: ``[K, d]``; gets a gradient if it requires one.
        anchor_ids: ``[N]`` int64, comparable with ``==`` (an unknown anchor is not -1).
        pool_ids: ``[K]`` int64.
        temperature: τ > 0.
        log_weight: Detached, ``[N|1, K]``.
        mask: ``[N, K]`` bool, True where a row of the pool may serve.
    """
    value: Tensor = _PoolLogSumExp.apply(
        anchors, pool, anchor_ids, pool_ids, temperature, log_weight, mask
    )
    return value


class _PoolLogSumExp(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        anchors: Tensor,
        pool: Tensor,
        anchor_ids: Tensor,
        pool_ids: Tensor,
        temperature: float,
        log_weight: Tensor | None,
        mask: Tensor | None,
    ) -> Tensor:
        total = anchors.new_full((len(anchors),), -torch.inf)
        for rows, _, tile in tiles(
            anchors, pool, anchor_ids, pool_ids, log_weight, mask, temperature
        ):
            total[rows] = torch.logaddexp(total[rows], tile.logsumexp(1))
        ctx.save_for_backward(anchors, pool, anchor_ids, pool_ids, log_weight, mask, total)
        ctx.temperature = temperature
        return total

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        anchors, pool, anchor_ids, pool_ids, log_weight, mask, total = ctx.saved_tensors
        # exp(-inf − 0) = 0: a row without negatives passes no gradient.
        shift = total.masked_fill(total == -torch.inf, 0.0)
        grad_anchors = torch.zeros_like(anchors)
        grad_pool = torch.zeros_like(pool) if ctx.needs_input_grad[1] else None
        for rows, columns, tile in tiles(
            anchors, pool, anchor_ids, pool_ids, log_weight, mask, ctx.temperature
        ):
            tile = tile.sub_(shift[rows, None]).exp_().mul_(grad[rows, None])
            grad_anchors[rows].addmm_(tile, pool[columns])
            if grad_pool is not None:
                grad_pool[columns].addmm_(tile.T, anchors[rows])
        if grad_pool is not None:
            grad_pool.div_(ctx.temperature)
        return grad_anchors.div_(ctx.temperature), grad_pool, None, None, None, None, None


def tiles(
    anchors: Tensor,
    pool: Tensor,
    anchor_ids: Tensor,
    pool_ids: Tensor,
    log_weight: Tensor | None,
    mask: Tensor | None,
    temperature: float,
) -> Iterator[tuple[slice, slice, Tensor]]:
    """Yield (rows, columns, tile of weighted logits), -inf where excluded.

    The tile is a view of one reused buffer: consume it before asking for the next.
    """
    touched = _tiles_with_exclusions(anchor_ids, pool_ids)
    for rows, columns, tile in product_tiles(anchors / temperature, pool):
        if log_weight is not None:
            tile += log_weight[rows if len(log_weight) > 1 else slice(None), columns]
        if columns.start // _COLUMNS in touched:
            tile.masked_fill_(anchor_ids[rows, None] == pool_ids[columns], -torch.inf)
        if mask is not None:
            tile.masked_fill_(~mask[rows, columns], -torch.inf)
        yield rows, columns, tile


def product_tiles(anchors: Tensor, pool: Tensor) -> Iterator[tuple[slice, slice, Tensor]]:
    """Yield (rows, columns, tile of ⟨a_i, k_j⟩), row block after row block, without gradient.

    The tile is a view of one reused buffer: consume it before asking for the next.

    Args:
        anchors: ``[N, d]``.
        pool: ``[K, d]``.
    """
    anchors, pool = anchors.detach(), pool.detach()
    buffer = anchors.new_empty(min(_ROWS, len(anchors)) * min(_COLUMNS, len(pool)))
    for first in range(0, len(anchors), _ROWS):
        rows = slice(first, min(first + _ROWS, len(anchors)))
        for start in range(0, len(pool), _COLUMNS):
            columns = slice(start, min(start + _COLUMNS, len(pool)))
            shape = (rows.stop - rows.start, columns.stop - columns.start)
            tile = buffer[: shape[0] * shape[1]].view(shape)
            # With `out` the product keeps its precision when the backward pass runs in autocast.
            torch.mm(anchors[rows], pool[columns].T, out=tile)
            yield rows, columns, tile


def _tiles_with_exclusions(anchor_ids: Tensor, pool_ids: Tensor) -> set[int]:
    """Return the numbers of the column tiles that hold a row with some anchor's id.

    Few do in a queue much smaller than the data set, and comparing takes as long as the product.
    """
    ordered = anchor_ids.sort().values
    place = torch.searchsorted(ordered, pool_ids).clamp_(max=len(ordered) - 1)
    excluded = (ordered[place] == pool_ids).nonzero()[:, 0]
    return set(torch.unique(excluded // _COLUMNS).tolist())
