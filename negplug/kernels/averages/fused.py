"""Moving averages on a GPU: see :mod:`negplug.kernels.averages.programs`.

Import this module only where Triton is installed.
"""

from __future__ import annotations

import torch
from torch import Tensor

from negplug.kernels.averages.programs import averages_of_samples
from negplug.kernels.averages.sorting import average_by_sorting
from negplug.kernels.launching import launch
from negplug.kernels.samples import find
from negplug.kernels.samples.programs import first_of_equals
from negplug.kernels.sizes import cdiv, power_of_2

# Keys of a program, and those that it compares them with at a time: of wide rows fewer have
# registers.
_KEYS = 16
_COMPARED, _COMPARED_NUMBERS = 32, 4096

# Numbers of a row that a program holds.
_WIDEST = 512


def fused_average(
    rows: Tensor, names: Tensor, keys: Tensor, arriving: Tensor, momentum: float, empty: int
) -> Tensor:
    """Write averages; see :func:`negplug.kernels.averages.average_`."""
    if not _served(rows, keys):
        return average_by_sorting(rows, names, keys, arriving, momentum, empty)
    (count, width), arriving = keys.shape, arriving.contiguous()
    indexes = arriving[1]
    found = find(names[1], indexes)
    written = (names[1] != empty).sum()
    flags = indexes.new_empty(count, dtype=torch.int32)
    grid, padded = (cdiv(count, _KEYS),), max(power_of_2(width), 16)
    launch(first_of_equals, grid, indexes, indexes, flags, count, BN=_KEYS, BT=256)
    launch(
        averages_of_samples,
        grid,
        rows,
        names,
        keys.contiguous(),
        arriving,
        flags,
        found,
        written,
        momentum,
        len(rows),
        count,
        width,
        len(names),
        names.stride(0),
        arriving.stride(0),
        BN=_KEYS,
        BT=min(max(_COMPARED_NUMBERS // padded, 16), _COMPARED),
        BD=padded,
        PRECISION="ieee",
    )
    # A program's writes are none that autograd sees.
    torch.autograd.graph.increment_version((rows, names))
    return written + (flags & (found < 0)).sum()


def _served(rows: Tensor, keys: Tensor) -> bool:
    return rows.dtype == keys.dtype == torch.float32 and 0 < keys.shape[1] <= _WIDEST
