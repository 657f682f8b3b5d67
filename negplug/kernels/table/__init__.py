"""Entries of a table of values ``[V, n, …]``, looked up and written by view and index.

What lies outside of the table is read as empty, and not written: on a GPU an index is used before
the check that refuses it has arrived. Of entries that are written twice the last one counts, on
every device.

Kernels: :mod:`negplug.kernels.table.fused`, in Triton, on a GPU;
:mod:`negplug.kernels.table.host`, where values are free to read;
:mod:`negplug.kernels.table.indexing`, in torch operations, on any device.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from negplug.kernels.choice import Kernel, Operation, lazily, numpy_refusal, triton_refusal
from negplug.kernels.table.host import entries_on_host, write_on_host
from negplug.kernels.table.indexing import indexed_entries, write_by_index

__all__ = ["READING", "WRITING", "read_entries", "write_entries"]


# Each entry is compared with all others: beyond, sorting them takes less time.
_MOST_COMPARED = 2**15

READING: Operation[None] = Operation(
    "look-up in a table",
    None,
    (
        Kernel("triton", lazily("table.fused", "fused_entries"), triton_refusal),
        Kernel("numpy", lambda: entries_on_host, numpy_refusal),
        Kernel("torch", lambda: indexed_entries),
    ),
)

WRITING: Operation[int] = Operation(
    "writing to a table",
    512,
    (
        Kernel(
            "triton",
            lazily("table.fused", "write_fused"),
            triton_refusal,
            lambda count: count <= _MOST_COMPARED,
        ),
        Kernel("numpy", lambda: write_on_host, numpy_refusal),
        Kernel("torch", lambda: write_by_index),
    ),
)


def read_entries(
    tables: Sequence[Tensor], views: Tensor, indexes: Tensor, empty: Sequence[float]
) -> list[Tensor]:
    """Return N entries of each table, ``[N, …]``.

    Args:
        tables: ``[V, n, …]``, numbers or vectors; contiguous.
        views: ``[N]`` int64, from 0 on.
        indexes: ``[N]`` int64, from 0 on.
        empty: What is read outside of each table.
    """
    kernel = READING.kernel(views.device, None)
    found: list[Tensor] = kernel(tables, views, indexes, empty)
    return found


def write_entries(
    tables: Sequence[Tensor], views: Tensor, indexes: Tensor, values: Sequence[Tensor]
) -> None:
    """Write N entries to each table, which is of another type perhaps.

    Args:
        tables: As in :func:`read_entries`.
        views: As in :func:`read_entries`.
        indexes: As in :func:`read_entries`.
        values: ``[N, …]`` for each table.
    """
    WRITING.kernel(views.device, len(views))(tables, views, indexes, values)
