"""Draws from the softmax over a pool in Triton: :mod:`negplug.kernels.softmax_draws.programs`.

One launch, and a second one that merges where the pool is split into P parts because the anchors
alone do not fill the device; then memory is 16·N·M·P bytes, and else none but the answer's.

Import this module only where Triton is installed.
"""

from __future__ import annotations

import torch
from torch import Tensor

from negplug.kernels.launching import launch
from negplug.kernels.pool.cuts import Processors, precision_of
from negplug.kernels.pool.tiled import tile_width
from negplug.kernels.sizes import cdiv, power_of_2
from negplug.kernels.softmax_draws.programs import draws_of_part, draws_of_parts
from negplug.kernels.softmax_draws.tiled import tiled_draws

# Anchors of a block, columns at a time, and numbers of a row at a time: more would leave no
# registers.
_ROWS = 16
_COLUMNS = 64
_NUMBERS = 32
# Draws of each anchor that a program makes.
_DRAWS = 32

# Programs for each of a device's processors.
_PROGRAMS = 4

# Draws that are merged by a program.
_MERGED = 512


def fused_draws(
    anchors: Tensor,
    pool: Tensor,
    anchor_ids: Tensor,
    pool_ids: Tensor,
    temperature: float,
    count: int,
    seed: int | Tensor,
    log_weight: Tensor | None = None,
    mask: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Return columns and maxima; see :func:`negplug.kernels.softmax_draws.softmax_draws`."""
    if anchors.dtype != torch.float32:
        return tiled_draws(
            anchors, pool, anchor_ids, pool_ids, temperature, count, seed, log_weight, mask
        )
    rows, width = anchors.shape
    columns = anchor_ids.new_empty(rows, count)
    maxima = columns.new_empty(columns.shape, dtype=torch.float64)
    if not rows or not len(pool):
        return columns.zero_(), maxima.fill_(-torch.inf)
    blocks, tile = cdiv(rows, _ROWS), tile_width(len(pool))
    tiles = cdiv(len(pool), tile)
    wanted = max(_PROGRAMS * Processors.of(anchors.device).number // blocks, 1)
    chunk = cdiv(tiles, min(wanted, tiles))
    parts = cdiv(tiles, chunk)
    part_columns, part_maxima = columns, maxima
    if parts > 1:
        part_columns, part_maxima = (x.new_empty(parts, *x.shape) for x in (columns, maxima))
    at_once = min(power_of_2(count), _DRAWS)
    # An argument that a program does not read must be a tensor all the same.
    weights = maxima if log_weight is None else log_weight.expand(rows, len(pool))
    masked = columns if mask is None else mask.view(torch.uint8)
    launch(
        draws_of_part,
        (blocks, parts, cdiv(count, at_once)),
        anchors.contiguous(),
        pool.contiguous(),
        anchor_ids.contiguous(),
        pool_ids.contiguous(),
        weights,
        masked,
        part_columns,
        part_maxima,
        rows,
        len(pool),
        width,
        tile,
        chunk * tile,
        count,
        1.0 / temperature,
        seed,
        *weights.stride(),
        *masked.stride(),
        BM=_ROWS,
        BN=_COLUMNS,
        BD=max(16, min(power_of_2(width), _NUMBERS)),
        BC=at_once,
        WEIGHTED=log_weight is not None,
        MASKED=mask is not None,
        SEED_ON_DEVICE=isinstance(seed, Tensor),
        PRECISION=precision_of(anchors.device),
        # As few as have registers for it, so that they wait less for each other.
        num_warps=2 if log_weight is None and mask is None else 4,
        num_stages=3,
    )
    if parts > 1:
        size = columns.numel()
        launch(
            draws_of_parts,
            (cdiv(size, _MERGED),),
            part_columns,
            part_maxima,
            columns,
            maxima,
            size,
            parts,
            BC=_MERGED,
        )
    return columns, maxima
