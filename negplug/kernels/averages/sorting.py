"""Moving averages in torch operations, on any device: see :mod:`negplug.kernels.averages`.

As many rows are averaged as there are keys, since the number of samples is not known: those of one
sample are equal.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import embedding_bag

from negplug.kernels.unit import unit_rows


def average_by_sorting(
    rows: Tensor, names: Tensor, keys: Tensor, arriving: Tensor, momentum: float, empty: int
) -> Tensor:
    """Write averages; see :func:`negplug.kernels.averages.average_`."""
    ordered, order = torch.sort(arriving[1], stable=True)
    new = torch.ones_like(ordered, dtype=torch.bool)
    torch.ne(ordered[1:], ordered[:-1], out=new[1:])
    sample = new.cumsum(0) - 1
    starts = torch.searchsorted(sample, torch.arange(len(sample), device=sample.device))
    mean = unit_rows(embedding_bag(order, keys, starts, mode="mean"))[sample]
    slots, needed = _slots(names[1], ordered, new, empty)
    # A new slot is zero, so that its average is the direction of the mean alone.
    old = rows[slots].to(mean)
    rows[slots] = unit_rows(torch.lerp(mean, old, momentum)).to(rows)
    names[:, slots] = arriving[:, order[starts[sample]]]
    return needed


def _slots(written: Tensor, indexes: Tensor, new: Tensor, empty: int) -> tuple[Tensor, Tensor]:
    """Return the slot of each index, made if need be, and how many slots are needed, ``[]``.

    Args:
        written: ``[C]`` int64, the index that each slot holds.
        indexes: ``[n]`` int64, ascending; some may be equal.
        new: ``[n]`` bool, True at the first of those.
        empty: The index of a slot that is not written.
    """
    held, order = written.sort()
    place = torch.searchsorted(held, indexes).clamp_(max=len(held) - 1)
    fresh = held[place] != indexes
    fresh_samples = fresh & new
    before = (held != empty).sum()
    # No more than there is room for, unless a check has yet to refuse them.
    next_slots = (before + fresh_samples.cumsum(0) - 1).clamp_(max=len(held) - 1)
    return torch.where(fresh, next_slots, order[place]), before + fresh_samples.sum()
