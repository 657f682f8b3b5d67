"""Log-sum-exp over a whole pool, streamed in tiles.

    ℓ_i = log Σ_{j: id_j ≠ id_i} w_ij exp(⟨a_i, k_j⟩/τ)
    P_ij = (∂L/∂ℓ_i) w_ij e^{s_ij − ℓ_i},   ∂L/∂a_i = Σ_j P_ij k_j / τ,   ∂L/∂k_j = Σ_i P_ij a_i / τ

This is attention with k = v = keys, kept in the log domain: each tile is reduced with its row
maximum subtracted and merged by logaddexp, so it is exact for every temperature. Tiles are
recomputed in the backward pass, but for those of a small pool, which are kept; memory is
O((N + K)·d).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from negplug.kernels.product import write_products

# Of a tile: more anchors than this where the pool is narrower.
_ROWS = 512
_COLUMNS = 1024

# Up to so many logits (8 MiB in float32) it is quicker to keep them than to compute them again.
_KEPT = 2**21


def tiled_logsumexp(
    anchors: Tensor,
    pool: Tensor,
    anchor_ids: Tensor,
    pool_ids: Tensor,
    temperature: float,
    log_weight: Tensor | None = None,
    mask: Tensor | None = None,
) -> Tensor:
    """Return ℓ ``[N]``; see :func:`negplug.kernels.pool.pool_logsumexp`."""
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
        small = len(anchors) * len(pool) <= _KEPT
        kept = []
        for rows, _, tile in tiles(
            anchors, pool, anchor_ids, pool_ids, log_weight, mask, temperature
        ):
            total[rows] = torch.logaddexp(total[rows], tile.logsumexp(1))
            if small:
                kept.append(tile.clone())
        # Tiles that are kept have the weights and exclusions in them.
        question = (None,) * 4 if small else (anchor_ids, pool_ids, log_weight, mask)
        ctx.save_for_backward(anchors, pool, total, *question, *kept)
        ctx.temperature = temperature
        return total

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        anchors, pool, total = ctx.saved_tensors[:3]
        anchor_ids, pool_ids, log_weight, mask = ctx.saved_tensors[3:7]
        kept = ctx.saved_tensors[7:]
        # exp(-inf − 0) = 0: a row without negatives passes no gradient.
        shift = total.masked_fill(total == -torch.inf, 0.0)
        grad_anchors = torch.zeros_like(anchors)
        grad_pool = torch.zeros_like(pool) if ctx.needs_input_grad[1] else None
        question = (anchor_ids, pool_ids, log_weight, mask, ctx.temperature)
        again = _copied_tiles(kept, anchors, pool) if kept else tiles(anchors, pool, *question)
        for rows, columns, tile in again:
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
    for rows, columns, tile in _empty_tiles(anchors, pool):
        write_products(anchors[rows], pool[columns], tile)
        yield rows, columns, tile


def _copied_tiles(
    kept: Sequence[Tensor], anchors: Tensor, pool: Tensor
) -> Iterator[tuple[slice, slice, Tensor]]:
    """Yield (rows, columns, a tile's copy): what is kept may serve a second backward pass."""
    for (rows, columns, tile), saved in zip(_empty_tiles(anchors, pool), kept, strict=True):
        yield rows, columns, tile.copy_(saved)


def _empty_tiles(anchors: Tensor, pool: Tensor) -> Iterator[tuple[slice, slice, Tensor]]:
    """Yield (rows, columns, a tile to write to), a view of one reused buffer."""
    width = max(1, min(_COLUMNS, len(pool)))
    height = min(_ROWS * _COLUMNS // width, len(anchors))
    buffer = anchors.new_empty(height * width)
    for first in range(0, len(anchors), max(1, height)):
        rows = slice(first, min(first + height, len(anchors)))
        for start in range(0, len(pool), _COLUMNS):
            columns = slice(start, min(start + _COLUMNS, len(pool)))
            shape = (rows.stop - rows.start, columns.stop - columns.start)
            yield rows, columns, buffer[: shape[0] * shape[1]].view(shape)


def _tiles_with_exclusions(anchor_ids: Tensor, pool_ids: Tensor) -> set[int]:
    """Return the numbers of the column tiles that hold a row with some anchor's id.

    Few do in a queue much smaller than the data set, and comparing takes as long as the product.
    """
    ordered = anchor_ids.sort().values
    place = torch.searchsorted(ordered, pool_ids).clamp_(max=len(ordered) - 1)
    excluded = (ordered[place] == pool_ids).nonzero()[:, 0]
    return set(torch.unique(excluded // _COLUMNS).tolist())
