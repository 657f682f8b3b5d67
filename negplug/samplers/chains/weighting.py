"""Draws of samples become weighted rows of the batch."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from negplug.contract.batch import ContrastiveBatch
from negplug.contract.ids import BEYOND
from negplug.contract.negatives import Negatives, Whole
from negplug.contract.rows import Rows
from negplug.samplers.chains.step import ChainStep


def drawn_rows(step: ChainStep, weights: Tensor) -> Negatives:
    """Return draws of the batch's samples, spread over their views; the step ends with it.

    Args:
        step: The pool, and logits of its rows and samples.
        weights: ``[N, C]``, of the draws of each anchor.
    """
    return Negatives(step.pool.pool, Whole(), step.spread(weights).T, "posterior")


@torch.no_grad()
def softmax_over(batch: ContrastiveBatch, pool: Rows) -> Negatives:
    """Return every row of a pool, with its weight in the softmax over the anchor's negatives."""
    logits = (batch.anchors.embeddings / batch.temperature) @ pool.embeddings.T
    allowed = Negatives(pool).serving(batch.anchors)
    if pool.indexes is not None:
        allowed &= pool.indexes != BEYOND
    weight = torch.where(allowed, logits, torch.finfo(logits.dtype).min).log_softmax(1)
    return Negatives(pool, Whole(), weight.masked_fill(~allowed, -torch.inf), "posterior")


def effective_number(negatives: Sequence[Negatives]) -> Tensor:
    """Return 1/Σ_r w_r² over the draws of each anchor, ``[N]``; infinite without draws."""
    weights = [part.log_weight for part in negatives if part.log_weight is not None]
    return (-(2 * torch.cat(weights, 1)).logsumexp(1)).exp()
