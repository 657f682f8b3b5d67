"""Draws from the softmax over a pool, streamed in tiles: O((N + K)·d + N·M) memory."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from negplug.kernels.late import places
from negplug.kernels.pool.tiled import tile_width, tiles
from negplug.kernels.precision import widest
from negplug.kernels.random import write_uniforms

_SHARES = 2.0**42  # of the likeliest column; those of a tile of 2048 add up to at most 2**53


def tiled_draws(
    anchors: Tensor,
    pool: Tensor,
    anchor_ids: Tensor,
    pool_ids: Tensor,
    temperature: float,
    count: int,
    seed: int | Tensor,
    log_weight: Tensor | None = None,
    mask: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Return columns and maxima; see :func:`negplug.kernels.softmax_draws.softmax_draws`."""
    draws = _Draws(anchors, count, seed)
    # No row of the pool is called -2.
    names = anchor_ids.masked_fill(anchor_ids == -1, -2)
    if log_weight is not None:
        log_weight = log_weight.expand(-1, len(pool))
    width = tile_width(len(pool))
    for rows, columns, tile in tiles(anchors, pool, names, pool_ids, log_weight, mask, temperature):
        draws.offer(rows, columns.start, columns.start // width, tile)
    return draws.columns, draws.best


def draws_of_logits(logits: Tensor, count: int, seed: int | Tensor) -> tuple[Tensor, Tensor]:
    """Draw from the softmax of each row.

    Args:
        logits: ``[N, C]``, -inf where there is none.
        count: M ≥ 1.
        seed: A signed 64-bit integer; or an int64 ``[]`` on the device.

    Returns:
        Columns and maxima, as :func:`negplug.kernels.softmax_draws.softmax_draws`.
    """
    draws = _Draws(logits, count, seed)
    if logits.shape[1]:
        draws.offer(slice(0, len(logits)), 0, 0, logits)
    return draws.columns, draws.best


class _Draws:
    """The draws so far.

    Attributes:
        columns: ``[N, M]`` int64.
        best: ``[N, M]``, their maxima.
    """

    def __init__(self, anchors: Tensor, count: int, seed: int | Tensor) -> None:
        self._seed: Any = seed
        shape = len(anchors), count
        dtype = widest(anchors.device)
        self.best = torch.full(shape, -torch.inf, dtype=dtype, device=anchors.device)
        self.columns = torch.zeros(shape, dtype=torch.int64, device=anchors.device)

    def offer(self, rows: slice, first: int, number: int, logits: Tensor) -> None:
        """Let a tile of logits of some rows, whose first column is ``first``, have its draws."""
        best, columns = self.best[rows], self.columns[rows]
        before = (number * len(self.best) + rows.start) * best.shape[1]
        uniform = best.new_empty(*best.shape, 2)
        write_uniforms(uniform.view(-1), self._seed, 2 * before)
        gumbel, inversion = uniform.unbind(2)
        gumbel = -gumbel.log().neg_().log_()
        # A tile without a negative has -inf, which beats nothing.
        value = logits.logsumexp(1, keepdim=True) + gumbel
        beats = value > best
        torch.where(beats, value, best, out=best)
        # Fewer from tile to tile.
        winners = places(beats.any(1))
        if winners is None or len(winners) == len(logits):
            inside = first + invert(logits, inversion)
            torch.where(beats, inside, columns, out=columns)
        else:
            inside = first + invert(logits[winners], inversion[winners])
            columns[winners] = torch.where(beats[winners], inside, columns[winners])


def invert(logits: Tensor, uniform: Tensor) -> Tensor:
    """Return the columns at which the softmax's distribution function first exceeds ``uniform``.

    The shares are integers, whose sums are exact in any order. So a column without a share is
    never returned, and a device that sums in parallel draws the same again.

    Args:
        logits: ``[R, C]``.
        uniform: ``[R, M]`` in [0, 1).

    Returns:
        ``[R, M]`` int64; anything in a row that is -inf throughout.
    """
    shares = (logits - logits.amax(1, keepdim=True)).exp_().mul_(_SHARES).long().cumsum(1)
    # The largest number below 1 times the total rounds to less than the total, in any precision.
    return torch.searchsorted(shares, (uniform * shares[:, -1:]).long(), right=True)
