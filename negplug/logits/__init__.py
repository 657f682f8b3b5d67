"""The arithmetic between samplers and objectives.

Samplers and objectives speak of logits s = ⟨a, k⟩/τ only through this interface; which kernel
answers is decided here, by the shape of the question:

- chosen columns → :mod:`negplug.logits.chosen`;
- every key of a symmetric batch → :mod:`negplug.logits.symmetric`;
- every row of any other pool → :mod:`negplug.logits.tiled`.

Nothing here materialises ``[N, M, d]``, and over a whole pool nothing materialises ``[N, K]``.
"""

from __future__ import annotations

import torch
from torch import Tensor

from negplug.batch import ContrastiveBatch
from negplug.exclusion import comparable_ids
from negplug.logits.chosen import chosen_similarities
from negplug.logits.symmetric import STEEPEST, symmetric_logsumexp
from negplug.logits.tiled import pool_logsumexp
from negplug.negatives import Negatives

__all__ = ["negative_logsumexp", "positive_logits"]


def positive_logits(batch: ContrastiveBatch, temperature: float) -> Tensor:
    """Return the logits of each anchor's positives, ``[N, P]``, -inf where padded."""
    padded = batch.positives < 0
    columns = batch.positives.clamp(min=0)
    similarities = chosen_similarities(batch.anchors, batch.keys, columns, ~padded)
    return (similarities / temperature).masked_fill(padded, -torch.inf)


def negative_logsumexp(batch: ContrastiveBatch, negatives: Negatives, temperature: float) -> Tensor:
    """Return log Σ_j w_ij exp(s_ij/τ) over each anchor's negatives, ``[N]``.

    An anchor without negatives gets -inf, with zero gradient.

    Args:
        batch: Anchors and ids.
        negatives: Pool, columns and log weights.
        temperature: τ > 0.
    """
    weight = negatives.log_weight
    if negatives.columns is not None:
        mask = negatives.mask
        similarities = chosen_similarities(batch.anchors, negatives.pool, negatives.columns, mask)
        logits = similarities / temperature
        if weight is not None:
            per_column = weight.shape[1] != 1
            logits = logits + weight if per_column else logits
        if mask is not None:
            logits = logits.masked_fill(~mask, -torch.inf)
        total = torch.logsumexp(logits, dim=1)
        return total + weight[:, 0] if weight is not None and not per_column else total
    ids = comparable_ids(batch.anchor_ids)
    if weight is None or weight.shape[1] == 1:
        own = negatives.pool is batch.anchors and negatives.pool_ids is batch.anchor_ids
        if own and 1.0 / temperature <= STEEPEST:
            total = symmetric_logsumexp(batch.anchors, ids, temperature)
        else:
            total = pool_logsumexp(
                batch.anchors, negatives.pool, ids, negatives.pool_ids, temperature
            )
        return total if weight is None else total + weight[:, 0]
    return pool_logsumexp(
        batch.anchors, negatives.pool, ids, negatives.pool_ids, temperature, weight
    )
