"""Log-sum-exp over all negatives of a symmetric batch (keys are the anchors themselves).

With z ``[N, d]`` of unit rows, E_ij = exp(⟨z_i, z_j⟩/τ) for ids i ≠ j and 0 otherwise is
symmetric, so only tiles on and above the diagonal are computed:

    ℓ_i = log Σ_j E_ij,        ∂L/∂z_i = (1/τ) Σ_j E_ij (r_i + r_j) z_j,   r_i = (∂L/∂ℓ_i)/e^{ℓ_i}

Each tile serves its rows and its columns, and the gradient is one product per side. Tiles are
recomputed in the backward pass, so memory is O(N·d) beside two tiles. Leaving the positives out
of E (the objective adds them as log1p) keeps the gradient accurate at small temperatures, where
"probability minus one-hot" cancels.

No maximum is subtracted: unit rows bound the exponent by 1/τ, and up to :data:`STEEPEST` the
sums and their reciprocals fit float32. Steeper softmaxes take the shifted, row-wise path of
:mod:`negplug.logits.tiled`.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

STEEPEST = 50.0
"""Largest 1/τ for which e^{±1/τ} and a row's sum stay inside float32."""

_TILE = 512


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
        sums = z.new_zeros(len(z))
        for rows, columns, tile in _tiles(z, ids, temperature):
            sums[rows] += tile.sum(1)
            if rows != columns:
                sums[columns] += tile.sum(0)
        ctx.save_for_backward(z, ids, sums)
        ctx.temperature = temperature
        return sums.log()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        z, ids, sums = ctx.saved_tensors
        ratio = torch.where(sums > 0, grad / sums, 0.0)
        grad_z = torch.zeros_like(z)
        for rows, columns, tile in _tiles(z, ids, ctx.temperature):
            tile *= ratio[rows, None] + ratio[columns]
            grad_z[rows].addmm_(tile, z[columns])
            if rows != columns:
                grad_z[columns].addmm_(tile.T, z[rows])
        return grad_z.div_(ctx.temperature), None, None


def _tiles(z: Tensor, ids: Tensor, temperature: float) -> Iterator[tuple[slice, slice, Tensor]]:
    """Yield (rows, columns, E tile) for every tile on and above the diagonal.

    The tile is a view of one reused buffer: consume it before asking for the next.
    """
    total, width = len(z), min(_TILE, len(z))
    scaled = z / temperature
    buffer = z.new_empty(width * width)
    spans = [slice(start, min(start + width, total)) for start in range(0, total, width)]
    for number, rows in enumerate(spans):
        for columns in spans[number:]:
            shape = (rows.stop - rows.start, columns.stop - columns.start)
            tile = buffer[: shape[0] * shape[1]].view(shape)
            torch.mm(scaled[rows], z[columns].T, out=tile)
            tile.exp_()
            tile.masked_fill_(ids[rows, None] == ids[columns], 0.0)
            yield rows, columns, tile
