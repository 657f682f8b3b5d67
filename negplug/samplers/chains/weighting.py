"""Draws of images become weighted rows: of the batch, and of samples outside it."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from negplug.contract.batch import ContrastiveBatch
from negplug.contract.ids import UNKNOWN, comparable_ids
from negplug.contract.negatives import Negatives
from negplug.samplers.chains.absent import Outside
from negplug.samplers.chains.grouping import log_shares_
from negplug.samplers.chains.step import Visit


def drawn_rows(visit: Visit, shares: Tensor) -> Negatives:
    """Return draws of images, spread over their views.

    Args:
        visit: The pool, and logits of its rows and images, which are overwritten.
        shares: ``[N, C]``, of the draws of each anchor; overwritten.
    """
    pool = visit.pool
    each = log_shares_(visit.scores.T, pool.log_number, shares.T)
    for column, view in pool.views(visit.logits):
        view.add_(each if column is None else each[column])
    return replace(pool.pool, log_weight=visit.logits.T, estimator="posterior")


def drawn_outside(batch: ContrastiveBatch, outside: Outside, share: Tensor) -> Negatives:
    """Return draws of states outside the batch, spread over their views.

    Args:
        batch: The batch.
        outside: The states; their logits are overwritten.
        share: ``[N]``, of the draws of each anchor.
    """
    views, number = outside.known.shape
    first = number * torch.arange(views, device=share.device)
    columns = first.new_zeros(len(batch.anchors), views)
    columns.index_copy_(0, outside.anchors, outside.place[:, None] + first)
    each = log_shares_(outside.scores, outside.log_number, share[outside.anchors])
    log_weight = share.new_full(columns.shape, -torch.inf)
    log_weight.index_copy_(0, outside.anchors, outside.logits.add_(each).T)
    with torch.enable_grad():  # what was embedded anew carries gradient
        pool = outside.rows.flatten(0, 1)
    return Negatives(
        pool=pool,
        pool_ids=first.new_full((len(pool),), UNKNOWN),
        columns=columns,
        log_weight=log_weight,
        pool_indexes=outside.images.expand(views, -1).flatten(),
        estimator="posterior",
    )


@torch.no_grad()
def softmax_over(batch: ContrastiveBatch, pool: Negatives) -> Negatives:
    """Return every negative of a pool, with its weight in the softmax over them."""
    logits = (batch.anchors / batch.temperature) @ pool.pool.T
    allowed = comparable_ids(batch.anchor_ids)[:, None] != pool.pool_ids
    weight = torch.where(allowed, logits, torch.finfo(logits.dtype).min).log_softmax(1)
    weight = weight.masked_fill(~allowed, -torch.inf)
    # What the source needs for its own update is none of ours.
    return replace(pool, log_weight=weight, estimator="posterior", aux={})


def effective_number(negatives: Negatives) -> Tensor:
    """Return 1/Σ_r w_r² over the draws of each anchor, ``[N]``; infinite without draws."""
    weights = [part.log_weight for part in negatives.parts() if part.log_weight is not None]
    return (-(2 * torch.cat(weights, 1)).logsumexp(1)).exp()
