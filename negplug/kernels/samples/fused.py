"""The samples of a pool on a GPU: see :mod:`negplug.kernels.samples.programs`.

Import this module only where Triton is installed.
"""

from __future__ import annotations

import torch
from torch import Tensor

from negplug.kernels.launching import launch
from negplug.kernels.samples.programs import (
    columns_of_samples,
    first_of_equals,
    grouped_rows,
    shuffled_samples,
)
from negplug.kernels.sizes import cdiv

# Of a program, and what it compares them with at a time.
_ROWS = 16
_COMPARED = 256


def fused_groups(indexes: Tensor, views: Tensor, number: int, empty: int) -> tuple[Tensor, Tensor]:
    """Return samples and their rows; see :func:`negplug.kernels.samples.group`."""
    indexes, views = indexes.contiguous(), views.contiguous()
    count, most = len(indexes), len(indexes) // number
    samples, rows = indexes.new_empty(most), indexes.new_empty(number, most)
    flags = indexes.new_empty(count, dtype=torch.int32)
    grid = (cdiv(count, _ROWS),)
    launch(first_of_equals, grid, indexes, views, flags, count, BN=_ROWS, BT=_COMPARED)
    launch(
        grouped_rows,
        grid,
        indexes,
        views,
        flags,
        samples,
        rows,
        empty,
        count,
        most,
        number,
        BN=_ROWS,
        BT=_COMPARED,
    )
    return samples, rows


def fused_shuffle(
    samples: Tensor, rows: Tensor, seed: int, empty: int | None
) -> tuple[Tensor, Tensor]:
    """Return samples and rows in order; see :func:`negplug.kernels.samples.shuffle`."""
    ordered, placed = torch.empty_like(samples), torch.empty_like(rows)
    launch(
        shuffled_samples,
        (cdiv(len(samples), _ROWS),),
        samples,
        rows,
        ordered,
        placed,
        seed,
        empty or 0,
        len(samples),
        len(rows),
        PADDED=empty is not None,
        BN=_ROWS,
        BT=_COMPARED,
    )
    return ordered, placed


def fused_find(samples: Tensor, wanted: Tensor) -> Tensor:
    """Return columns; see :func:`negplug.kernels.samples.find`."""
    wanted = wanted.contiguous()
    columns = torch.empty_like(wanted)
    launch(
        columns_of_samples,
        (cdiv(wanted.numel(), _ROWS),),
        samples,
        wanted,
        columns,
        len(samples),
        wanted.numel(),
        BN=_ROWS,
        BT=_COMPARED,
    )
    return columns
