"""Launches of the Triton programs of a pool's log-sum-exp: how they are cut, and with what.

Import this module only where Triton is installed.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from negplug.kernels.launching import launch
from negplug.kernels.pool.cuts import SINGLE, SPLIT, Shape, blocks_of
from negplug.kernels.pool.gradients import gradient_of_part
from negplug.kernels.pool.programs import merged_parts, sums_of_part
from negplug.kernels.pool.question import Operand, Question
from negplug.kernels.sizes import cdiv, power_of_2

_LOG2E = math.log2(math.e)

# What weights of float16 are at most: its largest number is four times that.
_LIFT = 1 << 14

# Numbers that a program holds which merges.
_MERGED = {"cpu": 2**18}
_MERGED_ELSEWHERE = 8192


def sums(
    rows: Operand, columns: Operand, question: Question, means: bool
) -> tuple[Tensor, Tensor, Tensor | None]:
    """Return ℓ, that of the programs' logits, and ∂ℓ/∂rows by the columns where it is wanted.

    What is returned is float32.
    """
    count, width = rows.rows.shape
    shape = Shape.of(rows.rows, len(columns.rows), means, rows.kind, question.beside)
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
        *_tensors(rows, columns, question),
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
        **_constants(shape, rows, question),
        FLAT=not means and question.flat(rows.kind),
        MEANS=means,
        LIFT=1 if rows.kind == SINGLE else _LIFT,
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
    shape = Shape.of(rows.rows, columns_number, True, rows.kind, question.beside)
    out = rows.rows.new_empty(shape.parts, count, width, dtype=torch.float32)
    lifted = rows.kind != SINGLE
    largest = torch.linalg.vector_norm(grad, torch.inf) if lifted else total
    weight, weight_column = question.weight or (total, 0)
    mask, mask_column = question.mask or (total, 0)
    launch(
        gradient_of_part,
        shape.grid,
        *_tensors(rows, columns, question),
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
        **_constants(shape, rows, question),
        FLAT=both and question.flat(rows.kind),
        BOTH=both,
    )
    return out[0] if shape.parts == 1 else out.sum(0)


def _tensors(rows: Operand, columns: Operand, question: Question) -> tuple[Tensor, ...]:
    """Return a program's first arguments; without spans, which it does not read then, the ids."""
    ids = question.row_ids, question.column_ids
    spans = (question.row_spans, question.column_spans)
    given = (own if span is None else span for span, own in zip(spans, ids, strict=True))
    return *rows[:2], *columns[:2], *ids, *given


def _constants(shape: Shape, rows: Operand, question: Question) -> dict[str, Any]:
    """Return what both programs are compiled for."""
    return {
        "BM": shape.tile.rows,
        "BN": shape.tile.columns,
        "BD": shape.width,
        "BLOCKS": shape.blocks,
        "SPLIT": rows.kind == SPLIT,
        "SPANS": question.row_spans is not None,
        "WEIGHTED": question.weight is not None,
        "MASKED": question.mask is not None,
        "num_warps": shape.tile.warps,
        "num_stages": shape.tile.stages,
    }


def _scale(question: Question, rows: Operand) -> tuple[float, float]:
    """Return c by the product of equal rows, and that product."""
    unit = float(rows.raised**2)
    return _LOG2E / (question.temperature * unit), unit
