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
        rows: ``[n, …]``; n may differ between ranks. Gradient flows back to every rank.

    Returns:
        The global rows, and the number of the first one that is this rank's.
    """
    if world_size() == 1:
        return rows, 0
    size = torch.tensor([len(rows)], device=rows.device)
    sizes = [torch.empty_like(size) for _ in range(world_size())]
    dist.all_gather(sizes, size)
    counts = [int(count) for count in sizes]
    gathered: Tensor = _GatherRows.apply(rows, counts)
    return gathered, sum(counts[: rank()])


class _GatherRows(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, rows: Tensor, counts: list[int]) -> Tensor:
        ctx.counts = counts
        # Collectives want one shape: short ranks are padded and cut again.
        padded = rows.new_zeros((max(counts), *rows.shape[1:]))
        padded[: len(rows)] = rows
        parts = [torch.empty_like(padded) for _ in counts]
        dist.all_gather(parts, padded)
        return torch.cat([part[:count] for part, count in zip(parts, counts, strict=True)])

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        total = grad.contiguous().clone()
        dist.all_reduce(total)
        first = sum(ctx.counts[: rank()])
        return total[first : first + ctx.counts[rank()]], None
