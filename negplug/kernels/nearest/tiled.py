"""The nearest of a pool in torch operations, on any device.

On the CPU the pool is streamed in tiles that are each merged into the best so far; elsewhere, where
a launch costs more than memory, some anchors at a time sort the whole pool. Memory is O(N·M) and a
tile.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from negplug.kernels.late import free_to_read, known
from negplug.kernels.nearest.reference import sorted_columns
from negplug.kernels.pool.tiled import product_tiles
from negplug.kernels.product import write_products

# Similarities that are sorted at a time (80 MiB, with their places and what the sort takes).
_SORTED = 2**22


def tiled_columns(
    anchors: Tensor,
    pool: Tensor,
    anchor_ids: Tensor,
    pool_ids: Tensor,
    count: int,
    mask: Tensor | None = None,
) -> tuple[Tensor, Tensor | None]:
    """Return columns and which there are; see :func:`negplug.kernels.nearest.nearest_columns`."""
    if not free_to_read(anchors.device):
        return _sorted_blocks(anchors, pool, anchor_ids, pool_ids, count, mask)
    best, found = streamed((anchors,), pool, anchor_ids, pool_ids, count, mask)
    there = which_are_there(best)
    return (found if there is None else found.where(there, 0)), there


def _sorted_blocks(
    anchors: Tensor,
    pool: Tensor,
    anchor_ids: Tensor,
    pool_ids: Tensor,
    count: int,
    mask: Tensor | None,
) -> tuple[Tensor, Tensor]:
    columns = anchor_ids.new_empty(len(anchors), count)
    there = torch.empty_like(columns, dtype=torch.bool)
    height = max(_SORTED // len(pool), 1)
    for start in range(0, len(anchors), height):
        rows = slice(start, start + height)
        masked = None if mask is None else mask[rows]
        columns[rows], there[rows] = sorted_columns(
            anchors[rows], pool, anchor_ids[rows], pool_ids, count, masked
        )
    return columns, there


def streamed(
    support: Sequence[Tensor],
    pool: Tensor,
    anchor_ids: Tensor,
    pool_ids: Tensor,
    count: int,
    mask: Tensor | None,
) -> tuple[Tensor, Tensor]:
    """Return the largest similarities ``[N, M]`` with any of several rows, and their columns.

    See :func:`negplug.kernels.nearest.views.nearest_of_views`; for the CPU.
    """
    anchors, *others = support
    # No row of the pool is called -2.
    names = anchor_ids.masked_fill(anchor_ids == -1, -2)
    best = anchors.new_empty(len(anchors), count)
    found = anchor_ids.new_empty(best.shape)
    for rows, columns, tile in product_tiles(anchors, pool):
        for other in others:
            products = torch.empty_like(tile)
            write_products(other[rows], pool[columns], products)
            torch.maximum(tile, products, out=tile)
        tile.masked_fill_(names[rows, None] == pool_ids[columns], -torch.inf)
        if mask is not None:
            tile.masked_fill_(~mask[rows, columns], -torch.inf)
        if columns.start == 0:
            ours, places = largest(tile, count)
        else:
            # Those of smaller columns first.
            width, before = places.shape[1], places
            ours, places = largest(torch.cat([ours, tile], dim=1), count)
            known_before = before.gather(1, places.clamp(max=width - 1))
            places = torch.where(places < width, known_before, places + (columns.start - width))
        if columns.stop == len(pool):
            if len(tile) == len(anchors):
                best, found = ours, places
            else:
                best[rows], found[rows] = ours, places
    return best, found


def which_are_there(values: Tensor) -> Tensor | None:
    """Return which values are not -inf, None where it is known that all are."""
    there = values > -torch.inf
    return None if free_to_read(there.device) and known(there.all()) else there


def largest(values: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Return the largest of each row in descending order, of equal ones the earlier first.

    Args:
        values: ``[R, C]``, -inf where there is none.
        count: How many are wanted; all where there are fewer.

    Returns:
        Values and places, both ``[R, min(count, C)]``.
    """
    if not free_to_read(values.device):
        return _first_of_sorted(values, count)
    # One more, to see whether another is equal to the last: topk gives equal ones in any order.
    found, place = values.topk(min(count + 1, values.shape[1]))
    ordered = found.numpy()
    equal = ordered[:, 1:] == ordered[:, :-1]
    found, place = found[:, :count], place[:, :count]
    if equal.any():
        rows = torch.from_numpy(equal.any(1) & np.isfinite(ordered[:, 0]))
        found[rows], place[rows] = _first_of_sorted(values[rows], count)
    return found, place


def _first_of_sorted(values: Tensor, count: int) -> tuple[Tensor, Tensor]:
    found, place = values.sort(dim=1, descending=True, stable=True)
    return found[:, :count], place[:, :count]
