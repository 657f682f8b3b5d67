"""Similarities of chosen pairs by torch's embedding bags, on every device.

They are exactly the sparse products needed:

- forward: the kernel behind ``embedding_bag``'s per-sample-weight gradient is the sampled
  product ⟨a_i, k_c⟩;
- gradient to the anchors: a weighted ``embedding_bag`` over the pool;
- gradient to the pool: the same over the anchors, after one stable sort of the columns.

A few columns, such as those of positives, are summed in float64: the rounding of a sum in float32
is the largest error of a steep softmax where it is that of the positive.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import embedding_bag

from negplug.kernels.chosen.gradient import differentiable
from negplug.kernels.precision import widest
from negplug.kernels.torch_private import pair_products

# Columns that are summed in float64, and anchors at a time: what a core's cache holds.
_PRECISE = 4
_ANCHORS = 1024


def _products(anchors: Tensor, pool: Tensor, columns: Tensor) -> Tensor:
    rows, width = columns.shape
    if width <= _PRECISE:
        return _precise_products(anchors, pool, columns)
    row = torch.arange(rows, device=columns.device).repeat_interleave(width)
    return pair_products(anchors, pool, row, columns.reshape(-1)).view(rows, width)


def _precise_products(anchors: Tensor, pool: Tensor, columns: Tensor) -> Tensor:
    products = anchors.new_empty(columns.shape)
    for start in range(0, len(anchors), _ANCHORS):
        rows = slice(start, start + _ANCHORS)
        for place, chosen in enumerate(columns[rows].unbind(1)):
            pairs = pool[chosen].mul_(anchors[rows])
            products[rows, place] = pairs.sum(1, dtype=widest(anchors.device))
    return products


def _gradients(
    grad: Tensor, anchors: Tensor, pool: Tensor, columns: Tensor, wanted: tuple[bool, bool]
) -> tuple[Tensor | None, Tensor | None]:
    grad_anchors = grad_pool = None
    if wanted[0]:
        grad_anchors = embedding_bag(columns, pool.detach(), per_sample_weights=grad, mode="sum")
    if wanted[1]:
        ordered, order = torch.sort(columns.reshape(-1), stable=True)
        starts = torch.searchsorted(ordered, torch.arange(len(pool), device=pool.device))
        grad_pool = embedding_bag(
            order // columns.shape[1],
            anchors.detach(),
            starts,
            per_sample_weights=grad.reshape(-1)[order],
            mode="sum",
        )
    return grad_anchors, grad_pool


bag_similarities = differentiable(_products, _gradients)
