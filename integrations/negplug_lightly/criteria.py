"""How each criterion of Lightly forms its batch: one function per criterion.

A treatment receives the criterion, ``contrast`` and the criterion's arguments, and states the
batch, the objective and the temperature in the criterion's own terms.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor

from negplug.adapter import Contrast
from negplug.batch import ContrastiveBatch
from negplug.objectives.infonce import InfoNCE


def ntxent(criterion: Any, contrast: Contrast, out0: Tensor, out1: Tensor) -> Tensor:
    """``NTXentLoss`` without bank: both views anchors and keys, gathered if it gathers.

    Args:
        criterion: The ``lightly.loss.NTXentLoss``.
        contrast: The treated loss.
        out0: ``[B, d]`` projections of the first view.
        out1: ``[B, d]`` projections of the second view.
    """
    batch = ContrastiveBatch.from_views((out0, out1), **contrast.metadata.of(len(out0)))
    if criterion.gather_distributed:
        batch = batch.gathered()
    return contrast(batch, objective=InfoNCE(), temperature=criterion.temperature)
