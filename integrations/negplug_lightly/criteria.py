"""How each criterion of Lightly forms its batch, its loss and its temperature.

A *batch* function receives the criterion, what is known of the samples, and the criterion's
arguments; a *form* function the criterion alone; a *temperature* function the criterion and its
batch. What they read (gathering, bank, weights) is read at every call, so that a recipe may change
it in between.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from negplug.contract.adapter import Metadata
from negplug.contract.batch import ContrastiveBatch
from negplug.contract.objective import Objective
from negplug.objectives.decoupled import Decoupled
from negplug.objectives.infonce import InfoNCE
from negplug_lightly.model_aware import ModelAware
from negplug_lightly.per_view import DecoupledPerView
from negplug_lightly.private import bank_size, has_denominator_per_view, mises_fisher_sigma


def views_or_pairs(
    criterion: Any, metadata: Metadata, out0: Tensor, out1: Tensor
) -> ContrastiveBatch:
    """``NTXentLoss``: both views anchors and keys; with a memory bank out0 against out1 alone.

    The bank itself is left out: which past keys serve, if any, is the sampler's choice.

    Args:
        criterion: The ``lightly.loss.NTXentLoss``.
        metadata: What is known of the samples.
        out0: ``[B, d]`` projections of the first view; with a bank the queries.
        out1: ``[B, d]`` projections of the second view; with a bank the keys.
    """
    if not bank_size(criterion):
        return both_views(criterion, metadata, out0, out1)
    return _gathered(criterion, ContrastiveBatch.from_pairs(out0, out1, **metadata.of(len(out0))))


def truncated(criterion: Any, metadata: Metadata, out0: Tensor, out1: Tensor) -> ContrastiveBatch:
    """``DirectCLRLoss``: as ``NTXentLoss``, on the first ``loss_dim`` values of each encoding.

    Args:
        criterion: The ``lightly.loss.DirectCLRLoss``.
        metadata: What is known of the samples.
        out0: ``[B, …]`` encodings of the first view, flattened here.
        out1: ``[B, …]`` encodings of the second view.
    """
    first, second = (out.flatten(start_dim=1)[:, : criterion.loss_dim] for out in (out0, out1))
    return views_or_pairs(criterion, metadata, first, second)


def both_views(criterion: Any, metadata: Metadata, out0: Tensor, out1: Tensor) -> ContrastiveBatch:
    """``DCLLoss``, ``DCLWLoss``, ``MACLLoss``: both views anchors and keys.

    Args:
        criterion: The criterion.
        metadata: What is known of the samples.
        out0: ``[B, d]`` projections of the first view.
        out1: ``[B, d]`` projections of the second view.
    """
    return _gathered(criterion, ContrastiveBatch.from_views((out0, out1), **metadata.of(len(out0))))


def one_direction(
    criterion: Any, metadata: Metadata, out0: Tensor, out1: Tensor
) -> ContrastiveBatch:
    """InfoNCE of a class that is declared to be one: row b of out0 against the rows of out1.

    Args:
        criterion: The criterion.
        metadata: What is known of the samples.
        out0: ``[B, d]`` anchors.
        out1: ``[B, d]`` keys; row b is the positive of anchor b.
    """
    return _gathered(criterion, ContrastiveBatch.from_pairs(out0, out1, **metadata.of(len(out0))))


def softmax(criterion: Any) -> Objective:
    """``NTXentLoss``, ``DirectCLRLoss``: cross-entropy over the positive and the negatives."""
    return InfoNCE()


def decoupled(criterion: Any) -> Objective:
    """``DCLLoss``, ``DCLWLoss``: the positive outside the denominator, with the host's weights.

    Raises:
        ValueError: If ``weight_fn`` is not the von Mises–Fisher function of Lightly: an unknown
            function of the two views has no counterpart in an objective.
    """
    if not hasattr(criterion, "weight_fn"):
        return Decoupled()  # a class that is declared to be one
    weights = criterion.weight_fn
    kind = DecoupledPerView if has_denominator_per_view() else Decoupled
    if weights is None:
        return kind()
    sigma = mises_fisher_sigma(weights)
    if sigma is None:
        raise ValueError(
            f"{type(criterion).__name__}: weight_fn={weights!r} is a function of your own, which "
            f"negplug cannot carry over; set weight_fn=None, or use DCLWLoss for Lightly's weights"
        )
    return kind(sigma=sigma)


def model_aware(criterion: Any) -> Objective:
    """``MACLLoss``: the softmax loss with its larger weight for anchors that are learnt."""
    return ModelAware(criterion.eps)


def constant(criterion: Any, batch: ContrastiveBatch) -> Any:
    """Return the criterion's temperature as it is, or 1 of a declared class that has none."""
    return getattr(criterion, "temperature", 1.0)


@torch.no_grad()
def aligned(criterion: Any, batch: ContrastiveBatch) -> Any:
    """``MACLLoss``: t = τ (1 + α (A − A₀)), with A the mean similarity of this rank's positives."""
    views = batch.keys.embeddings[batch.positives[:, 0]]
    alignment = (batch.anchors.embeddings * views).sum(1).mean()
    return criterion.temperature * (1 + criterion.alpha * (alignment - criterion.A_0))


def _gathered(criterion: Any, batch: ContrastiveBatch) -> ContrastiveBatch:
    # MACLLoss never gathers.
    return batch.gathered() if getattr(criterion, "gather_distributed", False) else batch
