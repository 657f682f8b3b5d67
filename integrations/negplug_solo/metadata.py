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

from negplug.adapter import Metadata
from negplug.distributed import rank


def read_metadata(model: nn.Module, batch: Any) -> Metadata:
    """Return what is known of the samples of a batch of ``model``'s Trainer."""
    if not isinstance(batch, (list, tuple)) or len(batch) != 3:
        return Metadata(unindexed="solo-learn's batch is not [indexes, crops, targets]")
    indexes, labels = _integers(batch[0]), _integers(batch[2])
    if indexes is None:
        return Metadata(labels=labels, unindexed="solo-learn's batch holds no integer indexes")
    if _may_be_dummies(model) and _is_position(indexes):
        return Metadata(
            labels=labels,
            unindexed="the training loader is no torch DataLoader and gives positions in the "
            "batch in place of indexes, as DALI does; set encode_indexes_into_labels (of main's "
            "dali section, or 1.0.2's flag)",
        )
    return Metadata(indexes=indexes, labels=labels)


def _integers(values: Any) -> Tensor | None:
    whole = isinstance(values, Tensor) and values.ndim == 1 and values.dtype == torch.int64
    return values if whole else None


def _may_be_dummies(model: nn.Module) -> bool:
    """Whether the training loader is something else than torch's, which gives real indexes."""
    trainer: Any = getattr(model, "_trainer", None)
    loader = getattr(trainer, "train_dataloader", None)
    # Before 2.0 Lightning wraps the loader in a CombinedLoader.
    loader = getattr(loader, "loaders", loader)
    return loader is not None and not isinstance(loader, DataLoader)


def _is_position(indexes: Tensor) -> bool:
    first = rank() * len(indexes)
    return torch.equal(indexes, torch.arange(first, first + len(indexes), device=indexes.device))
