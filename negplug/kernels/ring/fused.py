"""A block of a ring in the Triton programs of a pool; see :mod:`negplug.kernels.ring`.

The programs' logits are in powers of two and less by their largest, c = log₂e/τ, so that ℓ of the
whole ring is to them log₂e (ℓ − 1/τ).

Import this module only where Triton is installed.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from negplug.kernels.pool.launches import gradient, sums
from negplug.kernels.pool.question import Operand, Question
from negplug.kernels.ring.tiled import tiled_gradient, tiled_sums

_LOG2E = math.log2(math.e)


def fused_sums(
    anchors: Tensor,
    block: Tensor,
    anchor_ids: Tensor,
    block_ids: Tensor,
    temperature: float,
    half: bool,
    slopes: bool,
) -> tuple[Tensor, Tensor | None]:
    """Return v and u; of float64 as in torch operations."""
    if anchors.dtype != torch.float32:
        return tiled_sums(anchors, block, anchor_ids, block_ids, temperature, half, slopes)
    rows, columns = _operands(anchors, block, half)
    question = Question.of(anchor_ids, block_ids, temperature, None, None)
    value, _, slope = sums(rows, columns, question, means=slopes)
    return value, slope


def fused_gradient(
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
    if anchors.dtype != torch.float32:
        question = (anchor_ids, block_ids, temperature, half)
        return tiled_gradient(anchors, block, *question, total, grad)
    rows, columns = _operands(anchors, block, half)
    asked = Question.of(anchor_ids, block_ids, temperature, None, None).swapped()
    total = (total - 1.0 / temperature) * _LOG2E
    return gradient(columns, rows, asked, total, grad, both=False)


def _operands(anchors: Tensor, block: Tensor, half: bool) -> tuple[Operand, Operand]:
    return Operand.of(anchors, half), Operand.of(block, half)
