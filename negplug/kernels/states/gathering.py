"""Logits of states in torch operations: see :mod:`negplug.kernels.states`."""

from __future__ import annotations

import functools

import torch
from torch import Tensor

from negplug.kernels.states.result import Compared
from negplug.kernels.views.gathering import log_scale


def compared_states(
    table: Tensor,
    known: Tensor,
    state: Tensor,
    place: Tensor,
    initial: Tensor,
    anchors: Tensor,
    temperature: float,
) -> Compared:
    """Return logits of states; see :func:`negplug.kernels.states.compare`."""
    views, length = known.shape
    away = (state >= 0) & (place < 0)
    here = state.clamp(0, length - 1)
    present = known.index_select(1, here).logical_and_(away & (state < length))
    products = table.index_select(1, here).to(anchors).mul_(anchors).sum(2)
    logits = products.div_(temperature).masked_fill_(~present, -torch.inf)
    log_number = present.sum(0).clamp_(min=1).to(logits).log_()
    scores = functools.reduce(torch.logaddexp, logits) - log_number
    columns = here[:, None] + length * torch.arange(views, device=here.device)
    return Compared(columns, logits, log_number, scores, scores.where(away, initial))


def weights_of_known(compared: Compared, weight: Tensor) -> Tensor:
    """Return log weights of views; see :func:`negplug.kernels.states.view_weights`."""
    return (compared.logits + log_scale(weight, compared.scores, compared.log_number)).T
