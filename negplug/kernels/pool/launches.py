"""Launches of the Triton programs of a pool's log-sum-exp: how they are cut, and with what.

Import this module only where Triton is installed.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import torch
from torch import Tensor

from negplug.kernels.pool.cuts import Processors, Shape
from negplug.kernels.pool.programs import gradient_of_part, merged_parts, sums_of_part

__all__ = ["LOG2E", "Processors", "Question", "gradient", "sums"]

LOG2E = math.log2(math.e)

# What weights of float16 are at most: its largest number is four times that.
_LIFT = 1 << 14


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
    """Return ℓ, that of the programs' logits, and ∂ℓ/∂rows by the columns where it is wanted.

    Rows and columns are float32 or float16, what is returned is float32.
    """
    count, width = rows.shape
    shape = Shape.of("sums", rows, len(columns), written=means)
    half = rows.dtype == torch.float16
    single: dict[str, Any] = {"dtype": torch.float32, "device": rows.device}
    highest = torch.empty(shape.parts, count, **single)
    added = torch.empty_like(highest)
    parted = torch.empty(shape.parts, count, width, **single) if means else added
    value, total = torch.empty(count, **single), torch.empty(count, **single)
    mean = torch.empty(count, width, **single) if means else None
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
            BM=shape.tile.rows,
            BN=shape.tile.columns,
            BD=shape.width,
            BLOCKS=shape.blocks,
            WEIGHTED=question.weight is not None,
            MASKED=question.mask is not None,
            MEANS=means,
            PRECISION="ieee" if half else _precision(rows.device),
            LIFT=_LIFT if half else 1,
            num_warps=shape.tile.warps,
            num_stages=shape.tile.stages,
        )
        merged_parts[(shape.grid[0], shape.grid[2])](
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
            BM=shape.tile.rows,
            BD=shape.width,
            MEANS=means,
            num_warps=4,
        )
    return value, total, mean


def gradient(
    rows: Tensor, columns: Tensor, question: Question, total: Tensor, grad: Tensor, both: bool
) -> Tensor:
    """Return the gradient of the rows, float32; ``total`` and ``grad`` are the columns'."""
    count, width = rows.shape
    if not count:
        return torch.empty_like(rows, dtype=torch.float32)
    shape = Shape.of("gradient", rows, len(columns), written=True)
    out = rows.new_empty(shape.parts, count, width, dtype=torch.float32)
    half = rows.dtype == torch.float16
    largest = torch.linalg.vector_norm(grad, torch.inf) if half else total
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
            largest,
            out,
            count,
            len(columns),
            width,
            shape.chunk,
            LOG2E / question.temperature,
            1.0 / question.temperature,
            float(max(min(len(columns), _LIFT), 1)),
            weight_column,
            mask_column,
            BM=shape.tile.rows,
            BN=shape.tile.columns,
            BD=shape.width,
            BLOCKS=shape.blocks,
            WEIGHTED=question.weight is not None,
            MASKED=question.mask is not None,
            BOTH=both,
            PRECISION="ieee" if half else _precision(rows.device),
            num_warps=shape.tile.warps,
            num_stages=shape.tile.stages,
        )
    return out[0] if shape.parts == 1 else out.sum(0)


def _precision(device: torch.device) -> str:
    """Return how float32 is multiplied: TF32 needs NVIDIA's Ampere or later."""
    if device.type != "cuda" or torch.version.hip is not None:
        return "ieee"
    return "tf32x3" if torch.cuda.get_device_capability(device)[0] >= 8 else "ieee"
