"""Entries of a table where values are free to read: see :mod:`negplug.kernels.table`.

Places by numpy: of a few integers its operations take a tenth of the time of torch's.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from negplug.kernels.table.indexing import indexed_entries, write_by_index


def entries_on_host(
    tables: Sequence[Tensor], views: Tensor, indexes: Tensor, empty: Sequence[float]
) -> list[Tensor]:
    """Return entries; see :func:`negplug.kernels.table.read_entries`."""
    height, width = tables[0].shape[:2]
    view, index = views.numpy(), indexes.numpy()
    if view.max(initial=0) >= height or index.max(initial=0) >= width:
        return indexed_entries(tables, views, indexes, empty)
    place = view * width + index
    return [torch.from_numpy(_entries(table).take(place, 0)) for table in tables]


def write_on_host(
    tables: Sequence[Tensor], views: Tensor, indexes: Tensor, values: Sequence[Tensor]
) -> None:
    """Write entries; see :func:`negplug.kernels.table.write_entries`."""
    place = views.numpy() * tables[0].shape[1] + indexes.numpy()
    if len(set(place.tolist())) < len(place):
        write_by_index(tables, views, indexes, values)
        return
    for table, rows in zip(tables, values, strict=True):
        _entries(table)[place] = rows.numpy()
    # Writes of numpy are none that autograd sees.
    torch.autograd.graph.increment_version(tables)


def _entries(table: Tensor) -> Any:
    """Return the entries of a table ``[V, n, …]`` as an array ``[V·n, …]`` in the same memory."""
    return table.view(-1, *table.shape[2:]).numpy()
