"""Entries of a table on a GPU, one launch for each: see :mod:`negplug.kernels.table.programs`.

Import this module only where Triton is installed.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from negplug.kernels.launching import launch
from negplug.kernels.sizes import cdiv, power_of_2
from negplug.kernels.table.programs import entries_of_table, last_entries

# Rows and numbers of a program, and rows that it compares with at a time.
_ROWS = 16
_NUMBERS = 128
_COMPARED = 256


def fused_entries(
    tables: Sequence[Tensor], views: Tensor, indexes: Tensor, empty: Sequence[float]
) -> list[Tensor]:
    """Return entries; see :func:`negplug.kernels.table.read_entries`."""
    count = len(views)
    views, indexes = views.contiguous(), indexes.contiguous()
    found = []
    for table, none in zip(tables, empty, strict=True):
        out = table.new_empty(count, *table.shape[2:])
        height, width = table.shape[:2]
        numbers = table.shape[2:].numel()
        block = min(power_of_2(max(numbers, 1)), _NUMBERS)
        grid = (cdiv(count, _ROWS), cdiv(numbers, block))
        if count and numbers:
            launch(
                entries_of_table,
                grid,
                _plain(table),
                views,
                indexes,
                _plain(out),
                float(none),
                height,
                width,
                count,
                numbers,
                BN=_ROWS,
                BD=block,
            )
        found.append(out)
    return found


def write_fused(
    tables: Sequence[Tensor], views: Tensor, indexes: Tensor, values: Sequence[Tensor]
) -> None:
    """Write entries; see :func:`negplug.kernels.table.write_entries`."""
    count = len(views)
    views, indexes = views.contiguous(), indexes.contiguous()
    for table, rows in zip(tables, values, strict=True):
        height, width = table.shape[:2]
        numbers = table.shape[2:].numel()
        launch(
            last_entries,
            (cdiv(count, _ROWS),),
            _plain(table),
            views,
            indexes,
            _plain(rows.contiguous()),
            height,
            width,
            count,
            numbers,
            BN=_ROWS,
            BD=min(power_of_2(numbers), _NUMBERS),
            BT=_COMPARED,
        )
    # A program's writes are none that autograd sees.
    torch.autograd.graph.increment_version(tuple(tables))


def _plain(tensor: Tensor) -> Tensor:
    """Return the same memory in a type that programs know: truth values as bytes."""
    return tensor.view(torch.uint8) if tensor.dtype == torch.bool else tensor
