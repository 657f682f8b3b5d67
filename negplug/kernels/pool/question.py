"""What a pool's programs are asked: rows as they are multiplied, and what else logits depend on.

Import this module only where Triton is installed.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from negplug.kernels.launching import launch
from negplug.kernels.pool.cuts import HALF, SINGLE, SPLIT, has_quick_halves
from negplug.kernels.pool.prepared import halves_of_numbers, spans_of_ids
from negplug.kernels.sizes import cdiv

STEEPEST = 50.0
"""1/τ up to which exponentials of logits, and sums of them, are taken as they are."""

# What rows of two float16 are multiplied by.
_RAISED = 64

# So many pairs make up for a launch beforehand.
_WORTH_SPANNING = 1 << 22

# Numbers of a program that splits.
_SPLIT_AT_ONCE = 4096


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
    def of(cls, rows: Tensor, half: bool) -> Operand:
        """Return rows ``[n, d]`` of float32 as they are multiplied.

        Args:
            rows: Of unit length.
            half: Whether float16 is enough.
        """
        if half:
            rows = rows.to(torch.float16).contiguous()
            return cls(rows, rows, HALF)
        rows = rows.contiguous()
        if not has_quick_halves(rows.device):
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
        column_spans: The same of the columns.
        temperature: τ.
        weight: Log weights, and how far apart their rows are (0 where all rows share one).
        mask: Truth values, and how far apart their rows are, as of ``weight``.
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

    @property
    def beside(self) -> int:
        """Bytes that are read for each pair of a row and a column."""
        return 4 * (self.weight is not None) + (self.mask is not None)

    def flat(self, kind: str) -> bool:
        """Return whether exponentials of logits are taken as they are."""
        return kind == HALF and self.weight is None and self.temperature * STEEPEST >= 1


def _spans(ids: Tensor) -> Tensor:
    """Return the least and the greatest of each 64 ids, ``[2, ⌈n/64⌉]``."""
    spans = ids.new_empty(2, cdiv(len(ids), 64))
    launch(spans_of_ids, (spans.shape[1],), ids, spans, len(ids), num_warps=1)
    return spans
