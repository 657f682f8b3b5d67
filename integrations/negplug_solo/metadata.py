"""What solo-learn hands to ``training_step`` beside the images: indexes and targets.

Its batches are ``[indexes, crops, targets]``. With DALI the indexes are dummies, ``arange(B)``
shifted by the rank, unless the configuration encodes them into the labels; state per sample would
silently be keyed by the position in the batch, so they are not passed on.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from negplug.contract.adapter import Metadata
from negplug.contract.inputs import indexes_per_row
from negplug.contract.labels import Targets, as_labels
from negplug.hosts.trainer.private import attached_trainer, training_loader
from negplug.kernels.distributed import rank
from negplug_solo.private import is_supervised

_NOT_SOLOS = "solo-learn's batch is not [indexes, crops, targets]"
_INTEGERS = tuple(
    getattr(torch, f"{sign}int{bits}") for sign in ("", "u") for bits in (8, 16, 32, 64)
)


def read_metadata(
    model: nn.Module, batch: Any, provided: Metadata, targets: Targets | None = None
) -> Metadata:
    """Return what is known of the samples of a batch of ``model``'s Trainer.

    Args:
        model: The solo-learn method.
        batch: What its ``training_step`` was given.
        provided: What the user said of the step, which goes before what the batch says.
        targets: Knows what the targets of earlier batches were.

    Raises:
        ValueError, TypeError: If indexes or what the user said cannot be used.
    """
    indexes, why = _indexes(model, batch)
    labels, unlabeled = _labels(batch, Targets() if targets is None else targets)
    if provided.indexes is not None:
        indexes, why = _checked(provided.indexes), ""
    if provided.labels is not None:
        labels, unlabeled = as_labels("labels", provided.labels), ""
    return Metadata(
        indexes,
        labels,
        why,
        is_supervised(model),
        unlabeled=unlabeled,
        handed_over=provided.handed_over,
        labels_handed_over=provided.labels_handed_over,
    )


def indexes_in(batch: Any) -> Tensor | None:
    """Return the indexes ``[B]`` of a batch of solo-learn, None if it has none."""
    indexes = batch[0] if _is_solos(batch) else None
    if not isinstance(indexes, Tensor) or indexes.dtype not in _INTEGERS:
        return None
    indexes = indexes[:, 0] if indexes.ndim == 2 and indexes.shape[1] == 1 else indexes
    return indexes if indexes.ndim == 1 else None


def _indexes(model: nn.Module, batch: Any) -> tuple[Tensor | None, str]:
    """Return the indexes, and why there are none."""
    if not _is_solos(batch):
        return None, _NOT_SOLOS
    given = batch[0]
    if not isinstance(given, Tensor) or given.dtype not in _INTEGERS:
        return None, "solo-learn's batch holds no integer indexes"
    indexes = indexes_in(batch)
    if indexes is None:
        return None, f"the indexes of solo-learn's batch have the shape {tuple(given.shape)}"
    if _may_be_dummies(model) and _is_position(indexes):
        why = (
            "the training loader is no torch DataLoader and gives positions in the batch in place "
            "of indexes, as DALI does; set encode_indexes_into_labels (of main's dali section, or "
            "1.0.2's flag)"
        )
        return None, why
    return _checked(indexes), ""


def _checked(indexes: Tensor) -> Tensor:
    """Return indexes ``[B]`` int64 that can be ids: those below 0 would name no sample."""
    checked = indexes_per_row(indexes, len(indexes), 1, indexes.device)
    assert checked is not None
    return checked


def _labels(batch: Any, targets: Targets) -> tuple[Tensor | None, str]:
    """Return the labels, and why there are none."""
    if not _is_solos(batch):
        return None, _NOT_SOLOS
    try:
        return targets.read("the third entry of the batch", batch[2]), ""
    except ValueError as error:
        return None, str(error)


def _is_solos(batch: Any) -> bool:
    return isinstance(batch, (list, tuple)) and len(batch) == 3


def _may_be_dummies(model: nn.Module) -> bool:
    """Whether the training loader is something else than torch's, which gives real indexes."""
    trainer = attached_trainer(model)
    loader = None if trainer is None else training_loader(trainer)
    return loader is not None and not isinstance(loader, DataLoader)


def _is_position(indexes: Tensor) -> bool:
    first = rank() * len(indexes)
    return torch.equal(indexes, torch.arange(first, first + len(indexes), device=indexes.device))
