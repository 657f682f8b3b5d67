"""Weighted logits of chosen negatives."""

from __future__ import annotations

import torch
from torch import Tensor

from negplug.contract.negatives import Columns, Mixtures, Negatives
from negplug.kernels.chosen import chosen_similarities


def chosen_logits(rows: Tensor, part: Negatives, temperature: float) -> Tensor:
    """Return the weighted logits of chosen negatives with some rows, ``[N, M]``; -inf where masked.

    Args:
        rows: ``[N, d]``, one per anchor: the anchors themselves, or what is compared with them.
        part: Chosen negatives of one pool; mixtures of its rows too.
        temperature: τ > 0.
    """
    pool, choice = part.rows.embeddings, part.choice
    if isinstance(choice, Mixtures):
        # ⟨a, c₀ p + c₁ q⟩ = c₀ ⟨a, p⟩ + c₁ ⟨a, q⟩: a mixture never exists as a row.
        columns = torch.stack([choice.first, choice.second], dim=-1)
        mask = None if choice.mask is None else choice.mask.repeat_interleave(2, 1)
        of_both = chosen_similarities(rows, pool, columns.flatten(1), mask).view_as(columns)
        similarities = (of_both * choice.coefficients).sum(-1)
    else:
        assert isinstance(choice, Columns)
        similarities = chosen_similarities(rows, pool, choice.columns, choice.mask)
    logits = similarities / temperature
    if part.log_weight is not None:
        logits = logits + part.log_weight
    return logits if choice.mask is None else logits.masked_fill(~choice.mask, -torch.inf)
