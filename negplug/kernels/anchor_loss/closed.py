"""The loss of each anchor in torch operations, with its gradient in closed form.

Both are computed in the forward pass, so that the backward pass multiplies alone.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn.functional import softplus

from negplug.kernels.chosen import chosen_similarities


def closed_losses(
    anchors: Tensor,
    keys: Tensor,
    positives: Tensor,
    negative: Tensor,
    temperature: float,
    form: str,
    apart: bool,
) -> Tensor:
    """Return the losses; see :func:`negplug.kernels.anchor_loss.anchor_losses`."""
    # Padding has a similarity with the first key, of which nothing is taken.
    similarities = chosen_similarities(anchors, keys, positives.clamp(min=0))
    losses: Tensor = _Losses.apply(similarities, negative, positives >= 0, temperature, form, apart)
    return losses


class _Terms(NamedTuple):
    """Losses and their derivatives.

    Attributes:
        loss: ``[N]``.
        slope: That by ℓ⁻, ``[N]``.
        pull: That by each s_p, ``[N, P]``, with the opposite sign; None if it is the slope.
    """

    loss: Tensor
    slope: Tensor
    pull: Tensor | None


class _Losses(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        similarities: Tensor,
        negative: Tensor,
        present: Tensor,
        temperature: float,
        form: str,
        apart: bool,
    ) -> Tensor:
        steepness = 1.0 / temperature
        if present.shape[1] == 1:
            terms = _of_one(similarities[:, 0], negative, present[:, 0], steepness, apart)
        else:
            logits = similarities * steepness
            terms = _of_several(logits, negative, present, form, apart)
        ctx.save_for_backward(terms.slope, terms.pull)
        ctx.steepness = steepness
        return terms.loss

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        slope, pull = ctx.saved_tensors
        of_negative = slope * grad
        pulls = of_negative[:, None] if pull is None else pull * grad[:, None]
        return pulls * -ctx.steepness, of_negative, None, None, None, None


def _of_one(
    similarity: Tensor, negative: Tensor, present: Tensor, steepness: float, apart: bool
) -> _Terms:
    """Return the terms for one positive of each anchor, all arguments being ``[N]``."""
    x = torch.sub(negative, similarity, alpha=steepness)
    if apart:
        some = present & (x != -torch.inf)
        slope = some.to(x.dtype)
        return _Terms(torch.where(some, x, 0.0), slope, None)
    # Where there is no negative both are zero of themselves.
    slope = torch.sigmoid(x).mul_(present)
    # The default threshold of 20 rounds to the identity too early for float64.
    return _Terms(softplus(x, threshold=50.0).mul_(present), slope, None)


def _of_several(
    logits: Tensor, negative: Tensor, present: Tensor, form: str, apart: bool
) -> _Terms:
    number = present.sum(1)
    some = (number > 0) & (negative != -torch.inf)
    number = number.clamp_(min=1)
    share = some / number.to(logits.dtype)
    # A finite stand-in for anchors that pay nothing.
    negative = torch.where(some, negative, 0.0)
    if form == "each" and not apart:
        x = (negative[:, None] - logits).masked_fill_(~present, -torch.inf)
        pull = torch.sigmoid(x) * share[:, None]
        return _Terms(softplus(x, threshold=50.0).sum(1) * share, pull.sum(1), pull)
    evenly = present * share[:, None]
    mean = (logits * evenly).sum(1)
    if form != "sum" and apart:
        return _Terms(torch.where(some, negative - mean, 0.0), some.to(mean), evenly)
    total = logits.masked_fill(~present, -torch.inf).logsumexp(1).where(some, 0.0)
    parts = torch.where(present, torch.exp(logits - total[:, None]), 0.0)
    parts = torch.where(some[:, None], parts, 0.0)
    x = negative - total
    if apart:
        return _Terms(torch.where(some, x, 0.0), some.to(x), parts)
    slope = torch.where(some, torch.sigmoid(x), 0.0)
    loss = softplus(x, threshold=50.0)
    if form == "sum":
        return _Terms(torch.where(some, loss, 0.0), slope, parts * slope[:, None])
    pull = evenly - parts * torch.sigmoid(-x)[:, None]
    return _Terms(torch.where(some, loss + total - mean, 0.0), slope, pull)
