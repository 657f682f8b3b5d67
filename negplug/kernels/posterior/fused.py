"""Weights, means and products of draws on a GPU: see :mod:`negplug.kernels.posterior`.

The programs are those of :mod:`negplug.kernels.posterior.programs`. Import this module only where
Triton is installed.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from negplug.kernels.launching import launch
from negplug.kernels.posterior import plain
from negplug.kernels.posterior.draws import WeightedDraws
from negplug.kernels.posterior.programs import (
    gradients_of_rows,
    mean_of_columns,
    products_of_rows,
    weights_of_draws,
)
from negplug.kernels.sizes import cdiv, power_of_2

# Rows, entries and numbers of a program.
_ROWS = 16
_ENTRIES = 128
_NUMBERS = 128


def weights(
    drawn: WeightedDraws, shape: tuple[int, int], pool: Tensor, total: Tensor | None
) -> tuple[Tensor, Tensor]:
    """Return weights and sums; see :func:`negplug.kernels.posterior.plain.weights`."""
    count, entries = shape
    given = drawn.log_weight
    log_weight = None if given is None else given.expand(shape)
    out = pool.new_empty(shape)
    if log_weight is not None and log_weight.stride(0) < log_weight.stride(1):
        out = pool.new_empty(entries, count).T
    sums = pool.new_empty(count)
    mask = None if drawn.mask is None else drawn.mask.view(torch.uint8)
    tiny = torch.finfo(pool.dtype).tiny
    ids = drawn.ids or (sums, sums)
    launch(
        weights_of_draws,
        (cdiv(count, _ROWS),),
        # An argument that a program does not read must be a tensor all the same.
        out if log_weight is None else log_weight,
        out if mask is None else mask,
        ids[0].contiguous(),
        ids[1].contiguous(),
        out,
        sums if total is None else total,
        sums,
        4 * tiny if pool.dtype == torch.float32 else 0.0,
        -math.log(tiny) - 1,
        count,
        entries,
        *(out if log_weight is None else log_weight).stride(),
        *(out if mask is None else mask).stride(),
        *out.stride(),
        WEIGHTED=log_weight is not None,
        MASKED=mask is not None,
        EXCLUDED=drawn.ids is not None,
        MORE=total is not None,
        BN=_ROWS,
        BE=_ENTRIES,
    )
    return out, sums


def added(mean: Tensor | None, weight: Tensor, columns: Tensor, pool: Tensor) -> Tensor:
    """Return a mean; see :func:`negplug.kernels.posterior.plain.added`."""
    count, width = len(weight), pool.shape[1]
    out, pool = pool.new_empty(count, width), pool.contiguous()
    block = min(power_of_2(width), _NUMBERS)
    launch(
        mean_of_columns,
        (cdiv(count, _ROWS), cdiv(width, block)),
        out if mean is None else mean.contiguous(),
        weight,
        columns,
        pool,
        out,
        count,
        weight.shape[1],
        width,
        *weight.stride(),
        *columns.stride(),
        MORE=mean is not None,
        BN=_ROWS,
        BD=block,
    )
    return out


def products(anchors: Tensor, mean: Tensor, total: Tensor, temperature: float) -> Tensor:
    """Return expected logits; see :func:`negplug.kernels.posterior.plain.products`."""
    if anchors.dtype == torch.float64:  # a program takes temperature in float32
        return plain.products(anchors, mean, total, temperature)
    count, width = anchors.shape
    value = anchors.new_empty(count)
    launch(
        products_of_rows,
        (cdiv(count, _ROWS),),
        anchors.contiguous(),
        mean.contiguous(),
        total,
        value,
        1.0 / temperature,
        count,
        width,
        BN=_ROWS,
        BD=min(power_of_2(width), _NUMBERS),
    )
    return value


def gradients(
    grad: Tensor, mean: Tensor, total: Tensor, anchors: Tensor | None, temperature: float
) -> tuple[Tensor, Tensor | None]:
    """Return gradients; see :func:`negplug.kernels.posterior.plain.gradients`."""
    if mean.dtype == torch.float64:
        return plain.gradients(grad, mean, total, anchors, temperature)
    count, width = mean.shape
    mean = mean.contiguous()
    to_anchors = torch.empty_like(mean)
    scaled = None if anchors is None else torch.empty_like(mean)
    block = min(power_of_2(width), _NUMBERS)
    launch(
        gradients_of_rows,
        (cdiv(count, _ROWS), cdiv(width, block)),
        grad,
        mean,
        total,
        mean if anchors is None else anchors.contiguous(),
        to_anchors,
        to_anchors if scaled is None else scaled,
        1.0 / temperature,
        count,
        width,
        *grad.stride(),
        POOLS=scaled is not None,
        BN=_ROWS,
        BD=block,
    )
    return to_anchors, scaled
