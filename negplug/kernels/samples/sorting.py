"""The samples of a pool by sorting, in torch operations: see :mod:`negplug.kernels.samples`."""

from __future__ import annotations

import torch
from torch import Tensor

from negplug.kernels.random.hashing import hashed_integers


def grouped_by_sorting(
    indexes: Tensor, views: Tensor, number: int, empty: int
) -> tuple[Tensor, Tensor]:
    """Return samples and their rows; see :func:`negplug.kernels.samples.group`."""
    most = len(indexes) // number
    ordered, order = indexes.sort()
    new = torch.ones_like(ordered, dtype=torch.bool)
    torch.ne(ordered[1:], ordered[:-1], out=new[1:])
    sample = new.cumsum(0).sub_(1)
    samples = ordered.new_full((most,), empty).scatter_(0, sample, ordered)
    # Of each row, its sample and view as one number.
    entry = torch.empty_like(sample).scatter_(0, order, sample).add_(views, alpha=most)
    rows = first_rows(entry, number * most)
    # Rows of a view that is there already, behind: in the columns of samples that are none.
    repeats = rows[entry] != torch.arange(len(entry), device=entry.device)
    free = rows.ge(0).argsort(stable=True)
    spare = torch.where(repeats, views, number).argsort(stable=True)[: len(free)]
    rows = rows.scatter(0, free, torch.where(rows[free] < 0, spare, rows[free]))
    return samples, rows.view(number, most)


def first_rows(entry: Tensor, count: int) -> Tensor:
    """Return the first row of each entry in [0, count), ``[count]`` int64; -1 if it has none."""
    none = len(entry)
    rows = entry.new_full((count,), none)
    row = torch.arange(none, device=entry.device)
    rows.scatter_reduce_(0, entry, row, "amin")
    return rows.masked_fill_(rows == none, -1)


def shuffled_by_sorting(
    samples: Tensor, rows: Tensor, seed: int | Tensor, empty: int | None
) -> tuple[Tensor, Tensor]:
    """Return samples and rows in order; see :func:`negplug.kernels.samples.shuffle`."""
    # Of 63 bits: in a million, two are equal once in 10⁷ orders, and stay as they were.
    keys = hashed_integers(len(samples), seed, samples.device)
    if empty is not None:
        keys.masked_fill_(samples == empty, torch.iinfo(keys.dtype).max)
    order = keys.argsort(stable=True)
    return samples[order], rows[:, order]


def found_by_sorting(samples: Tensor, wanted: Tensor) -> Tensor:
    """Return columns; see :func:`negplug.kernels.samples.find`."""
    ordered, order = samples.sort()
    column = order[torch.searchsorted(ordered, wanted).clamp_(max=len(ordered) - 1)]
    return column.where(samples[column] == wanted, -1)
