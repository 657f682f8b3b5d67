"""A block of a ring by its definition; materialises ``[N, n]``. See :mod:`negplug.kernels.ring`."""

from __future__ import annotations

import torch
from torch import Tensor

from negplug.kernels.precision import widest


def full_sums(
    anchors: Tensor,
    block: Tensor,
    anchor_ids: Tensor,
    block_ids: Tensor,
    temperature: float,
    half: bool,
    slopes: bool,
) -> tuple[Tensor, Tensor | None]:
    """Return v and u, which are summed in float64."""
    logits, wide = _logits(anchors, block, anchor_ids, block_ids, temperature)
    shares = logits.softmax(1).nan_to_num(0.0)  # NaN where an anchor has no negatives
    slope = (shares @ wide).to(block.dtype) / temperature if slopes else None
    return logits.logsumexp(1).to(anchors.dtype), slope


def full_gradient(
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
    logits, wide = _logits(anchors, block, anchor_ids, block_ids, temperature)
    shares = (logits - total[:, None].to(wide)).exp().nan_to_num(0.0)
    added = (shares * grad[:, None]).T @ anchors.to(wide) / temperature
    return added.to(block.dtype)


def _logits(
    anchors: Tensor, block: Tensor, anchor_ids: Tensor, block_ids: Tensor, temperature: float
) -> tuple[Tensor, Tensor]:
    """Return the logits ``[N, n]``, -inf where excluded, and the block in their type."""
    wide = block.to(widest(block.device))
    logits = anchors.to(wide) @ wide.T / temperature
    return logits.masked_fill(anchor_ids[:, None] == block_ids, -torch.inf), wide
