"""Chosen columns by their definition, for autograd; materialises ``[N, M, d]``.

Sums are taken in float64, as a reference should.
"""

from __future__ import annotations

import torch
from torch import Tensor

from negplug.kernels.pool.reference import row_logsumexp
from negplug.kernels.precision import widest


def gathered_similarities(
    anchors: Tensor, pool: Tensor, columns: Tensor, mask: Tensor | None
) -> Tensor:
    """Return ⟨a_i, k_{c(i,m)}⟩; see :func:`negplug.kernels.chosen.chosen_similarities`."""
    wide = (pool[columns] * anchors[:, None]).sum(-1, dtype=widest(anchors.device))
    similarities = wide.to(anchors.dtype)
    return similarities if mask is None else similarities.masked_fill(~mask, 0.0)


def gathered_logsumexp(
    anchors: Tensor,
    pool: Tensor,
    columns: Tensor,
    temperature: float,
    log_weight: Tensor | None,
    mask: Tensor | None,
) -> Tensor:
    """Return ℓ; see :func:`negplug.kernels.chosen.chosen_logsumexp`."""
    similarities = gathered_similarities(anchors, pool, columns, mask)
    return weighted_logsumexp(similarities, temperature, log_weight, mask)


def weighted_logsumexp(
    similarities: Tensor, temperature: float, log_weight: Tensor | None, mask: Tensor | None
) -> Tensor:
    """Return log Σ_m w_im exp(s_im/τ), -inf with zero gradient for a row of which all is masked."""
    logits = similarities / temperature
    if log_weight is not None:
        logits = logits + log_weight
    if mask is not None:
        logits = logits.masked_fill(~mask, -torch.inf)
    whole = log_weight is None and mask is None
    return torch.logsumexp(logits, dim=1) if whole else row_logsumexp(logits)
