"""Gathering rows over ranks, with gradient.

Under DDP each rank computes the loss of its own rows against everybody's keys. The gradient of
a gathered row is the sum over the ranks that used it: GatherRows' backward all-reduces, and DDP's
averaging makes it the gradient of the global mean. No further factor belongs there.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor


def rank() -> int:
    """Return this process's rank, 0 without a process group."""
    return dist.get_rank() if dist.is_available() and dist.is_initialized() else 0


def world_size() -> int:
    """Return the number of processes, 1 without a process group."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def gather_rows(rows: Tensor) -> tuple[Tensor, int]:
    """Concatenate every rank's rows in rank order.

    Args:
        rows: ``[n, …]``. Gradient flows back to every rank.

    Returns:
        The global rows ``[world · n, …]``, and the number of the first one that is this rank's.

    Raises:
        ValueError: If n differs between ranks; on every rank, so that none is left waiting.
    """
    if world_size() == 1:
        return rows, 0
    size = torch.tensor([len(rows)], device=rows.device)
    sizes = [torch.empty_like(size) for _ in range(world_size())]
    dist.all_gather(sizes, size)
    counts = [int(count) for count in sizes]
    if len(set(counts)) > 1:
        raise ValueError(
            f"the ranks have batches of different sizes, {counts} rows; gathering needs equal "
            f"ones: set drop_last=True"
        )
    gathered: Tensor = _GatherRows.apply(rows)
    return gathered, rank() * len(rows)


class _GatherRows(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, rows: Tensor) -> Tensor:
        rows = rows.contiguous()
        parts = [torch.empty_like(rows) for _ in range(world_size())]
        dist.all_gather(parts, rows)
        return torch.cat(parts)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        total = grad.contiguous().clone()
        dist.all_reduce(total)
        return total.chunk(world_size())[rank()]
