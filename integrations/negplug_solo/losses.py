"""How each loss function of solo-learn forms its batch: one function per signature.

A treatment receives ``contrast`` and the host function's arguments, and states the batch, the
objective and the temperature in the function's own terms.
"""

from __future__ import annotations

import torch
from torch import Tensor

from negplug.adapter import Contrast
from negplug.batch import ContrastiveBatch, check_embeddings
from negplug.distributed import gather_rows
from negplug.objectives.infonce import InfoNCE
from negplug.unit import unit_rows


def simclr_by_index(
    contrast: Contrast, z: Tensor, indexes: Tensor, temperature: float = 0.1
) -> Tensor:
    """``simclr_loss_func`` of main: gathered keys, positives summed inside the log.

    Args:
        contrast: The treated loss.
        z: ``[N, d]`` projections of all crops of this rank.
        indexes: ``[N]``, equal for the crops of one sample.
        temperature: The host's.
    """
    check_embeddings("z", z)
    anchors = unit_rows(z)
    keys, first = gather_rows(anchors)
    key_ids, _ = gather_rows(indexes)
    if keys is anchors:
        batch = ContrastiveBatch.from_ids(anchors, indexes)
    else:
        own = first + torch.arange(len(z), device=z.device)
        batch = ContrastiveBatch.from_ids(anchors, indexes, keys, key_ids, own)
    return contrast(batch, objective=InfoNCE("sum"), temperature=temperature)


def simclr_pairs(
    contrast: Contrast,
    z1: Tensor,
    z2: Tensor,
    temperature: float = 0.1,
    extra_pos_mask: Tensor | None = None,
) -> Tensor:
    """``simclr_loss_func`` of 1.0.2: two views of this rank, all positives in the denominator.

    Args:
        contrast: The treated loss.
        z1: ``[B, d]`` projections of the first view.
        z2: ``[B, d]`` projections of the second view.
        temperature: The host's.
        extra_pos_mask: ``[2B, 2B]``, further positives (supervised contrast).
    """
    batch = ContrastiveBatch.from_views((z1, z2))
    if extra_pos_mask is not None:
        same = batch.anchor_ids[:, None] == batch.anchor_ids
        batch = ContrastiveBatch.from_ids(batch.anchors, _classes(extra_pos_mask | same))
    return contrast(batch, objective=InfoNCE("mean"), temperature=temperature)


def simclr_masks(
    contrast: Contrast, z: Tensor, pos_mask: Tensor, neg_mask: Tensor, temperature: float = 0.1
) -> Tensor:
    """``manual_simclr_loss_func`` of 1.0.2 (multi-crop): each positive against the negatives.

    Args:
        contrast: The treated loss.
        z: ``[N, d]`` projections of all crops of this rank.
        pos_mask: ``[N, N]``, positives.
        neg_mask: ``[N, N]``, negatives: all that is neither positive nor the anchor.
        temperature: The host's.
    """
    check_embeddings("z", z)
    own = torch.eye(len(z), dtype=torch.bool, device=z.device)
    ids = _classes(pos_mask | own)
    if not torch.equal(neg_mask, ~(pos_mask | own)):
        raise ValueError("neg_mask must hold everything but the anchor and its positives")
    batch = ContrastiveBatch.from_ids(unit_rows(z), ids)
    return contrast(batch, objective=InfoNCE("each"), temperature=temperature)


def _classes(same: Tensor) -> Tensor:
    """Return ids ``[N]`` such that ``same`` ``[N, N]`` is equality of ids."""
    ids = same.int().argmax(1)
    if not torch.equal(ids[:, None] == ids, same):
        raise ValueError("the mask of positives must divide the batch into classes")
    return ids
