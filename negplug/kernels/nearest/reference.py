"""The nearest of a pool by a sort of all similarities: the equation itself."""

from __future__ import annotations

import torch
from torch import Tensor

from negplug.kernels.product import write_products


def sorted_columns(
    anchors: Tensor,
    pool: Tensor,
    anchor_ids: Tensor,
    pool_ids: Tensor,
    count: int,
    mask: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Return columns and which there are; see :func:`negplug.kernels.nearest.nearest_columns`."""
    excluded = (anchor_ids[:, None] == pool_ids) & (anchor_ids[:, None] != -1)
    if mask is not None:
        excluded = excluded | ~mask
    similarities = anchors.new_empty(len(anchors), len(pool))
    write_products(anchors, pool, similarities)
    similarities.masked_fill_(excluded, -torch.inf)
    ordered, columns = similarities.sort(dim=1, descending=True, stable=True)
    there = ordered[:, :count] > -torch.inf
    return columns[:, :count].where(there, 0), there
