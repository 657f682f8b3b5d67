"""Log-sum-exp over all negatives of a symmetric batch (keys are the anchors themselves).

With z ``[N, d]`` of unit rows, E_ij = exp(⟨z_i, z_j⟩/τ) for ids i ≠ j and 0 otherwise is
symmetric, so only tiles on and above the diagonal are computed:

    ℓ_i = log Σ_j E_ij,        ∂L/∂z_i = (1/τ) Σ_j E_ij (r_i + r_j) z_j,   r_i = (∂L/∂ℓ_i)/e^{ℓ_i}

Each tile serves its rows and its columns, and the gradient is one product per side. Tiles of a
small batch are kept for the backward pass; those of a larger one are recomputed, so that memory
is O(N·d). Leaving the positives out of E (the objective adds them as log1p) keeps the gradient
accurate at small temperatures, where "probability minus one-hot" cancels.

No maximum is subtracted: unit rows bound the exponent by 1/τ, and up to :data:`STEEPEST` the
sums and their reciprocals fit float32. Steeper softmaxes take the shifted, row-wise path of
:mod:`negplug.kernels.pool.tiled`.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from negplug.kernels.product import write_products

STEEPEST = 50.0
"""Largest 1/τ for which e^{±1/τ} and a row's sum stay inside float32."""

# Tiles that fit a core's cache, and on other devices are worth a kernel launch.
_TILE = {"cpu": 512}
_TILE_ELSEWHERE = 4096

# Up to so many rows (10 MiB in float32) it is quicker to keep the tiles than to recompute them.
_KEPT = 2048


def symmetric_logsumexp(z: Tensor, ids: Tensor, temperature: float) -> Tensor:
    """Return ℓ ``[N]``; -inf (and no gradient) for a row without negatives.

    Args:
        z: ``[N, d]`` rows of unit length.
        ids: ``[N]`` int64; equal ids are no negatives of each other.
        temperature: τ ≥ 1/50.
    """
    value: Tensor = _SymmetricLogSumExp.apply(z, ids, temperature)
    return value


class _SymmetricLogSumExp(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, z: Tensor, ids: Tensor, temperature: float) -> Tensor:
        grid = _Grid(z, ids, temperature)
        sums = z.new_zeros(len(z))
        kept = []
        for rows, columns in grid.spans:
            tile = grid.tile(rows, columns)
            if len(z) <= _KEPT:
                kept.append(tile)
                grid.renew()
            sums[rows] += tile.sum(1)
            if rows != columns:
                sums[columns] += tile.sum(0)
        ctx.save_for_backward(z, ids, sums, *kept)
        ctx.temperature = temperature
        return sums.log()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        z, ids, sums, *kept = ctx.saved_tensors
        ratio = torch.where(sums > 0, grad / sums, 0.0)
        grad_z = torch.zeros_like(z)
        grid = _Grid(z, ids, ctx.temperature)
        for number, (rows, columns) in enumerate(grid.spans):
            tile = kept[number] if kept else grid.tile(rows, columns)
            # Into the scratch tile: a kept one may serve a second backward pass.
            weights = torch.add(ratio[rows, None], ratio[columns], out=grid.scratch_like(tile))
            weights *= tile
            grad_z[rows].addmm_(weights, z[columns])
            if rows != columns:
                grad_z[columns].addmm_(weights.T, z[rows])
        return grad_z.div_(ctx.temperature), None, None


class _Grid:
    """E, tile by tile.

    Attributes:
        spans: (rows, columns) of every tile on and above the diagonal.
    """

    def __init__(self, z: Tensor, ids: Tensor, temperature: float) -> None:
        width = min(_TILE.get(z.device.type, _TILE_ELSEWHERE), len(z))
        cuts = [slice(i, min(i + width, len(z))) for i in range(0, len(z), width)]
        self.spans = [(rows, columns) for n, rows in enumerate(cuts) for columns in cuts[n:]]
        self._z = z
        self._scaled = z / temperature
        # Comparing floats into floats is vectorised; a mask of equal integers takes almost as
        # long as the product. Ranks of ids are small enough for a float to hold them.
        self._names = torch.searchsorted(ids.sort().values, ids).to(z.dtype)
        self._buffer = z.new_empty(width * width)
        self._scratch = z.new_empty(width * width)

    def tile(self, rows: slice, columns: slice) -> Tensor:
        """Return E[rows, columns], in a buffer that the next call reuses."""
        tile = self._buffer[: _area(rows, columns)].view(_length(rows), _length(columns))
        write_products(self._scaled[rows], self._z[columns], tile)
        negative = self.scratch_like(tile)
        torch.ne(self._names[rows, None], self._names[columns], out=negative)
        return tile.exp_().mul_(negative)

    def renew(self) -> None:
        """Give the last tile away: the next one goes to a buffer of its own."""
        self._buffer = torch.empty_like(self._buffer)

    def scratch_like(self, tile: Tensor) -> Tensor:
        """Return a tile of the same shape to write to."""
        return self._scratch[: tile.numel()].view_as(tile)


def _length(span: slice) -> int:
    return int(span.stop - span.start)


def _area(rows: slice, columns: slice) -> int:
    return _length(rows) * _length(columns)
