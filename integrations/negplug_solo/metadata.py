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
from negplug.hosts.trainer.private import attached_trainer, training_loader
from negplug.kernels.distributed import rank
from negplug_solo.private import is_supervised


def read_metadata(model: nn.Module, batch: Any, provided: Metadata) -> Metadata:
    """Return what is known of the samples of a batch of ``model``'s Trainer.

    Args:
        model: The solo-learn method.
        batch: What its ``training_step`` was given.
        provided: What the user said of the step, which goes before what the batch says.
    """
    indexes, labels, why = _read(model, batch)
    indexes = indexes if provided.indexes is None else provided.indexes
    labels = labels if provided.labels is None else provided.labels
    why = why if indexes is None else ""
    return Metadata(indexes, labels, why, is_supervised(model))


def _read(model: nn.Module, batch: Any) -> tuple[Tensor | None, Tensor | None, str]:
    """Return indexes, labels, and why there are no indexes."""
    if not isinstance(batch, (list, tuple)) or len(batch) != 3:
        return None, None, "solo-learn's batch is not [indexes, crops, targets]"
    indexes, labels = _integers(batch[0]), _integers(batch[2])
    if indexes is None:
        return None, labels, "solo-learn's batch holds no integer indexes"
    if _may_be_dummies(model) and _is_position(indexes):
        why = (
            "the training loader is no torch DataLoader and gives positions in the batch in place "
            "of indexes, as DALI does; set encode_indexes_into_labels (of main's dali section, or "
            "1.0.2's flag)"
        )
        return None, labels, why
    return indexes, labels, ""


def _integers(values: Any) -> Tensor | None:
    whole = isinstance(values, Tensor) and values.ndim == 1 and values.dtype == torch.int64
    return values if whole else None


def _may_be_dummies(model: nn.Module) -> bool:
    """Whether the training loader is something else than torch's, which gives real indexes."""
    trainer = attached_trainer(model)
    loader = None if trainer is None else training_loader(trainer)
    return loader is not None and not isinstance(loader, DataLoader)


def _is_position(indexes: Tensor) -> bool:
    first = rank() * len(indexes)
    return torch.equal(indexes, torch.arange(first, first + len(indexes), device=indexes.device))
