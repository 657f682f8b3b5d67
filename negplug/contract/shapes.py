"""Whether the parts of ``Negatives`` fit together: shapes and types, no values.

Values would cost a device synchronisation in every training step; the conformance kit looks at
them.
"""

from __future__ import annotations

import torch
from torch import Tensor

from negplug.contract.negatives import Negatives


def check_negatives(negatives: Negatives, anchors: Tensor) -> None:
    """Raise ``ValueError`` unless the negatives fit together and to the anchors ``[N, d]``."""
    for part in negatives.parts():
        _check_part(part, anchors)
        if part.estimator != negatives.estimator:
            raise ValueError("Negatives: all parts must have the same estimator")


def _check_part(part: Negatives, anchors: Tensor) -> None:
    rows, width = len(anchors), len(part.pool)
    if part.pool.ndim != 2 or part.pool_ids.shape != part.pool.shape[:1]:
        raise ValueError(
            f"Negatives: pool must be [K, d] and pool_ids [K], got {tuple(part.pool.shape)} and "
            f"{tuple(part.pool_ids.shape)}"
        )
    if part.pool.shape[1] != anchors.shape[1] or part.pool.dtype != anchors.dtype:
        raise ValueError(
            f"Negatives: pool has rows of {part.pool.shape[1]} {part.pool.dtype}, the anchors of "
            f"{anchors.shape[1]} {anchors.dtype}"
        )
    for name in ("pool_indexes", "pool_labels"):
        value = getattr(part, name)
        if value is not None and value.shape != part.pool_ids.shape:
            raise ValueError(f"Negatives: {name} must be [{width}], got {tuple(value.shape)}")
    if part.columns is not None:
        if part.columns.dtype != torch.int64 or part.columns.ndim != 2:
            raise ValueError(
                f"Negatives: columns must be int64 [N, M], got {part.columns.dtype} "
                f"{tuple(part.columns.shape)}"
            )
        width = part.columns.shape[1]
        if len(part.columns) != rows or width == 0:
            raise ValueError(
                f"Negatives: columns must be [N, M] with N = {rows} anchors and M ≥ 1, got "
                f"{tuple(part.columns.shape)}"
            )
    if part.mask is not None and (
        part.mask.shape != (rows, width) or part.mask.dtype != torch.bool
    ):
        raise ValueError(
            f"Negatives: mask must be bool [{rows}, {width}], got {part.mask.dtype} "
            f"{tuple(part.mask.shape)}"
        )
    mixed = part.partners is not None, part.coefficients is not None
    if any(mixed):
        if part.columns is None or not all(mixed):
            raise ValueError("Negatives: columns, partners and coefficients go together")
        assert part.partners is not None
        assert part.coefficients is not None
        if part.partners.shape != part.columns.shape or part.coefficients.requires_grad:
            raise ValueError("Negatives: partners must be [N, M], coefficients detached")
        if part.coefficients.shape != (*part.columns.shape, 2):
            raise ValueError(
                f"Negatives: coefficients must be [{rows}, {width}, 2], got "
                f"{tuple(part.coefficients.shape)}"
            )
    if part.log_weight is not None:
        if part.log_weight.requires_grad:
            raise ValueError("Negatives: log_weight must be detached")
        if part.log_weight.ndim != 2:
            raise ValueError("Negatives: log_weight must have two dimensions")
        if part.log_weight.shape[0] not in (1, rows) or part.log_weight.shape[1] not in (1, width):
            raise ValueError(
                f"Negatives: log_weight must broadcast to [{rows}, {width}], got "
                f"{tuple(part.log_weight.shape)}"
            )
    if part.estimator not in ("partition", "posterior"):
        raise ValueError(f"Negatives: unknown estimator {part.estimator!r}")
