"""The nearest of a pool in Triton, for GPUs: see :mod:`negplug.kernels.nearest.programs`.

One launch, and a second one that merges where the pool is split into P parts because the anchors
alone do not fill the device; then memory is 8·N·M·P bytes, and else none but the answer's.

Import this module only where Triton is installed.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from negplug.kernels.launching import launch
from negplug.kernels.nearest.programs import nearest_of_part, nearest_of_parts
from negplug.kernels.nearest.tiled import tiled_columns
from negplug.kernels.pool.cuts import Processors, precision_of
from negplug.kernels.sizes import cdiv, power_of_2

_MOST = 256
"""Columns that a program can keep for each anchor of its block."""

# Columns of a tile, and numbers of a row at a time.
_COLUMNS = 64
_NUMBERS = 32  # more would leave no registers

# Programs for each of a device's processors.
_PROGRAMS = 4


def fused_columns(
    anchors: Tensor,
    pool: Tensor,
    anchor_ids: Tensor,
    pool_ids: Tensor,
    count: int,
    mask: Tensor | None = None,
) -> tuple[Tensor, Tensor | None]:
    """Return columns and which there are; see :func:`negplug.kernels.nearest.nearest_columns`."""
    if anchors.dtype != torch.float32 or count > _MOST:
        return tiled_columns(anchors, pool, anchor_ids, pool_ids, count, mask)
    rows, width = anchors.shape
    found = anchor_ids.new_empty(rows, count)
    there = torch.empty_like(found, dtype=torch.bool)
    if not rows:
        return found, there
    cut = Cut.of(rows, len(pool), count, anchors.device)
    keys = found.new_empty(cut.parts, rows, count) if cut.parts > 1 else found
    # An argument that a program does not read must be a tensor all the same.
    masked = there if mask is None else mask
    launch(
        nearest_of_part,
        (cut.blocks, cut.parts),
        anchors.contiguous(),
        pool.contiguous(),
        anchor_ids.contiguous(),
        pool_ids.contiguous(),
        masked.view(torch.uint8),
        keys,
        found,
        there.view(torch.uint8),
        rows,
        len(pool),
        width,
        cut.chunk,
        count,
        *masked.stride(),
        BM=cut.rows,
        BN=_COLUMNS,
        BD=max(16, min(power_of_2(width), _NUMBERS)),
        BC=cut.room,
        MASKED=mask is not None,
        WHOLE=cut.parts == 1,
        PRECISION=precision_of(anchors.device),
        num_warps=cut.warps if mask is None else 4,
        num_stages=3,
    )
    if cut.parts > 1:
        launch(
            nearest_of_parts,
            (cut.blocks,),
            keys,
            found,
            there.view(torch.uint8),
            rows,
            count,
            cut.parts,
            BM=cut.rows,
            BC=cut.room,
            num_warps=cut.warps,
        )
    return found, there


class Cut(NamedTuple):
    """How a launch is cut.

    Attributes:
        rows: Anchors of a block.
        room: Keys of an anchor, a power of two.
        blocks: Blocks of anchors.
        parts: Parts of the pool.
        chunk: Columns of a part.
    """

    rows: int
    room: int
    blocks: int
    parts: int
    chunk: int

    @property
    def warps(self) -> int:
        """Of a program: as few as have registers for it, so that they wait less for each other."""
        return 2 if self.room <= 128 else 4

    @classmethod
    def of(cls, rows: int, columns: int, count: int, device: torch.device) -> Cut:
        """Return the cut for so many anchors and columns, of which ``count`` are wanted."""
        room = max(power_of_2(count), 2)
        height = 32 if room <= 32 else 16
        blocks = cdiv(rows, height)
        # Parts from which only a few of the columns are taken.
        least = max(4 * room, 8 * _COLUMNS)
        most = max(columns // least, 1)
        parts = min(max(_PROGRAMS * Processors.of(device).number // blocks, 1), most)
        chunk = cdiv(cdiv(columns, parts), _COLUMNS) * _COLUMNS
        return cls(height, room, blocks, max(cdiv(columns, chunk), 1), chunk)
