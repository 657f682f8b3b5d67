"""Logits of samples and weights of views in torch operations: see :mod:`negplug.kernels.views`."""

from __future__ import annotations

import math

import torch
from torch import Tensor


def gathered_scores(
    logits: Tensor,
    rows: Tensor,
    own: Tensor,
    missing: tuple[Tensor, int] | None,
    ids: tuple[Tensor, Tensor] | None,
) -> Tensor:
    """Return logits of samples; see :func:`negplug.kernels.views.sample_scores`."""
    views = logits[rows.clamp(min=0)]
    scores = views.logsumexp(0).sub_(math.log(len(rows)))
    column = torch.arange(len(scores), device=own.device)
    excluded = own == column[:, None]
    if ids is not None:
        anchors, others = ids
        same = (others[rows.clamp(min=0)][:, :, None] == anchors).any(0)
        excluded |= same & (anchors != -1)
    if missing is not None:
        samples, empty = missing
        excluded |= (samples == empty)[:, None]
    return scores.masked_fill_(excluded, -torch.inf)


def spread_by_rows(logits: Tensor, rows: Tensor, scores: Tensor, weights: Tensor) -> Tensor:
    """Return log weights of rows; see :func:`negplug.kernels.views.spread_`."""
    each = log_scale(weights, scores, math.log(len(rows)))
    for view in rows:
        logits.index_add_(0, view.clamp(min=0), each)
    return logits


def log_scale(weights: Tensor, scores: Tensor, log_number: float | Tensor) -> Tensor:
    """Return log(weight / Σ_u e^{s_u}) of samples, ``[…]``; -inf for a weight of 0.

    Args:
        weights: ``[…]``. Those too small for a normal number count as 0.
        scores: ``[…]``, log mean_u e^{s_u} of the samples' views.
        log_number: The logarithm of how many views there are, broadcastable to ``[…]``.
    """
    tiny = torch.finfo(scores.dtype).tiny
    # A logarithm of 0 takes thirty times as long as any other.
    each = weights.clamp(min=tiny).log_()
    torch.threshold_(each, math.log(2 * tiny), -math.inf)
    # Of a sample that is none, -inf less -inf.
    return each.sub_(scores).sub_(log_number).nan_to_num_(-math.inf, math.inf, -math.inf)
