"""Launches of the Triton programs of a pool's log-sum-exp: how they are cut, and with what.

Import this module only where Triton is installed.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import torch
from torch import Tensor

from negplug.kernels.launching import launch
from negplug.kernels.pool.cuts import HALF, SINGLE, SPLIT, Processors, Shape, blocks_of
from negplug.kernels.pool.gradients import gradient_of_part
from negplug.kernels.pool.prepared import halves_of_numbers, spans_of_ids
from negplug.kernels.pool.programs import merged_parts, sums_of_part
from negplug.kernels.sizes import cdiv, power_of_2

__all__ = ["LOG2E", "Operand", "Processors", "Question", "gradient", "sums"]

LOG2E = math.log2(math.e)

STEEPEST = 50.0
"""1/τ up to which exponentials of logits, and sums of them, are taken as they are."""

# What weights of float16 are at most: its largest number is four times that.
_LIFT = 1 << 14

# What rows of two float16 are multiplied by.
_RAISED = 64

# So many pairs make up for a launch beforehand.
_WORTH_SPLITTING, _WORTH_SPANNING = 1 << 20, 1 << 22

# Numbers of a program that splits; numbers that one holds which merges.
_SPLIT_AT_ONCE = 4096
_MERGED = {"cpu": 2**18}
_MERGED_ELSEWHERE = 8192


class Operand(NamedTuple):
    """Rows as programs multiply them.

    Attributes:
        rows: ``[n, d]``, float32 or float16; of two float16 the upper ones.
        low: The lower ones; else ``rows`` again.
        kind: What they are made of, of :mod:`negplug.kernels.pool.cuts`.
    """

    rows: Tensor
    low: Tensor
    kind: str

    @property
    def raised(self) -> int:
        """What the rows are multiplied by."""
        return _RAISED if self.kind == SPLIT else 1

    @classmethod
    def of(cls, rows: Tensor, half: bool, pairs: int) -> Operand:
        """Return rows ``[n, d]`` of float32, to be multiplied for so many pairs.

        Args:
            rows: Of unit length.
            half: Whether float16 is enough.
            pairs: How many similarities are asked for.
        """
        if half:
            rows = rows.to(torch.float16).contiguous()
            return cls(rows, rows, HALF)
        rows = rows.contiguous()
        if pairs < _WORTH_SPLITTING or not _has_quick_halves(rows.device):
            return cls(rows, rows, SINGLE)
        high, low = (torch.empty_like(rows, dtype=torch.float16) for _ in range(2))
        count = rows.numel()
        launch(
            halves_of_numbers,
            (cdiv(count, _SPLIT_AT_ONCE),),
            rows,
            high,
            low,
            count,
            BLOCK=_SPLIT_AT_ONCE,
        )
        return cls(high, low, SPLIT)


class Question(NamedTuple):
    """What the logits of rows and columns depend on beside the two.

    Attributes:
        row_ids: Of each row.
        column_ids: Of each column.
        row_spans: The least and the greatest id of each 64 rows, or None.
        column_spans: Likewise.
        temperature: τ.
        weight: Log weights, and how far apart their rows are (0 where all rows share one).
        mask: Truth values, likewise.
    """

    row_ids: Tensor
    column_ids: Tensor
    row_spans: Tensor | None
    column_spans: Tensor | None
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
        own = column_ids is row_ids
        row_ids = row_ids.contiguous()
        column_ids = row_ids if own else column_ids.contiguous()
        row_spans = column_spans = None
        if len(row_ids) * width >= _WORTH_SPANNING:
            row_spans = _spans(row_ids)
            column_spans = row_spans if own else _spans(column_ids)
        return cls(row_ids, column_ids, row_spans, column_spans, temperature, weight, masked)

    def swapped(self) -> Question:
        """Return the question of columns and rows; strides stay those of the tensors' rows."""
        return self._replace(
            row_ids=self.column_ids,
            column_ids=self.row_ids,
            row_spans=self.column_spans,
            column_spans=self.row_spans,
        )

    def flat(self, kind: str) -> bool:
        """Return whether exponentials of logits are taken as they are."""
        return kind == HALF and self.weight is None and self.temperature * STEEPEST >= 1


