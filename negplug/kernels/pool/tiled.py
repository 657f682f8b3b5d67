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

from negplug.kernels.late import free_to_read, known, places
from negplug.kernels.product import write_products

# Of a tile: more anchors than this where the pool is narrower.
_ROWS = 256
_COLUMNS = 2048
_MOST_ROWS = 2048

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
        question = (anchor_ids, pool_ids, log_weight, mask)
        for rows, _, tile in tiles(anchors, pool, *question, temperature, fresh=small):
            highest = tile.amax(1)
            shift = finite(highest)
            sums = tile.sub_(shift[:, None]).exp_().sum(1)
            total[rows] = torch.logaddexp(total[rows], sums.log_().add_(shift))
            if small:
                kept += [tile, highest]
        # Tiles that are kept have the weights and exclusions in them.
        ctx.save_for_backward(anchors, pool, total, *([None] * 4 if small else question), *kept)
        ctx.small = small
        ctx.temperature = temperature
        return total

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        # Asked once: what is checkpointed can be unpacked once.
        anchors, pool, total, *saved = ctx.saved_tensors
        question, kept = saved[:4], saved[4:]
        # exp(-inf) = 0: a row without negatives passes no gradient.
        total = finite(total)
        grad = grad / ctx.temperature
        # Each row block's first tile writes to it.
        grad_anchors = torch.empty_like(anchors) if len(pool) else torch.zeros_like(anchors)
        grad_pool = torch.zeros_like(pool) if ctx.needs_input_grad[1] else None
        if ctx.small:
            parts = _kept_exponentials(kept, anchors, pool)
        else:
            parts = _exponentials(anchors, pool, total, *question, ctx.temperature)
        for rows, columns, tile, highest in parts:
            # P is the tile with its rows multiplied, which is less to do in narrow matrices.
            factor = (grad[rows] * (highest - total[rows]).exp_())[:, None]
            ours = grad_anchors[rows]
            # Into tensors: autocast, of a backward pass inside of it, leaves that in peace.
            if columns.start == 0:
                torch.mm(tile, pool[columns], out=ours).mul_(factor)
            else:
                ours.addcmul_(torch.mm(tile, pool[columns], out=torch.empty_like(ours)), factor)
            if grad_pool is not None:
                grad_pool[columns].addmm_(tile.T, anchors[rows] * factor)
        return grad_anchors, grad_pool, None, None, None, None, None


def _exponentials(
    anchors: Tensor, pool: Tensor, total: Tensor, *question: Any
) -> Iterator[tuple[slice, slice, Tensor, Tensor]]:
    """Yield (rows, columns, tile of w e^{s − m}, m) with m the whole row's ℓ, computed again."""
    for rows, columns, tile in tiles(anchors, pool, *question):
        yield rows, columns, tile.sub_(total[rows, None]).exp_(), total[rows]


def _kept_exponentials(
    kept: Sequence[Tensor], anchors: Tensor, pool: Tensor
) -> Iterator[tuple[slice, slice, Tensor, Tensor]]:
    """Yield (rows, columns, tile of w e^{s − m}, m) with m the greatest s of the tile's row.

    Of a row that is excluded from the tile m is -inf, and e^{s − m} is 0.
    """
    spans = _spans(len(anchors), len(pool))
    for (rows, columns), tile, highest in zip(spans, kept[::2], kept[1::2], strict=True):
        yield rows, columns, tile, highest


def tiles(
    anchors: Tensor,
    pool: Tensor,
    anchor_ids: Tensor,
    pool_ids: Tensor,
    log_weight: Tensor | None,
    mask: Tensor | None,
    temperature: float,
    fresh: bool = False,
) -> Iterator[tuple[slice, slice, Tensor]]:
    """Yield (rows, columns, tile of weighted logits), -inf where excluded.

    The tile is a view of one reused buffer, to be consumed before asking for the next; with
    ``fresh`` each is the caller's to keep.
    """
    touched = _tiles_with_exclusions(anchor_ids, pool_ids)
    for rows, columns, tile in product_tiles(anchors, pool, 1.0 / temperature, fresh):
        if log_weight is not None:
            tile += log_weight[rows if len(log_weight) > 1 else slice(None), columns]
        if columns.start // _COLUMNS in touched:
            tile.masked_fill_(anchor_ids[rows, None] == pool_ids[columns], -torch.inf)
        if mask is not None:
            tile.masked_fill_(~mask[rows, columns], -torch.inf)
        yield rows, columns, tile


def product_tiles(
    anchors: Tensor, pool: Tensor, scale: float = 1.0, fresh: bool = False
) -> Iterator[tuple[slice, slice, Tensor]]:
    """Yield (rows, columns, tile of c·⟨a_i, k_j⟩), row block after row block, without gradient.

    Args:
        anchors: ``[N, d]``.
        pool: ``[K, d]``.
        scale: c.
        fresh: As for :func:`tiles`.
    """
    anchors, pool = anchors.detach(), pool.detach()
    memory: Tensor | None = None
    place = 0
    for rows, columns in _spans(len(anchors), len(pool)):
        shape = (rows.stop - rows.start, columns.stop - columns.start)
        area = shape[0] * shape[1]
        if memory is None:
            # The first tile is the largest. Fresh ones come of one piece of memory, which a CPU's
            # allocator has at hand in the next step; many small ones it gives to the system.
            memory = anchors.new_empty(len(anchors) * len(pool) if fresh else area)
        tile = memory[place : place + area].view(shape)
        if fresh:
            place += area
        write_products(anchors[rows], pool[columns], tile, scale)
        yield rows, columns, tile


def tile_width(pool: int) -> int:
    """Return how many columns a tile of a pool of so many rows has, unless it is the last."""
    return max(1, min(_COLUMNS, pool))


def _spans(anchors: int, pool: int) -> Iterator[tuple[slice, slice]]:
    """Yield (rows, columns) of every tile, row block after row block."""
    width = tile_width(pool)
    height = min(_ROWS * _COLUMNS // width, _MOST_ROWS)
    for first in range(0, anchors, height):
        for start in range(0, pool, width):
            yield slice(first, min(first + height, anchors)), slice(start, min(start + width, pool))


def finite(logits: Tensor) -> Tensor:
    """Return the logits, finite where they are -inf: what may be subtracted from any other."""
    return logits.clamp(min=torch.finfo(logits.dtype).min)


def _tiles_with_exclusions(anchor_ids: Tensor, pool_ids: Tensor) -> set[int]:
    """Return the numbers of the column tiles that hold a row with some anchor's id.

    Few do in a queue much smaller than the data set, and comparing takes as long as the product.
    """
    tiles = -(-len(pool_ids) // _COLUMNS)
    if tiles <= 1 or not free_to_read(pool_ids.device):
        # Finding out takes longer than comparing.
        return set(range(tiles))
    ordered = anchor_ids.sort().values
    lowest, highest = pool_ids.aminmax()
    if known(highest < ordered[0]) or known(lowest > ordered[-1]):
        # Ids that number the samples of a batch, and names of rows that have none.
        return set()
    place = torch.searchsorted(ordered, pool_ids).clamp_(max=len(ordered) - 1)
    excluded = places(ordered[place] == pool_ids)
    assert excluded is not None
    return set((excluded // _COLUMNS).tolist())
