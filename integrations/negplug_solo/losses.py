"""How each loss function of solo-learn forms its batch: one function per signature.

A treatment receives ``contrast`` and the host function's arguments, and states the batch, the
objective and the temperature in the function's own terms.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from negplug.adapter import Contrast, Metadata
from negplug.batch import ContrastiveBatch
from negplug.inputs import check_embeddings
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
    batch = ContrastiveBatch.from_ids(
        unit_rows(z),
        indexes,
        **_of_crops(contrast.metadata, len(z)),
        lasting=contrast.metadata.indexes is not None,
        gather=True,
    )
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
    batch = ContrastiveBatch.from_views((z1, z2), **contrast.metadata.of(len(z1)))
    if extra_pos_mask is not None:
        row = torch.arange(len(z1), device=z1.device).repeat(2)
        batch = _by_classes(contrast, batch.anchors, extra_pos_mask | (row[:, None] == row))
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
    if not torch.equal(neg_mask, ~(pos_mask | own)):
        raise ValueError("neg_mask must hold everything but the anchor and its positives")
    batch = _by_classes(contrast, unit_rows(z), pos_mask | own)
    return contrast(batch, objective=InfoNCE("each"), temperature=temperature)


def moco(
    contrast: Contrast, query: Tensor, key: Tensor, queue: Tensor, temperature: float = 0.1
) -> Tensor:
    """``mocov2plus_loss_func`` of main, ``moco_loss_func`` of 1.0.2: each query against its key.

    The host's queue is left out: which past keys serve, if any, is the sampler's choice. The host
    gathers the keys for its queue, so the batch's keys are those of all ranks.

    Args:
        contrast: The treated loss.
        query: ``[B, d]``, the anchors.
        key: ``[B, d]`` momentum keys; row b is the positive of query b.
        queue: The host's ``[d, K]``, unused.
        temperature: The host's.
    """
    batch = ContrastiveBatch.from_pairs(query, key, **contrast.metadata.of(len(query)))
    return contrast(batch.gathered(), objective=InfoNCE(), temperature=temperature)


def _by_classes(contrast: Contrast, anchors: Tensor, same: Tensor) -> ContrastiveBatch:
    """Build the batch in which rows are of one class where ``same`` ``[N, N]`` says so.

    The class is named by the sample or its label where these are known and divide the batch
    likewise, so that it is recognised in later steps.
    """
    known = _of_crops(contrast.metadata, len(anchors))
    ids = same.int().argmax(1)
    if not torch.equal(ids[:, None] == ids, same):
        raise ValueError("the mask of positives must divide the batch into classes")
    for name in (known.get("indexes"), known.get("labels")):
        if name is not None and torch.equal(name[:, None] == name, same):
            return ContrastiveBatch.from_ids(anchors, name, **known, lasting=True)
    return ContrastiveBatch.from_ids(anchors, ids, **known)


def _of_crops(metadata: Metadata, rows: int) -> dict[str, Any]:
    """Repeat what is known of the samples for every crop, crop after crop."""
    given = next((v for v in (metadata.indexes, metadata.labels) if v is not None), None)
    if given is None or rows % len(given):
        return metadata.of(rows)
    crops = rows // len(given)
    names = (metadata.indexes, metadata.labels)
    indexes, labels = (None if name is None else name.repeat(crops) for name in names)
    return {"indexes": indexes, "labels": labels, "unindexed": metadata.unindexed}
