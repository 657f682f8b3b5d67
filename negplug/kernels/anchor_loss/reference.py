"""The loss of each anchor by its definition, for autograd."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import softplus

from negplug.kernels.chosen.reference import gathered_similarities


def plain_losses(
    anchors: Tensor,
    keys: Tensor,
    positives: Tensor,
    negative: Tensor,
    temperature: float,
    form: str,
    apart: bool,
) -> Tensor:
    """Return the losses; see :func:`negplug.kernels.anchor_loss.anchor_losses`."""
    present = positives >= 0
    number = present.sum(1)
    similarities = gathered_similarities(anchors, keys, positives.clamp(min=0), present)
    logits = torch.where(present, similarities / temperature, 0.0)
    # A finite stand-in for anchors that pay nothing, so that no gradient becomes NaN.
    nothing = (number == 0) | (negative == -torch.inf)
    negative = negative.masked_fill(nothing, 0.0)
    padding = -torch.finfo(logits.dtype).max
    total = torch.where(present, logits, padding).logsumexp(1)
    mean = logits.sum(1) / number.clamp(min=1)
    if apart:
        loss = negative - (total if form == "sum" else mean)
    elif form == "each":
        each = torch.where(present, _softplus(negative[:, None] - logits), 0.0)
        loss = each.sum(1) / number.clamp(min=1)
    else:
        loss = _softplus(negative - total)
        if form == "mean":
            loss = loss + total - mean
    return loss.masked_fill(nothing, 0.0)


def _softplus(x: Tensor) -> Tensor:
    # The default threshold of 20 rounds to the identity too early for float64.
    return softplus(x, threshold=50.0)
