"""Samples and their views on a GPU: see :mod:`negplug.kernels.views.programs`.

Import this module only where Triton is installed.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from negplug.kernels.launching import launch
from negplug.kernels.sizes import cdiv
from negplug.kernels.views.programs import scores_of_samples, weights_of_views

# Samples and anchors of a program.
_SAMPLES = 16
_ANCHORS = 64


def fused_scores(
    logits: Tensor,
    rows: Tensor,
    own: Tensor,
    missing: tuple[Tensor, int] | None,
    ids: tuple[Tensor, Tensor] | None,
) -> Tensor:
    """Return logits of samples; see :func:`negplug.kernels.views.sample_scores`."""
    number, samples = rows.shape
    anchors = logits.shape[1]
    scores = logits.new_empty(samples, anchors)
    # An argument that a program does not read must be a tensor all the same.
    who, empty = (own, 0) if missing is None else missing
    names = (own, own) if ids is None else ids
    grid = (cdiv(samples, _SAMPLES), cdiv(anchors, _ANCHORS))
    launch(
        scores_of_samples,
        grid,
        logits,
        rows,
        own.contiguous(),
        who,
        names[0].contiguous(),
        names[1].contiguous(),
        scores,
        math.log(number),
        empty,
        samples,
        anchors,
        number,
        PADDED=missing is not None,
        NAMED=ids is not None,
        BC=_SAMPLES,
        BN=_ANCHORS,
    )
    return scores


def fused_spread(logits: Tensor, rows: Tensor, scores: Tensor, weights: Tensor) -> Tensor:
    """Return log weights of rows; see :func:`negplug.kernels.views.spread_`."""
    number, samples = rows.shape
    anchors = logits.shape[1]
    tiny = torch.finfo(logits.dtype).tiny
    grid = (cdiv(samples, _SAMPLES), cdiv(anchors, _ANCHORS))
    launch(
        weights_of_views,
        grid,
        logits,
        rows,
        scores.contiguous(),
        weights.contiguous(),
        math.log(number),
        2 * tiny if logits.dtype == torch.float32 else 0.0,
        samples,
        anchors,
        number,
        BC=_SAMPLES,
        BN=_ANCHORS,
    )
    return logits
