"""Exchange over ranks, and settings that may be missing."""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from omegaconf import DictConfig, OmegaConf
from torch import Tensor


def _together() -> bool:
    return dist.is_available() and dist.is_initialized()


def get_rank() -> int:
    """Return the number of this process, 0 if it is alone."""
    return dist.get_rank() if _together() else 0


def _from_all(rows: Tensor) -> Tensor:
    parts = [torch.empty_like(rows) for _ in range(dist.get_world_size())]
    dist.all_gather(parts, rows.contiguous())
    return torch.cat(parts)


class _Gather(torch.autograd.Function):
    """Rows of all ranks; a row's gradient is the sum of what every rank's loss has for it."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor) -> Tensor:
        """Return ``[W·N, …]`` in order of rank."""
        ctx.size = len(rows)
        return _from_all(rows)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        """Return this rank's part of the sum."""
        total = gradient.clone()
        dist.all_reduce(total)
        first = ctx.size * dist.get_rank()
        return total[first : first + ctx.size]


def gather(X: Tensor, dim: int = 0) -> Tensor:
    """Return the rows of all ranks, with a gradient to each; only ``dim=0`` is offered here."""
    assert dim == 0
    return _Gather.apply(X) if _together() else X


@torch.no_grad()
def concat_all_gather_no_grad(tensor: Tensor) -> Tensor:
    """Return the rows of all ranks without a gradient; a lone process gets its own tensor back."""
    return _from_all(tensor) if _together() else tensor


def omegaconf_select(cfg: DictConfig, key: str, default: Any = None) -> Any:
    """Return the setting at the dotted ``key``, or ``default`` if there is none."""
    value = OmegaConf.select(cfg, key, default=default)
    return None if value == "None" else value
