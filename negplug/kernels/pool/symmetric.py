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

import functools
import itertools
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from negplug.kernels.late import free_to_read
from negplug.kernels.product import write_products

STEEPEST = 50.0
"""Largest 1/τ for which e^{±1/τ} and a row's sum stay inside float32."""

# Tiles that fit a core's cache, and on other devices are worth a kernel launch.
_TILE = {"cpu": 512}
_TILE_ELSEWHERE = 4096

# Up to so many rows, in a single tile, ids are compared as they are: to sort them takes longer.
_FEW = 256

# Below the sum of any row that has a negative, which is e^{-50} at least.
_LEAST = 1e-22

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
        keep = len(z) <= _KEPT
        tiles = grid.room(keep)
        sums = z.new_empty(len(z))
        for (rows, columns), tile in zip(grid.spans, tiles, strict=True):
            grid.write(rows, columns, tile)
            _add_or_write(tile, 1, sums[rows], write=columns.start == 0)
            if rows != columns:
                _add_or_write(tile, 0, sums[columns], write=rows.start == 0)
        ctx.save_for_backward(z, ids, sums, *(tiles if keep else ()))
        ctx.temperature = temperature
        return sums.log()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        z, ids, sums, *kept = ctx.saved_tensors
        # Where there is no negative, E is 0, whatever it is multiplied by.
        ratio = grad / sums.clamp(min=_LEAST)
        grad_z = torch.empty_like(z)
        grid = _Grid(z, ids, ctx.temperature)
        for (rows, columns), tile in zip(grid.spans, kept or grid.room(keep=False), strict=True):
            if not kept:
                grid.write(rows, columns, tile)
            # Into the scratch tile: a kept one may serve a second backward pass.
            weights = torch.add(ratio[rows, None], ratio[columns], out=grid.scratch_like(tile))
            weights *= tile
            beta = int(columns.start > 0)
            grad_z[rows].addmm_(weights, z[columns], beta=beta, alpha=grid.scale)
            if rows != columns:
                beta = int(rows.start > 0)
                grad_z[columns].addmm_(weights.T, z[rows], beta=beta, alpha=grid.scale)
        return grad_z, None, None


class _Grid:
    """E, tile by tile.

    Attributes:
        spans: (rows, columns) of every tile on and above the diagonal.
        scale: 1/τ.
    """

    def __init__(self, z: Tensor, ids: Tensor, temperature: float) -> None:
        self._width = min(_TILE.get(z.device.type, _TILE_ELSEWHERE), len(z))
        cuts = [slice(i, min(i + self._width, len(z))) for i in range(0, len(z), self._width)]
        self.spans = [(rows, columns) for n, rows in enumerate(cuts) for columns in cuts[n:]]
        self._z = z
        self._ids = ids
        self.scale = 1.0 / temperature
        self._scratch = z.new_empty(self._width**2)

    def room(self, keep: bool) -> list[Tensor]:
        """Return a tile to write to for each span: a place of its own, or the same for all."""
        shapes = [(_length(rows), _length(columns)) for rows, columns in self.spans]
        areas = [height * width for height, width in shapes]
        # One piece of memory, however many tiles: a CPU's allocator, which hands many small ones
        # back to the system, has it at hand in the next step.
        memory = self._z.new_empty(sum(areas) if keep else max(areas))
        starts = itertools.accumulate(areas, initial=0) if keep else itertools.repeat(0)
        return [
            memory[start : start + area].view(shape)
            for start, area, shape in zip(starts, areas, shapes, strict=False)
        ]

    def write(self, rows: slice, columns: slice, tile: Tensor) -> None:
        """Write E[rows, columns] to ``tile``."""
        write_products(self._z[rows], self._z[columns], tile, self.scale)
        tile.exp_()
        names, touched = self._exclusions
        if touched[rows.start // self._width][columns.start // self._width]:
            negative = self.scratch_like(tile)
            torch.ne(names[rows, None], names[columns], out=negative)
            tile.mul_(negative)

    @functools.cached_property
    def _exclusions(self) -> tuple[Tensor, list[list[bool]]]:
        """Return names of the ids, ``[N]``, and which pairs of spans have one in common."""
        if len(self._ids) <= min(self._width, _FEW):
            return self._ids, [[True]]
        ordered, order = self._ids.sort()
        new = torch.zeros_like(ordered)
        torch.ne(ordered[1:], ordered[:-1], out=new[1:])
        names = torch.empty_like(ordered).scatter_(0, order, new.cumsum(0))
        # Comparing floats into floats is vectorised; a mask of equal integers takes almost as
        # long as the product.
        floats = names.to(self._z.dtype)
        spans = (len(names) - 1) // self._width + 1
        if not free_to_read(names.device):
            return floats, [[True] * spans] * spans
        span = torch.arange(len(names), device=names.device) // self._width
        # Smaller than z up to 500·d rows or so.
        present = self._z.new_zeros(len(names), spans)
        present[names, span] = 1.0
        return floats, (present.T @ present > 0).tolist()

    def scratch_like(self, tile: Tensor) -> Tensor:
        """Return a tile of the same shape to write to."""
        return self._scratch[: tile.numel()].view_as(tile)


def _add_or_write(tile: Tensor, dim: int, sums: Tensor, write: bool) -> None:
    """Add the sums of a tile over a dimension, or write them to memory that holds none yet."""
    if write:
        torch.sum(tile, dim, out=sums)
    else:
        sums.add_(tile.sum(dim))


def _length(span: slice) -> int:
    return int(span.stop - span.start)
