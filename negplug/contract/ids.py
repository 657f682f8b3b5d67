"""Who may not be a negative: the one rule, and its index form.

A pool row is no negative of an anchor iff it carries the anchor's id. -1 stands for "unknown"
and equals nothing, itself included. Ids from 0 upwards last, those from -3 downwards number the
samples of one batch, and -2 is reserved for the comparison itself.
"""

from __future__ import annotations

import torch
from torch import Tensor

from negplug.kernels.distributed import rank, world_size

UNKNOWN = -1

# Pairs of ids that are compared in less time than either's are sorted.
_FEW = 2**14

BEYOND = 1 << 62
"""Padding that is larger than any column, also after a column count is subtracted."""


def or_unknown(names: Tensor | None, like: Tensor) -> Tensor:
    """Return ``names``, or :data:`UNKNOWN` for every row of ``like`` if there are none."""
    return torch.full_like(like, UNKNOWN) if names is None else names


def comparable_ids(anchor_ids: Tensor) -> Tensor:
    """Return ``anchor_ids`` ``[N]`` such that ``==`` with pool ids is the exclusion rule."""
    # An unknown anchor must differ from an unknown pool row, which is -1.
    return anchor_ids.masked_fill(anchor_ids == UNKNOWN, UNKNOWN - 1)


def of_this_batch(numbers: Tensor) -> Tensor:
    """Turn numbers of samples into ids: odd, unique over ranks with batches of any size."""
    ids = -3 - 2 * (numbers * world_size() + rank())
    return torch.where(numbers == UNKNOWN, UNKNOWN, ids)


def columns_with_same_id(anchor_ids: Tensor, pool_ids: Tensor) -> tuple[Tensor, Tensor]:
    """List, for each anchor, the pool columns that it must not take as negatives.

    A sort of the pool and two binary searches, so O((N + K) log K) and no ``[N, K]`` mask.

    Args:
        anchor_ids: ``[N]`` int64.
        pool_ids: ``[K]`` int64.

    Returns:
        ``columns [N, E]`` int64, ascending in each row and padded with :data:`BEYOND`, E
        being the largest number of such columns; and their number per anchor, ``[N]`` int64.
    """
    ordered, order = torch.sort(pool_ids, stable=True)
    first, count = _run_of_each(anchor_ids, ordered)
    width = int(count.max()) if count.numel() else 0
    slot = torch.arange(width, device=pool_ids.device)
    present = slot < count[:, None]
    position = (first[:, None] + slot).clamp_(max=max(len(pool_ids) - 1, 0))
    return order[position].masked_fill_(~present, BEYOND), count


def runs_with_same_id(anchor_ids: Tensor, pool_ids: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Order the pool so that the columns an anchor must not take are neighbours.

    Unlike :func:`columns_with_same_id` of a shape that is known before, and so without waiting for
    a device.

    Args:
        anchor_ids: ``[N]`` int64.
        pool_ids: ``[K]`` int64.

    Returns:
        ``order [K]`` int64, the columns by id; where in it those of each anchor begin, ``[N]``; and
        their number, ``[N]``.
    """
    ordered, order = torch.sort(pool_ids, stable=True)
    return order, *_run_of_each(anchor_ids, ordered)


def columns_of_others(anchor_ids: Tensor, ids: Tensor, self_columns: Tensor | None) -> Tensor:
    """List the columns with each anchor's id but the anchor's own, ``[N, E]``, padded with -1."""
    columns, _ = columns_with_same_id(anchor_ids, ids)
    padded = columns == BEYOND
    if self_columns is not None:
        padded |= columns == self_columns[:, None]
    return columns.masked_fill(padded, -1)


def number_of_excluded(anchor_ids: Tensor, pool_ids: Tensor, same: bool) -> Tensor:
    """Return the number of the pool columns that each anchor must not take, ``[N]`` int64.

    Args:
        anchor_ids: ``[N]`` int64.
        pool_ids: ``[K]`` int64.
        same: Whether both are the same ids; then looking them up takes half the time.
    """
    if len(anchor_ids) * len(pool_ids) <= _FEW:
        return (comparable_ids(anchor_ids)[:, None] == pool_ids).sum(1)
    if same:
        ordered, order = pool_ids.sort()
        new = torch.ones_like(ordered, dtype=torch.bool)
        torch.ne(ordered[1:], ordered[:-1], out=new[1:])
        group = new.cumsum(0) - 1
        count = torch.zeros_like(ordered).scatter_add_(0, group, torch.ones_like(ordered))
        number = torch.empty_like(ordered).scatter_(0, order, count[group])
        return number.masked_fill_(pool_ids == UNKNOWN, 0)
    return _run_of_each(anchor_ids, pool_ids.sort().values)[1]


def _run_of_each(anchor_ids: Tensor, ordered: Tensor) -> tuple[Tensor, Tensor]:
    """Return where each anchor's id begins in ascending ids, and how often it is there."""
    wanted = comparable_ids(anchor_ids).contiguous()
    first = torch.searchsorted(ordered, wanted)
    return first, torch.searchsorted(ordered, wanted, right=True) - first
