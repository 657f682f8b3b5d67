"""Weighted logits of chosen negatives."""

from __future__ import annotations

import torch
from torch import Tensor

from negplug.contract.negatives import Negatives
from negplug.kernels.chosen import chosen_similarities


def chosen_logits(rows: Tensor, part: Negatives, temperature: float) -> Tensor:
    """Return the weighted logits of chosen negatives with some rows, ``[N, M]``; -inf where masked.

    Args:
        rows: ``[N, d]``, one per anchor: the anchors themselves, or what is compared with them.
        part: Chosen negatives of one pool; mixtures of its rows too.
        temperature: τ > 0.
    """
    assert part.columns is not None
    similarities = chosen_similarities(rows, part.pool, part.columns, part.mask)
    if part.partners is not None:
        assert part.coefficients is not None
        # ⟨a, c₀ p + c₁ q⟩ = c₀ ⟨a, p⟩ + c₁ ⟨a, q⟩: a mixture never exists as a row.
        second = chosen_similarities(rows, part.pool, part.partners, part.mask)
        first_share, second_share = part.coefficients.unbind(-1)
        similarities = similarities * first_share + second * second_share
    logits = similarities / temperature
    if part.log_weight is not None:
        logits = logits + part.log_weight
    return logits if part.mask is None else logits.masked_fill(~part.mask, -torch.inf)
