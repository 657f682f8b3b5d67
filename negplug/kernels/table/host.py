"""Entries of a table where values are free to read: see :mod:`negplug.kernels.table`.

Places by numpy: of a few integers its operations take a tenth of the time of torch's.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
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
    place = torch.from_numpy(view * width + index)
    return [table.flatten(0, 1).index_select(0, place) for table in tables]


def write_on_host(
    tables: Sequence[Tensor], views: Tensor, indexes: Tensor, values: Sequence[Tensor]
) -> None:
    """Write entries; see :func:`negplug.kernels.table.write_entries`."""
    place = views.numpy() * tables[0].shape[1] + indexes.numpy()
    ordered = np.sort(place)
    if (ordered[1:] == ordered[:-1]).any():
        write_by_index(tables, views, indexes, values)
        return
    for table, rows in zip(tables, values, strict=True):
        written = table.view(-1, *table.shape[2:])
        written.index_copy_(0, torch.from_numpy(place), rows.to(table))
