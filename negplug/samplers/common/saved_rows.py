"""Checks of embeddings that were saved and are loaded, or are of another width than the batch's."""

from __future__ import annotations

import torch
from torch import Tensor

_LONGEST = 1.01  # of rows of unit length, rounded to half precision


def check_unit_rows(whose: str, rows: Tensor) -> None:
    """Raise ``ValueError`` if a saved row ``[…, d]`` is longer than 1; rows not written are 0."""
    if rows.numel() and float(torch.linalg.vector_norm(rows, dim=-1).max()) > _LONGEST:
        raise ValueError(
            f"{whose}: the saved rows are embeddings of unit length, but one is longer; the file "
            f"is damaged"
        )


def check_width(whose: str, rows: Tensor, batch: Tensor) -> None:
    """Raise ``ValueError`` if remembered rows have another width than those of a batch."""
    if rows.shape[:-1].numel() and rows.shape[-1] != batch.shape[-1]:
        raise ValueError(
            f"{whose}: holds embeddings of width {rows.shape[-1]}, this batch has width "
            f"{batch.shape[-1]}; the width cannot change during training"
        )
