"""The form of ``DCLLoss`` and ``DCLWLoss`` in older versions of Lightly, 1.5.15 among them.

They have one denominator for each view where Yeh et al. 2021 (https://arxiv.org/abs/2110.06848) and
later versions have one for both: with ℓ⁻_v the log-sum-exp over the negatives of view v,

    L_i = −(1/P) Σ_p ω_ip s⁺_p + ℓ⁻_0 + ℓ⁻_1.

Negatives of no known view, and mixtures of rows, have a denominator of their own.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from negplug.contract.batch import ContrastiveBatch
from negplug.contract.negatives import Columns, Mixtures, Negatives
from negplug.objectives.decoupled import Decoupled
from negplug.objectives.logits import negative_logsumexp


class DecoupledPerView(Decoupled):
    """The decoupled loss with one denominator for each view.

    Args:
        sigma: As in :class:`negplug.objectives.decoupled.Decoupled`.
    """

    def __init__(self, sigma: float | None = None) -> None:
        super().__init__(sigma)
        self.expression = f"{self.expression}, one denominator per view"

    def push(
        self, batch: ContrastiveBatch, negatives: Sequence[Negatives], temperature: float
    ) -> Tensor:
        """Return the sum of the views' log-sum-exps, ``[N]``; -inf without any negative."""
        self.check_partition(negatives)
        pools: list[list[Negatives]] = [[], [], []]
        for part in negatives:
            views = part.rows.views
            if views is None or isinstance(part.choice, Mixtures):
                pools[-1].append(part)
                continue
            for pool, of_it in zip(pools, (views == 0, views == 1, views < 0), strict=True):
                pool.append(_where(part, of_it, len(batch.anchors)))
        terms = [negative_logsumexp(batch, pool, temperature) for pool in pools if pool]
        none = torch.stack([term == -torch.inf for term in terms])
        total = sum(torch.where(n, 0.0, term) for n, term in zip(none, terms, strict=True))
        assert isinstance(total, Tensor)
        return total.masked_fill(none.all(0), -torch.inf)


def _where(part: Negatives, rows: Tensor, anchors: int) -> Negatives:
    """Return the negatives among some rows of the pool, ``[K]`` bool."""
    if isinstance(part.choice, Columns):
        return part.masked(rows[part.choice.columns])
    return part.masked(rows.expand(anchors, -1))
