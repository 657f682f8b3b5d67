"""How each loss function of solo-learn forms its batch: one function per signature.

A treatment receives ``contrast`` and the host function's arguments, and states the batch, the
objective and the temperature in the function's own terms.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from negplug.contract.adapter import Contrast, Metadata
from negplug.contract.batch import ContrastiveBatch
from negplug.contract.inputs import check_embeddings
from negplug.contract.rows import Rows
from negplug.kernels.unit import unit_rows
from negplug.objectives.infonce import InfoNCE
from negplug_solo.relational import Relational


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
    lasting = contrast.metadata.indexes is not None
    return _by_ids(contrast, z, indexes, temperature, lasting)


def simclr_by_class(
    contrast: Contrast, z: Tensor, indexes: Tensor, temperature: float = 0.1
) -> Tensor:
    """``simclr_loss_func`` as SupCon calls it: ``indexes`` are classes, the same in every step.

    Args:
        contrast: The treated loss.
        z: ``[N, d]`` projections of all crops of this rank.
        indexes: ``[N]``, the class of each crop; those of one class are positives, on all ranks.
        temperature: The host's.

    Raises:
        ValueError: If a class is below 0. The host would take all unlabeled samples for one
            class.
    """
    if (indexes < 0).any():
        raise ValueError(
            f"SupCon needs the class of every sample, got the target {int(indexes.min())}, which "
            f"is no class; train it on labeled data"
        )
    return _by_ids(contrast, z, indexes, temperature, lasting=True)


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
        batch = _by_classes(
            contrast, batch.anchors.embeddings, extra_pos_mask | (row[:, None] == row)
        )
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


def mocov3(contrast: Contrast, query: Tensor, key: Tensor, temperature: float = 0.2) -> Tensor:
    """``mocov3_loss_func``: each query against the momentum keys of all ranks, times 2τ.

    The factor, of the paper's algorithm 1 (https://arxiv.org/abs/2104.02057), follows the
    temperature in use and stays with another objective.

    Args:
        contrast: The treated loss.
        query: ``[B, d]``, the anchors.
        key: ``[B, d]`` momentum keys; row b is the positive of query b.
        temperature: The host's.
    """
    pairs = contrast.metadata.of(len(query))
    batch = ContrastiveBatch.from_pairs(query, key.detach(), **pairs).gathered()
    tau = temperature if contrast.temperature is None else contrast.temperature
    return 2 * tau * contrast(batch, objective=InfoNCE(), temperature=temperature)


def nnclr_gathered(contrast: Contrast, nn: Tensor, p: Tensor, temperature: float = 0.1) -> Tensor:
    """``nnclr_loss_func`` of main: neighbours against the predictions of all ranks.

    Args:
        contrast: The treated loss.
        nn: ``[B, d]``, the anchors: nearest neighbours of the first view, from the host's queue.
        p: ``[B, d]`` predictions of the second view; row b is the positive of ``nn[b]``.
        temperature: The host's.
    """
    batch = ContrastiveBatch.from_pairs(nn, p, **contrast.metadata.of(len(nn)))
    return contrast(batch.gathered(), objective=InfoNCE(), temperature=temperature)


def nnclr(contrast: Contrast, nn: Tensor, p: Tensor, temperature: float = 0.1) -> Tensor:
    """``nnclr_loss_func`` of 1.0.2: as :func:`nnclr_gathered`, predictions of this rank."""
    batch = ContrastiveBatch.from_pairs(nn, p, **contrast.metadata.of(len(nn)))
    return contrast(batch, objective=InfoNCE(), temperature=temperature)


def ressl(
    contrast: Contrast,
    q: Tensor,
    k: Tensor,
    queue: Tensor,
    temperature_q: float = 0.1,
    temperature_k: float = 0.04,
) -> Tensor:
    """``ressl_loss_func``: each query's similarities to past keys against its key's.

    The host compares with its queue alone, so that is what ``in_batch()`` offers; ``queue()``
    keeps one of its own, of the same keys. A temperature that was asked for replaces the query's.

    Args:
        contrast: The treated loss.
        q: ``[B, d]``, the anchors.
        k: ``[B, d]`` momentum keys; row b is the teacher of query b.
        queue: The host's ``[K, d]``, rows of unit length.
        temperature_q: The host's, of the queries.
        temperature_k: The host's, of the keys.
    """
    batch = ContrastiveBatch.from_pairs(q, k.detach(), **contrast.metadata.of(len(q)))
    past = Rows.unknown(queue.detach().to(batch.anchors.embeddings))
    batch = replace(batch, host_queue=past)
    return contrast(batch, objective=Relational(temperature_k), temperature=temperature_q)


def _by_ids(
    contrast: Contrast, z: Tensor, ids: Tensor, temperature: float, lasting: bool
) -> Tensor:
    """Return the loss over the gathered crops, those of one id being positives."""
    check_embeddings("z", z)
    batch = ContrastiveBatch.from_ids(
        unit_rows(z),
        ids,
        **_of_crops(contrast.metadata, len(z)),
        lasting=lasting,
        gather=True,
    )
    return contrast(batch, objective=InfoNCE(), temperature=temperature)


def _by_classes(contrast: Contrast, anchors: Tensor, same: Tensor) -> ContrastiveBatch:
    """Build the batch in which rows are of one class where ``same`` ``[N, N]`` says so.

    The class is named by the sample, or by its label if the host is supervised, where these are
    known, so that it is recognised in later steps.

    Raises:
        ValueError: If ``same`` does not divide the batch into classes.
    """
    known = _of_crops(contrast.metadata, len(anchors))
    ids = same.int().argmax(1)
    if not torch.equal(ids[:, None] == ids, same):
        raise ValueError("the mask of positives must divide the batch into classes")
    name = known.get("labels" if contrast.metadata.supervised else "indexes")
    # They part ways only where a sample is in the batch twice, or has no label.
    if name is not None and torch.equal(name[:, None] == name, same):
        return ContrastiveBatch.from_ids(anchors, name, **known, lasting=True)
    return ContrastiveBatch.from_ids(anchors, ids, **known)


def _of_crops(metadata: Metadata, rows: int) -> dict[str, Any]:
    """Repeat what is known of the samples for every crop, crop after crop; and count the crops."""
    names = (metadata.indexes, metadata.labels)
    indexes, labels = (
        name if name is None or rows % len(name) else name.repeat(rows // len(name))
        for name in names
    )
    known = replace(metadata, indexes=indexes, labels=labels).of(rows)
    samples = next((len(name) for name in names if name is not None and not rows % len(name)), 0)
    return known | {"num_views": rows // samples if samples else None}
