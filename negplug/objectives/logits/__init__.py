"""The arithmetic between samplers and objectives.

Samplers and objectives speak of logits s = ⟨a, k⟩/τ only through this interface:

- :mod:`negplug.objectives.logits.chosen`: weighted logits of chosen columns and of mixtures;
- :mod:`negplug.objectives.logits.posterior`: the expected logit of draws from the softmax;
- :mod:`negplug.objectives.logits.blocks`: the same, where rows of some views serve those of some;
- :mod:`negplug.objectives.logits.softplus`: what a sigmoid loss pays for negatives;
- :mod:`negplug.objectives.logits.divergence`: the divergence from another row's distribution.

Which kernel computes is decided in :mod:`negplug.kernels`.
Nothing here materialises ``[N, M, d]``, and over a whole pool nothing materialises ``[N, K]``.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from negplug.contract.batch import ContrastiveBatch
from negplug.contract.negatives import (
    Columns,
    EveryRank,
    Mixtures,
    Negatives,
    total_counts,
)
from negplug.contract.rows import Rows
from negplug.contract.streaming import tie_to
from negplug.kernels.chosen import chosen_logsumexp, chosen_similarities
from negplug.kernels.pool import pool_logsumexp, row_logsumexp
from negplug.kernels.ring import ring_logsumexp
from negplug.objectives.logits.blocks import over_blocks
from negplug.objectives.logits.chosen import chosen_logits
from negplug.objectives.logits.divergence import divergence
from negplug.objectives.logits.posterior import expected_logit

__all__ = ["divergence", "log_number", "negative_logsumexp", "negative_term", "positive_logits"]


def positive_logits(batch: ContrastiveBatch, temperature: float) -> Tensor:
    """Return the logits of each anchor's positives, ``[N, P]``, -inf where padded."""
    padded = batch.positives < 0
    columns = batch.positives.clamp(min=0)
    anchors, keys = batch.anchors.embeddings, batch.keys.embeddings
    return (chosen_similarities(anchors, keys, columns) / temperature).masked_fill(
        padded, -torch.inf
    )


def negative_term(
    batch: ContrastiveBatch, negatives: Sequence[Negatives], temperature: float
) -> Tensor:
    """Return what the negatives add to the loss of an objective that takes either estimator.

    The log-sum-exp of negatives that estimate the denominator, the expected logit of draws from
    the softmax; ``[N]``, -inf with zero gradient for an anchor without negatives.
    """
    if negatives[0].estimator == "posterior":
        return expected_logit(batch, negatives, temperature)
    return negative_logsumexp(batch, negatives, temperature)


def negative_logsumexp(
    batch: ContrastiveBatch, negatives: Sequence[Negatives], temperature: float
) -> Tensor:
    """Return log Σ_j w_ij exp(s_ij/τ) over each anchor's negatives, ``[N]``.

    An anchor without negatives gets -inf, with zero gradient.

    Args:
        batch: Anchors and ids.
        negatives: One entry for each pool.
        temperature: τ > 0.
    """
    if len(negatives) == 1:
        return _logsumexp(batch, negatives[0], temperature)
    return row_logsumexp(torch.cat([_logits(batch, part, temperature) for part in negatives], 1))


@torch.no_grad()
def log_number(batch: ContrastiveBatch, negatives: Sequence[Negatives]) -> Tensor:
    """Return log Σ_j w_ij, ``[N]``: the logarithm of the number of negatives, if unweighted."""
    if all(part.log_weight is None for part in negatives):
        number = total_counts(negatives, batch.anchors)
        return number.to(batch.anchors.embeddings.dtype).log()
    # At infinite temperature every logit is 0, and the weights alone are summed.
    return negative_logsumexp(batch, negatives, math.inf)


def _logits(batch: ContrastiveBatch, part: Negatives, temperature: float) -> Tensor:
    """Return ``[N, C]`` logits whose log-sum-exp is the pool's: all of mixtures, or that alone."""
    if isinstance(part.choice, Mixtures):
        return chosen_logits(batch.anchors.embeddings, part, temperature)
    return _logsumexp(batch, part, temperature)[:, None]


def _logsumexp(batch: ContrastiveBatch, part: Negatives, temperature: float) -> Tensor:
    """Return the log-sum-exp of the negatives of one pool."""
    weight = part.log_weight
    if weight is not None and weight.shape[1] == 1:
        return _logsumexp(batch, replace(part, log_weight=None), temperature) + weight[:, 0]
    if isinstance(part.choice, EveryRank):
        anchors, rows = batch.anchors, part.rows
        names = anchors.comparable_ids, rows.ids
        total, token = ring_logsumexp(anchors.embeddings, rows.embeddings, *names, temperature)
        tie_to(batch, token)
        return total
    return _rows_logsumexp(batch.anchors, part, temperature)


def _rows_logsumexp(anchors: Rows, part: Negatives, temperature: float) -> Tensor:
    if part.blocks is not None:
        return over_blocks(anchors, part, lambda b: (_rows_logsumexp(*b[:2], temperature),))[0]
    rows, choice, weight = part.rows, part.choice, part.log_weight
    if isinstance(choice, Mixtures):
        return row_logsumexp(chosen_logits(anchors.embeddings, part, temperature))
    if isinstance(choice, Columns):
        return chosen_logsumexp(
            anchors.embeddings, rows.embeddings, choice.columns, temperature, weight, choice.mask
        )
    return pool_logsumexp(
        anchors.embeddings,
        rows.embeddings,
        anchors.comparable_ids,
        rows.ids,
        temperature,
        weight,
        choice.mask,
        rows.same_as(anchors),
    )
