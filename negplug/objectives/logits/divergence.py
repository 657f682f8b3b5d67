"""How far an anchor's distribution over its candidates is from that of its positive.

With logits s_j = ⟨a, k_j⟩/τ + log w_j of an anchor and t_j = ⟨o, k_j⟩/τ + log w_j of its positive o
over the same candidates, o itself and the negatives, p = softmax(s) and q = softmax(t),

    KL(p ‖ q) = Σ_j p_j (s_j − t_j) − log Σ_j e^{s_j} + log Σ_j e^{t_j}.

q is a constant. Candidates come in parts (the positive, each pool), and each part gives three
numbers: its log-sum-exps ℓ and ℓ' under s and t, and D = E_p[s − t] inside the part. With the
shares c = softmax(ℓ) of the parts the whole has D = Σ c D and log-sum-exps over those of the parts.

Over a whole pool the three are streamed in tiles, as in :mod:`negplug.kernels.pool.frozen`, and the
gradient is made of recomputed ones:

    ∂ℓ/∂s_j = p_j,      ∂D/∂s_j = p_j (1 + s_j − t_j − D).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from negplug.contract.batch import ContrastiveBatch
from negplug.contract.negatives import Negatives, Whole
from negplug.contract.rows import Rows
from negplug.kernels.pool import row_logsumexp
from negplug.kernels.pool.tiled import finite, tiles
from negplug.objectives.logits.blocks import Block, over_blocks
from negplug.objectives.logits.chosen import chosen_logits


class _Part(NamedTuple):
    """What a part of the candidates contributes, ``[N]`` each; see the module.

    Attributes:
        total: ℓ, -inf where the part is empty.
        difference: D, 0 where the part is empty.
        other_total: ℓ', without gradient.
    """

    total: Tensor
    difference: Tensor
    other_total: Tensor


def divergence(
    batch: ContrastiveBatch,
    negatives: Sequence[Negatives],
    positive: Tensor,
    temperature: float,
) -> Tensor:
    """Return KL(p ‖ q) of anchor and positive over the positive and the negatives, ``[N]``.

    Args:
        batch: Anchors and ids; p is the anchors' distribution and carries gradient.
        negatives: Those of each anchor, with the ``"partition"`` estimator.
        positive: ``[N, d]``, one of each anchor's positives, whose distribution q is a constant.
        temperature: τ > 0.
    """
    others = positive.detach()
    own = (batch.anchors.embeddings * positive).sum(1) / temperature
    theirs = (others * others).sum(1) / temperature
    parts = [_Part(own, own - theirs, theirs)]
    parts += [_of_part(batch.anchors, part, others, temperature) for part in negatives]
    totals = torch.stack([part.total for part in parts], dim=1)
    differences = torch.stack([part.difference for part in parts], dim=1)
    other_totals = torch.stack([part.other_total for part in parts], dim=1)
    difference = (totals.softmax(1) * differences).sum(1)
    return difference - totals.logsumexp(1) + other_totals.logsumexp(1)


def _of_part(anchors: Rows, part: Negatives, others: Tensor, temperature: float) -> _Part:
    weight = part.log_weight
    if weight is not None and weight.shape[1] == 1:
        found = _of_part(anchors, replace(part, log_weight=None), others, temperature)
        return _Part(found[0] + weight[:, 0], found[1], found[2] + weight[:, 0])
    if not isinstance(part.choice, Whole):
        return _of_chosen(anchors, part, others, temperature)
    if part.blocks is not None:

        def of_block(block: Block) -> _Part:
            return _of_part(block.anchors, block.negatives, others[block.places], temperature)

        return _Part(*over_blocks(anchors, part, of_block))
    rows = part.rows
    return _Part(
        *_PoolDifference.apply(
            anchors.embeddings,
            rows.embeddings,
            others,
            anchors.comparable_ids,
            rows.ids,
            temperature,
            weight,
            part.mask,
        )
    )


def _of_chosen(anchors: Rows, part: Negatives, others: Tensor, temperature: float) -> _Part:
    logits = chosen_logits(anchors.embeddings, part, temperature)
    theirs = chosen_logits(others, part, temperature).detach()
    total = row_logsumexp(logits)
    shares = (logits - finite(total)[:, None]).exp()
    difference = (logits - theirs).masked_fill(logits == -torch.inf, 0.0)
    return _Part(total, (shares * difference).sum(1), row_logsumexp(theirs))


class _PoolDifference(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        anchors: Tensor,
        pool: Tensor,
        others: Tensor,
        anchor_ids: Tensor,
        pool_ids: Tensor,
        temperature: float,
        log_weight: Tensor | None,
        mask: Tensor | None,
    ) -> tuple[Tensor, Tensor, Tensor]:
        total = anchors.new_full((len(anchors),), -torch.inf)
        other_total, difference = total.clone(), torch.zeros_like(total)
        question = (pool, anchor_ids, pool_ids, log_weight, mask, temperature)
        for rows, _, logits, theirs in _pairs(anchors, others, *question):
            other_total[rows] = torch.logaddexp(other_total[rows], theirs.logsumexp(1))
            change = _difference(logits, theirs)
            after = torch.logaddexp(total[rows], logits.logsumexp(1))
            # exp(-inf) = 0: where there is no negative yet, there is nothing to sum.
            shift = finite(after)
            difference[rows] *= (total[rows] - shift).exp()
            difference[rows] += change.mul_(logits.sub_(shift[:, None]).exp_()).sum(1)
            total[rows] = after
        ctx.save_for_backward(
            anchors, pool, others, anchor_ids, pool_ids, log_weight, mask, total, difference
        )
        ctx.temperature = temperature
        ctx.mark_non_differentiable(other_total)
        return total, difference, other_total

    @staticmethod
    @once_differentiable
    def backward(
        ctx: Any, grad_total: Tensor, grad_difference: Tensor, _: Tensor
    ) -> tuple[Tensor | None, ...]:
        anchors, pool, others, anchor_ids, pool_ids, log_weight, mask, *ends = ctx.saved_tensors
        total, difference = ends
        shift = finite(total)
        constant = grad_total + grad_difference * (1 - difference)
        grad_anchors = torch.zeros_like(anchors)
        grad_pool = torch.zeros_like(pool) if ctx.needs_input_grad[1] else None
        question = (pool, anchor_ids, pool_ids, log_weight, mask, ctx.temperature)
        for rows, columns, logits, theirs in _pairs(anchors, others, *question):
            grad = _difference(logits, theirs).mul_(grad_difference[rows, None])
            grad.add_(constant[rows, None]).mul_(logits.sub_(shift[rows, None]).exp_())
            grad_anchors[rows].addmm_(grad, pool[columns])
            if grad_pool is not None:
                grad_pool[columns].addmm_(grad.T, anchors[rows])
        if grad_pool is not None:
            grad_pool.div_(ctx.temperature)
        return grad_anchors.div_(ctx.temperature), grad_pool, *([None] * 6)


def _pairs(
    anchors: Tensor, others: Tensor, pool: Tensor, anchor_ids: Tensor, pool_ids: Tensor, *rest: Any
) -> Iterator[tuple[slice, slice, Tensor, Tensor]]:
    """Yield (rows, columns, tile of s, tile of t), -inf where excluded; both are reused buffers."""
    own = tiles(anchors, pool, anchor_ids, pool_ids, *rest)
    theirs = tiles(others, pool, anchor_ids, pool_ids, *rest)
    for (rows, columns, logits), (_, _, other) in zip(own, theirs, strict=True):
        yield rows, columns, logits, other


def _difference(logits: Tensor, theirs: Tensor) -> Tensor:
    """Return s − t in place of t; 0 where excluded."""
    return torch.sub(logits, theirs, out=theirs).masked_fill_(logits == -torch.inf, 0.0)
