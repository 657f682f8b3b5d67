"""Launches of the Triton programs of a pool's log-sum-exp: how they are cut, and with what.

Import this module only where Triton is installed.
"""

from __future__ import annotations

import functools
import math
from typing import NamedTuple

import torch
import triton
from torch import Tensor

from negplug.kernels.pool.programs import gradient_of_part, merged_parts, sums_of_part

LOG2E = math.log2(math.e)

# Programs for each of a device's processors, so that none waits for the last ones.
_PROGRAMS = 2


class Question(NamedTuple):
    """What the logits of rows and columns depend on beside the two.

    Attributes:
        row_ids: Of each row.
        column_ids: Of each column.
        temperature: τ.
        weight: Log weights, and how far apart their rows are (0 where all rows share one).
        mask: Truth values, likewise.
    """

    row_ids: Tensor
    column_ids: Tensor
    temperature: float
    weight: tuple[Tensor, int] | None
    mask: tuple[Tensor, int] | None

    @classmethod
    def of(
        cls,
        row_ids: Tensor,
        column_ids: Tensor,
        temperature: float,
        log_weight: Tensor | None,
        mask: Tensor | None,
    ) -> Question:
        """Return the question of anchors (rows) and a pool (columns)."""
        width = len(column_ids)
        weight = None
        if log_weight is not None:
            weight = log_weight.contiguous(), width if len(log_weight) > 1 else 0
        masked = None
        if mask is not None:
            common = mask.stride(0) == 0
            mask = (mask[:1] if common else mask).contiguous().view(torch.uint8)
            masked = mask, 0 if common else width
        return cls(row_ids.contiguous(), column_ids.contiguous(), temperature, weight, masked)

    def swapped(self) -> Question:
        """Return the question of columns and rows; strides stay those of the tensors' rows."""
        return self._replace(row_ids=self.column_ids, column_ids=self.row_ids)


def sums(
    rows: Tensor, columns: Tensor, question: Question, means: bool
) -> tuple[Tensor, Tensor, Tensor | None]:
    """Return ℓ, that of the programs' logits, and ∂ℓ/∂rows by the columns where it is wanted."""
    count, width = rows.shape
    shape = Shape.of(count, len(columns), width, rows.device)
    highest = rows.new_empty(shape.parts, count)
    added = torch.empty_like(highest)
    parted = rows.new_empty(shape.parts, count, width) if means else added
    value, total = rows.new_empty(count), rows.new_empty(count)
    mean = torch.empty_like(rows) if means else None
    # An argument that a program does not read must be a tensor all the same.
    weight, weight_row = question.weight or (added, 0)
    mask, mask_row = question.mask or (added, 0)
    with torch.cuda.device_of(rows):  # type: ignore[no-untyped-call]
        sums_of_part[shape.grid](
            rows,
            columns,
            question.row_ids,
            question.column_ids,
            weight,
            mask,
            highest,
            added,
            parted,
            count,
            len(columns),
            width,
            shape.chunk,
            LOG2E / question.temperature,
            weight_row,
            mask_row,
            BM=shape.side,
            BN=shape.side,
            BD=shape.width,
            WEIGHTED=question.weight is not None,
            MASKED=question.mask is not None,
            MEANS=means,
            PRECISION=_precision(rows.device),
            num_warps=4,
            num_stages=2,
        )
        merged_parts[(shape.grid[0],)](
            highest,
            added,
            parted,
            value,
            total,
            added if mean is None else mean,
            count,
            width,
            shape.parts,
            1.0 / question.temperature,
            BM=shape.side,
            BD=shape.width,
            MEANS=means,
            num_warps=4,
        )
    return value, total, mean


def gradient(
    rows: Tensor, columns: Tensor, question: Question, total: Tensor, grad: Tensor, both: bool
) -> Tensor:
    """Return the gradient of the rows; ``total`` and ``grad`` are the columns'."""
    count, width = rows.shape
    if not count:
        return torch.empty_like(rows)
    shape = Shape.of(count, len(columns), width, rows.device)
    out = rows.new_empty(shape.parts, count, width)
    weight, weight_column = question.weight or (total, 0)
    mask, mask_column = question.mask or (total, 0)
    with torch.cuda.device_of(rows):  # type: ignore[no-untyped-call]
        gradient_of_part[shape.grid](
            rows,
            columns,
            question.row_ids,
            question.column_ids,
            weight,
            mask,
            total,
            grad.contiguous(),
            out,
            count,
            len(columns),
            width,
            shape.chunk,
            LOG2E / question.temperature,
            1.0 / question.temperature,
            weight_column,
            mask_column,
            BM=shape.side,
            BN=shape.side,
            BD=shape.width,
            WEIGHTED=question.weight is not None,
            MASKED=question.mask is not None,
            BOTH=both,
            PRECISION=_precision(rows.device),
            num_warps=4,
            num_stages=2,
        )
    return out[0] if shape.parts == 1 else out.sum(0)


class Shape(NamedTuple):
    """How a launch is cut.

    Attributes:
        side: Rows of a block, and columns of a tile.
        width: Numbers of a row, a power of two.
        parts: Parts of the columns.
        chunk: Columns of a part, a multiple of those of a tile.
        grid: Programs: row blocks and parts.
    """

    side: int
    width: int
    parts: int
    chunk: int
    grid: tuple[int, int]

    @classmethod
    def of(cls, rows: int, columns: int, width: int, device: torch.device) -> Shape:
        """Return the cut for so many rows and columns of a width on a device."""
        width = max(triton.next_power_of_2(width), 16)
        processors = Processors.of(device)
        side = processors.side(width)
        blocks, tiles = triton.cdiv(rows, side), max(triton.cdiv(columns, side), 1)
        wanted = max(_PROGRAMS * processors.number // blocks, 1)
        chunk = triton.cdiv(tiles, min(wanted, tiles)) * side
        parts = max(triton.cdiv(columns, chunk), 1)
        return cls(side, width, parts, chunk, (blocks, parts))


class Processors(NamedTuple):
    """The processors of a device.

    Attributes:
        number: How many there are.
        memory: Shared memory of each, in bytes.
    """

    number: int
    memory: int

    @classmethod
    def of(cls, device: torch.device) -> Processors:
        """Return those of a device."""
        if device.type == "cpu":
            return cls(1, 2**18)  # under Triton's interpreter
        return _found(torch.cuda.current_device() if device.index is None else device.index)

    def side(self, width: int) -> int:
        """Return the largest side whose tiles fit, of rows of so many numbers.

        They are a block of rows, two tiles of columns, one of them on its way, and the
        probabilities. Products of float32 may copy the tiles (on NVIDIA's Hopper, and everywhere
        in Triton 3.2). tests/kernels/test_triton.py compares with what programs take.
        """
        for side in (64, 32):
            if 4 * (5 * side * width + side * side) + 2048 <= self.memory:
                return side
        return 16


@functools.cache
def _found(index: int) -> Processors:
    found = triton.runtime.driver.active.utils.get_device_properties(index)
    return Processors(found["multiprocessor_count"], found["max_shared_mem"])


def _precision(device: torch.device) -> str:
    """Return how float32 is multiplied: TF32 needs NVIDIA's Ampere or later."""
    if device.type != "cuda" or torch.version.hip is not None:
        return "ieee"
    return "tf32x3" if torch.cuda.get_device_capability(device)[0] >= 8 else "ieee"
