"""Random numbers in one launch on a GPU: see :mod:`negplug.kernels.random.programs`.

Import this module only where Triton is installed.
"""

from __future__ import annotations

import torch
from torch import Tensor

from negplug.kernels.launching import launch
from negplug.kernels.random.floyd import floyd_integers
from negplug.kernels.random.programs import distinct_below, uniforms_of_stream
from negplug.kernels.sizes import cdiv, power_of_2

# Hashes of a program, each of which is two numbers.
_PAIRS = 512

MOST = 128
"""Distinct integers of a row: beyond, comparing each with all takes longer than sorting them."""

# Integers of a program; Triton's interpreter pays for each program.
_ENTRIES = {"cpu": 2**16}
_ENTRIES_ELSEWHERE = 128
_WARPS = 4


def fused_uniforms(out: Tensor, seed: int, start: int) -> None:
    """Write uniform numbers; see :func:`negplug.kernels.random.write_uniforms`."""
    grid = (cdiv(len(out), 2 * _PAIRS),)
    launch(uniforms_of_stream, grid, out, seed, start // 2, len(out), PAIRS=_PAIRS)


def fused_integers(bounds: Tensor, count: int, seed: int) -> Tensor:
    """Return distinct integers; see :func:`negplug.kernels.random.distinct_integers`."""
    if count > MOST:
        return floyd_integers(bounds, count, seed)
    drawn = bounds.new_empty(len(bounds), count)
    cut = cut_of_draw(len(bounds), count, bounds.device)
    launch(
        distinct_below,
        (cdiv(len(bounds), cut["BR"]),),
        bounds.contiguous(),
        drawn,
        len(bounds),
        count,
        seed,
        **cut,
    )
    return drawn


def cut_of_draw(rows: int, count: int, device: torch.device) -> dict[str, int]:
    """Return how many rows a program draws for, room for the integers of each, and its warps."""
    width = power_of_2(count)
    entries = _ENTRIES.get(device.type, _ENTRIES_ELSEWHERE)
    return {"BR": min(power_of_2(rows), max(entries // width, 1)), "BM": width, "num_warps": _WARPS}
