"""Unit mixtures of two rows one after the other, compiled by numba, for tensors on the CPU.

Import this module only where numba is installed.
"""

from __future__ import annotations

from typing import Any

import numba
import numpy as np
import torch
from torch import Tensor

from negplug.kernels.compiling import compiled, threads
from negplug.kernels.loops import product

# Numbers that are read. Below so many, threads cost more than they save.
_FEW = 2**18


def compiled_mixtures(
    pool: Tensor, columns: Tensor, numbers: Tensor | int, drawn: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Return columns and coefficients; see :func:`negplug.kernels.mixing.unit_mixtures`."""
    mixed = columns.new_empty(*drawn.shape[1:], 2)
    coefficients = pool.new_empty(mixed.shape)
    if isinstance(numbers, int):
        each = np.full(len(columns), numbers)
    else:
        each = numbers.flatten().numpy()
    given = pool.contiguous(), columns.contiguous(), drawn
    arrays = [tensor.numpy() for tensor in (*given, mixed, coefficients)]
    least = torch.finfo(pool.dtype).eps
    with threads(drawn[0].numel() * pool.shape[1] >= _FEW) as at_once:
        (_mix_at_once if at_once else _mix_in_turn)(each, least, *arrays)
    return mixed[..., 0], mixed[..., 1], coefficients


@compiled()
def _mix_row(
    i: int, number: int, least: float, pool: Any, columns: Any, drawn: Any, mixed: Any, parts: Any
) -> None:
    for m in range(drawn.shape[2]):
        place = int(drawn[0, i, m] * number)
        other = (place + 1 + int(drawn[1, i, m] * (number - 1))) % number
        first, second = columns[i, place], columns[i, other]
        similarity = product(pool[first], pool[second])
        share = drawn[2, i, m]
        # The middle of two opposite rows has no direction: it stays short.
        squared = 1 - 2 * share * (1 - share) * (1 - max(similarity, -1.0))
        length = np.sqrt(max(squared, least))
        mixed[i, m, 0], mixed[i, m, 1] = first, second
        parts[i, m, 0], parts[i, m, 1] = share / length, (1 - share) / length


# Two functions: on disk numba tells functions apart by name, not by how they were compiled.


@compiled()
def _mix_in_turn(
    numbers: Any, least: float, pool: Any, columns: Any, drawn: Any, mixed: Any, parts: Any
) -> None:
    for i in range(len(columns)):
        _mix_row(i, numbers[i], least, pool, columns, drawn, mixed, parts)


@compiled(parallel=True)
def _mix_at_once(
    numbers: Any, least: float, pool: Any, columns: Any, drawn: Any, mixed: Any, parts: Any
) -> None:
    for i in numba.prange(len(columns)):
        _mix_row(i, numbers[i], least, pool, columns, drawn, mixed, parts)
