"""Whether the parts of ``Negatives`` fit together: shapes and types, no values.

Values would cost a wait for the device in every training step; the conformance kit looks at them.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from negplug.contract.negatives import Columns, EveryRank, Mixtures, Negatives, Whole
from negplug.contract.rows import Rows


def check_negatives(pools: Sequence[Negatives], anchors: Rows) -> None:
    """Raise ``ValueError`` unless the negatives fit together and to the anchors, N rows."""
    if not pools:
        raise ValueError("Negatives: there must be at least one pool; an empty one has no rows")
    for part in pools:
        _check_rows(part.rows, anchors)
        _check_choice(part, len(anchors))
        _check_weight(part, len(anchors))
        if part.attracted is not None:
            _check_attracted(part.attracted, len(anchors))
        if part.estimator not in ("partition", "posterior"):
            raise ValueError(f"Negatives: unknown estimator {part.estimator!r}")
        if part.estimator != pools[0].estimator:
            raise ValueError("Negatives: all pools must have the same estimator")


def _check_rows(rows: Rows, anchors: Rows) -> None:
    own, theirs = rows.embeddings, anchors.embeddings
    if own.ndim != 2 or rows.ids.shape != own.shape[:1]:
        raise ValueError(
            f"Rows: embeddings must be [K, d] and ids [K], got {tuple(own.shape)} and "
            f"{tuple(rows.ids.shape)}"
        )
    if own.shape[1] != theirs.shape[1] or own.dtype != theirs.dtype:
        raise ValueError(
            f"Negatives: the pool has rows of {own.shape[1]} {own.dtype}, the anchors of "
            f"{theirs.shape[1]} {theirs.dtype}"
        )
    for name in ("indexes", "labels", "views"):
        value = getattr(rows, name)
        if value is not None and value.shape != rows.ids.shape:
            raise ValueError(f"Rows: {name} must be [{len(rows)}], got {tuple(value.shape)}")


def _check_choice(part: Negatives, anchors: int) -> None:
    choice = part.choice
    if isinstance(choice, Columns):
        _check_columns("Columns", "columns", choice.columns, anchors)
    elif isinstance(choice, Mixtures):
        _check_columns("Mixtures", "first", choice.first, anchors)
        _check_columns("Mixtures", "second", choice.second, anchors)
        if choice.second.shape != choice.first.shape or choice.coefficients.requires_grad:
            raise ValueError("Mixtures: first and second must be [N, M], coefficients detached")
        if choice.coefficients.shape != (*choice.first.shape, 2):
            raise ValueError(
                f"Mixtures: coefficients must be [{anchors}, {part.width}, 2], got "
                f"{tuple(choice.coefficients.shape)}"
            )
    elif isinstance(choice, EveryRank):
        return
    elif not isinstance(choice, Whole):
        kind = type(choice).__name__
        raise TypeError(
            f"Negatives: choice must be Whole, Columns, Mixtures or EveryRank, got {kind}"
        )
    mask = choice.mask
    if mask is not None and (mask.shape != (anchors, part.width) or mask.dtype != torch.bool):
        raise ValueError(
            f"{type(choice).__name__}: mask must be bool [{anchors}, {part.width}], got "
            f"{mask.dtype} {tuple(mask.shape)}"
        )


def _check_columns(kind: str, name: str, columns: Tensor, anchors: int) -> None:
    if columns.dtype != torch.int64 or columns.ndim != 2:
        raise ValueError(
            f"{kind}: {name} must be int64 [N, M], got {columns.dtype} {tuple(columns.shape)}"
        )
    if len(columns) != anchors or columns.shape[1] == 0:
        raise ValueError(
            f"{kind}: {name} must be [N, M] with N = {anchors} anchors and M ≥ 1, got "
            f"{tuple(columns.shape)}"
        )


def _check_weight(part: Negatives, anchors: int) -> None:
    weight = part.log_weight
    if weight is None:
        return
    if weight.requires_grad:
        raise ValueError("Negatives: log_weight must be detached")
    if weight.ndim != 2:
        raise ValueError("Negatives: log_weight must have two dimensions")
    if weight.shape[0] not in (1, anchors) or weight.shape[1] not in (1, part.width):
        raise ValueError(
            f"Negatives: log_weight must broadcast to [{anchors}, {part.width}], got "
            f"{tuple(weight.shape)}"
        )


def _check_attracted(columns: Tensor, anchors: int) -> None:
    if columns.dtype != torch.int64 or columns.ndim != 2 or len(columns) != anchors:
        raise ValueError(
            f"Negatives: attracted must be int64 [N, F] with N = {anchors} anchors, got "
            f"{columns.dtype} {tuple(columns.shape)}"
        )