def sums(
    rows: Operand, columns: Operand, question: Question, means: bool
) -> tuple[Tensor, Tensor, Tensor | None]:
    """Return ℓ, that of the programs' logits, and ∂ℓ/∂rows by the columns where it is wanted.

    What is returned is float32.
    """
    count, width = rows.rows.shape
    shape = Shape.of("sums", rows.rows, len(columns.rows), means, rows.kind)
    device = rows.rows.device
    single: dict[str, Any] = {"dtype": torch.float32, "device": device}
    highest, added = torch.empty(2, shape.parts, count, **single)
    parted = torch.empty(shape.parts, count, width, **single) if means else added
    value, total = torch.empty(2, count, **single)
    mean = torch.empty(count, width, **single) if means else None
    # An argument that a program does not read must be a tensor all the same.
    weight, weight_row = question.weight or (added, 0)
    mask, mask_row = question.mask or (added, 0)
    launch(
        sums_of_part,
        shape.grid,
        rows.rows,
        rows.low,
        columns.rows,
        columns.low,
        question.row_ids,
        question.column_ids,
        question.row_ids if question.row_spans is None else question.row_spans,
        question.row_ids if question.column_spans is None else question.column_spans,
        weight,
        mask,
        highest,
        added,
        parted,
        count,
        len(columns.rows),
        width,
        shape.chunk,
        *_scale(question, rows),
        weight_row,
        mask_row,
        BM=shape.tile.rows,
        BN=shape.tile.columns,
        BD=shape.width,
        BLOCKS=shape.blocks,
        SPLIT=rows.kind == SPLIT,
        SPANS=question.row_spans is not None,
        FLAT=not means and question.flat(rows.kind),
        WEIGHTED=question.weight is not None,
        MASKED=question.mask is not None,
        MEANS=means,
        PRECISION=_precision(device) if rows.kind == SINGLE else "ieee",
        LIFT=1 if rows.kind == SINGLE else _LIFT,
        num_warps=shape.tile.warps,
        num_stages=shape.tile.stages,
    )
    width_of_block = blocks_of(width)[0] if means else 1
    together = min(power_of_2(shape.parts), 32)
    held = _MERGED.get(device.type, _MERGED_ELSEWHERE)
    at_once = max(min(held // (together * width_of_block), 64), 1)
    launch(
        merged_parts,
        (cdiv(count, at_once), shape.grid[2]),
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
        float(columns.raised),
        BM=at_once,
        BP=together,
        BD=width_of_block,
        MEANS=means,
        num_warps=4,
    )
    return value, total, mean


def gradient(
    rows: Operand, columns: Operand, question: Question, total: Tensor, grad: Tensor, both: bool
) -> Tensor:
    """Return the gradient of the rows, float32; ``total`` and ``grad`` are the columns'."""
    count, width = rows.rows.shape
    if not count:
        return torch.empty_like(rows.rows, dtype=torch.float32)
    columns_number = len(columns.rows)
    shape = Shape.of("gradient", rows.rows, columns_number, True, rows.kind)
    out = rows.rows.new_empty(shape.parts, count, width, dtype=torch.float32)
    lifted = rows.kind != SINGLE
    largest = torch.linalg.vector_norm(grad, torch.inf) if lifted else total
    weight, weight_column = question.weight or (total, 0)
    mask, mask_column = question.mask or (total, 0)
    launch(
        gradient_of_part,
        shape.grid,
        rows.rows,
        rows.low,
        columns.rows,
        columns.low,
        question.row_ids,
        question.column_ids,
        question.row_ids if question.row_spans is None else question.row_spans,
        question.row_ids if question.column_spans is None else question.column_spans,
        weight,
        mask,
        total,
        grad.contiguous(),
        largest,
        out,
        count,
        columns_number,
        width,
        shape.chunk,
        *_scale(question, rows),
        1.0 / (question.temperature * columns.raised),
        float(max(min(columns_number, _LIFT), 1)),
        weight_column,
        mask_column,
        BM=shape.tile.rows,
        BN=shape.tile.columns,
        BD=shape.width,
        BLOCKS=shape.blocks,
        SPLIT=rows.kind == SPLIT,
        SPANS=question.row_spans is not None,
        FLAT=both and question.flat(rows.kind),
        WEIGHTED=question.weight is not None,
        MASKED=question.mask is not None,
        BOTH=both,
        PRECISION="ieee" if lifted else _precision(rows.rows.device),
        num_warps=shape.tile.warps,
        num_stages=shape.tile.stages,
    )
    return out[0] if shape.parts == 1 else out.sum(0)


def _scale(question: Question, rows: Operand) -> tuple[float, float]:
    """Return c by the product of equal rows, and that product."""
    unit = float(rows.raised**2)
    return LOG2E / (question.temperature * unit), unit


def _spans(ids: Tensor) -> Tensor:
    """Return the least and the greatest of each 64 ids, ``[2, ⌈n/64⌉]``."""
    spans = ids.new_empty(2, cdiv(len(ids), 64))
    launch(spans_of_ids, (spans.shape[1],), ids, spans, len(ids), num_warps=1)
    return spans


def _has_quick_halves(device: torch.device) -> bool:
    """Return whether products of float16 are quick: on NVIDIA's from Ampere on."""
    return device.type == "cpu" or _precision(device) == "tf32x3"


def _precision(device: torch.device) -> str:
    """Return how float32 is multiplied: TF32 needs NVIDIA's Ampere or later."""
    if device.type != "cuda" or torch.version.hip is not None:
        return "ieee"
    return "tf32x3" if torch.cuda.get_device_capability(device)[0] >= 8 else "ieee"
