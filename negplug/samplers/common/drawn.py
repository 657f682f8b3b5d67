"""Draws of images become weighted rows: of the batch, and of samples outside it."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from negplug.batch import ContrastiveBatch
from negplug.exclusion import UNKNOWN, comparable_ids
from negplug.negatives import Negatives
from negplug.samplers.common.images import Images, log_shares
from negplug.samplers.common.outside import Outside


def drawn_rows(
    pool: Negatives, images: Images, logits: Tensor, scores: Tensor, shares: Tensor
) -> Negatives:
    """Return draws of a pool's images, spread over their views.

    Args:
        pool: The whole pool.
        images: Its images.
        logits: ``[K + 1, N]``, of its rows; overwritten.
        scores: ``[N, C]``, of the images.
        shares: ``[N, C]``, of the draws of each anchor.
    """
    each = log_shares(scores.T, images.number(), shares.T)
    drawn = shares.T.bool()
    # A row that is no view of an image (its sample is in the pool twice) stays masked.
    mask = torch.zeros_like(logits, dtype=torch.bool)
    for rows in images.rows % len(logits):
        logits.index_add_(0, rows, each)
        mask.index_copy_(0, rows, drawn)
    return _posterior(pool, mask[:-1].T, logits[:-1].T)


def drawn_outside(batch: ContrastiveBatch, outside: Outside, share: Tensor) -> Negatives:
    """Return draws of states outside the batch, spread over their views.

    Args:
        batch: The batch.
        outside: The states.
        share: ``[n]``, of the draws of each of their anchors.
    """
    known = outside.known
    place = (known.reshape(-1).cumsum(0) - 1).view_as(known).clamp(min=0)
    columns = place.new_zeros(len(batch.anchors), len(known))
    columns[outside.anchors] = place[:, outside.place].T
    mask = torch.zeros_like(columns, dtype=torch.bool)
    mask[outside.anchors] = (known[:, outside.place] & (share > 0)).T
    log_weight = share.new_full(columns.shape, -torch.inf)
    each = log_shares(outside.scores, outside.number, share)
    log_weight[outside.anchors] = (outside.logits + each).T
    with torch.enable_grad():  # what was embedded anew carries gradient
        pool = outside.rows[known]
    return Negatives(
        pool=pool,
        pool_ids=place.new_full((len(pool),), UNKNOWN),
        columns=columns,
        mask=mask,
        log_weight=log_weight,
        pool_indexes=outside.images.expand_as(known)[known],
        estimator="posterior",
    )


@torch.no_grad()
def softmax_over(batch: ContrastiveBatch, pool: Negatives) -> Negatives:
    """Return every negative of a pool, with its weight in the softmax over them."""
    logits = (batch.anchors / batch.temperature) @ pool.pool.T
    allowed = comparable_ids(batch.anchor_ids)[:, None] != pool.pool_ids
    weight = torch.where(allowed, logits, torch.finfo(logits.dtype).min).log_softmax(1)
    return _posterior(pool, allowed & weight.isfinite(), weight)


def effective_number(negatives: Negatives) -> Tensor:
    """Return 1/Σ_r w_r² over the draws of each anchor, ``[N]``; infinite without draws."""
    squares = [
        (2 * part.log_weight).masked_fill(~part.mask, -torch.inf)
        for part in negatives.parts()
        if part.log_weight is not None and part.mask is not None
    ]
    return (-torch.cat(squares, 1).logsumexp(1)).exp()


def _posterior(pool: Negatives, mask: Tensor, log_weight: Tensor) -> Negatives:
    # What the source needs for its own update is none of ours.
    return replace(pool, mask=mask, log_weight=log_weight, estimator="posterior", aux={})
