"""Entries of a table in torch operations, on any device."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from negplug.kernels.late import known


def indexed_entries(
    tables: Sequence[Tensor], views: Tensor, indexes: Tensor, empty: Sequence[float]
) -> list[Tensor]:
    """Return entries; see :func:`negplug.kernels.table.read_entries`."""
    height, width = tables[0].shape[:2]
    if not height * width:
        return [
            table.new_full((len(views), *table.shape[2:]), none)
            for table, none in zip(tables, empty, strict=True)
        ]
    written = (views < height) & (indexes < width)
    place = views.clamp(max=height - 1).mul_(width).add_(indexes.clamp(max=width - 1))
    everywhere = known(written.all())
    found = []
    for table, none in zip(tables, empty, strict=True):
        rows = table.flatten(0, 1).index_select(0, place)
        if not everywhere:
            rows = rows.where(written.view(-1, *(1 for _ in rows.shape[1:])), none)
        found.append(rows)
    return found


def write_by_index(
    tables: Sequence[Tensor], views: Tensor, indexes: Tensor, values: Sequence[Tensor]
) -> None:
    """Write entries; see :func:`negplug.kernels.table.write_entries`."""
    height, width = tables[0].shape[:2]
    place = (views * width).add_(indexes)
    ordered, order = place.sort(stable=True)
    if not known((ordered[1:] != ordered[:-1]).all()):
        # Each writes what the last of its place does, so that the order does not matter.
        last = order[torch.searchsorted(ordered, ordered, right=True) - 1]
        place = ordered
        values = [rows[last] for rows in values]
    if known(place[0]) is None:
        # An index that a check has yet to refuse must write nowhere that there is no memory.
        place = place.clamp(0, height * width - 1)
    for table, rows in zip(tables, values, strict=True):
        table.view(-1, *table.shape[2:]).index_copy_(0, place, rows.to(table))
