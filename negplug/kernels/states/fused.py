"""States of chains on a GPU: see :mod:`negplug.kernels.states.programs`.

Import this module only where Triton is installed.
"""

from __future__ import annotations

import torch
from torch import Tensor

from negplug.kernels.launching import launch
from negplug.kernels.sizes import cdiv, power_of_2
from negplug.kernels.states.programs import logits_of_states, weights_of_states
from negplug.kernels.states.result import Compared

# Anchors of a program, and numbers that it reads at a time.
_ANCHORS = 16
_NUMBERS = 128
# Anchors of a program that looks at a few numbers of each.
_SINGLE = 256


def fused_comparison(
    table: Tensor,
    known: Tensor,
    state: Tensor,
    place: Tensor,
    initial: Tensor,
    anchors: Tensor,
    temperature: float,
) -> Compared:
    """Return logits of states; see :func:`negplug.kernels.states.compare`."""
    (views, length), (count, width) = known.shape, anchors.shape
    columns = state.new_empty(count, views)
    logits = anchors.new_empty(views, count)
    log_number, scores, present = anchors.new_empty(3, count)
    launch(
        logits_of_states,
        (cdiv(count, _ANCHORS),),
        table.contiguous(),
        known.contiguous().view(torch.uint8),
        state.contiguous(),
        place.contiguous(),
        initial.contiguous(),
        anchors.contiguous(),
        columns,
        logits,
        log_number,
        scores,
        present,
        1.0 / temperature,
        length,
        views,
        count,
        width,
        BN=_ANCHORS,
        BD=min(power_of_2(width), _NUMBERS),
    )
    return Compared(columns, logits, log_number, scores, present)


def fused_weights(compared: Compared, weight: Tensor) -> Tensor:
    """Return log weights of views; see :func:`negplug.kernels.states.view_weights`."""
    views, count = compared.logits.shape
    out = weight.new_empty(count, views)
    tiny = torch.finfo(weight.dtype).tiny
    launch(
        weights_of_states,
        (cdiv(count, _SINGLE),),
        compared.logits,
        compared.log_number,
        compared.scores,
        weight.contiguous(),
        out,
        2 * tiny if weight.dtype == torch.float32 else 0.0,
        views,
        count,
        BN=_SINGLE,
    )
    return out
