"""Similarities of chosen pairs, s_im = ⟨a_i, k_{c(i,m)}⟩, without an ``[N, M, d]`` tensor.

torch's embedding-bag kernels are exactly the sparse products needed, on every device:

- forward: the kernel behind ``embedding_bag``'s per-sample-weight gradient is the sampled
  product ⟨a_i, k_c⟩;
- gradient to the anchors, Σ_m g_im k_{c(i,m)}: a weighted ``embedding_bag`` over the pool;
- gradient to the pool, Σ_{(i,m): c(i,m)=j} g_im a_i: the same over the anchors, after one
  stable sort of the columns. The summation order is fixed, so a resumed run repeats bit for bit.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn.functional import embedding_bag

from negplug.negatives import Negatives


def chosen_similarities(
    anchors: Tensor, pool: Tensor, columns: Tensor, mask: Tensor | None = None
) -> Tensor:
    """Return ⟨a_i, k_{c(i,m)}⟩, ``[N, M]``, differentiable in anchors and pool.

    Args:
        anchors: ``[N, d]``.
        pool: ``[K, d]``.
        columns: ``[N, M]`` int64 in [0, K).
        mask: ``[N, M]`` bool; entries that are False get an arbitrary value and no gradient.
    """
    # The kernels refuse strided columns, such as a slice of a sampler's own.
    columns = columns.contiguous()
    similarities: Tensor = _ChosenSimilarities.apply(anchors, pool, columns, mask)
    return similarities


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


def row_logsumexp(logits: Tensor) -> Tensor:
    """Return the log-sum-exp of each row; -inf with zero gradient for a row of nothing but -inf."""
    # torch's own gradient is NaN there.
    none = (logits == -torch.inf).all(1)
    total = torch.logsumexp(logits.masked_fill(none[:, None], 0.0), dim=1)
    return total.masked_fill(none, -torch.inf)


class _ChosenSimilarities(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, anchors: Tensor, pool: Tensor, columns: Tensor, mask: Tensor | None
    ) -> Tensor:
        ctx.save_for_backward(anchors, pool, columns, mask)
        rows, width = columns.shape
        starts = torch.arange(rows, device=columns.device) * width
        bag = torch.arange(rows, device=columns.device).repeat_interleave(width)
        products: Tensor = torch.ops.aten._embedding_bag_per_sample_weights_backward(
            anchors.contiguous(), pool.contiguous(), columns.reshape(-1), starts, bag, 0
        )
        return products.view(rows, width)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None, None, None]:
        anchors, pool, columns, mask = ctx.saved_tensors
        if mask is not None:
            grad = grad.masked_fill(~mask, 0.0)
        grad_anchors = grad_pool = None
        if ctx.needs_input_grad[0]:
            grad_anchors = embedding_bag(
                columns, pool.detach(), per_sample_weights=grad.contiguous(), mode="sum"
            )
        if ctx.needs_input_grad[1]:
            ordered, order = torch.sort(columns.reshape(-1), stable=True)
            starts = torch.searchsorted(ordered, torch.arange(len(pool), device=pool.device))
            grad_pool = embedding_bag(
                order // columns.shape[1],
                anchors.detach(),
                starts,
                per_sample_weights=grad.reshape(-1)[order],
                mode="sum",
            )
        return grad_anchors, grad_pool, None, None
