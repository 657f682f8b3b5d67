"""``relic()``: InfoNCE, and the same distribution over negatives from every view.

Source: Mitrovic, McWilliams & Rey 2020, "Less can be more in contrastive learning" (PMLR v137),
equation 3, after Mitrovic et al. 2021, "Representation Learning via Invariant Causal Mechanisms"
(arXiv:2010.07922). For the views v, w of sample i, and the positive z_i^w with M drawn negatives
as candidates c,

    p_i^{vw}(c) ∝ exp(⟨z_i^v, c⟩/τ),      p_i^{ww}(c) ∝ exp(⟨z_i^w, c⟩/τ),

    L_i^{vw} = −log p_i^{vw}(z_i^w) + α KL(p_i^{vw} ‖ p_i^{ww}).

Both orders of the views are anchors of the batch. The second distribution is over the *same* draws
and ranks the positive with itself, as high as can be. With several positives the loss is the mean
over them. α = 0 is ``infonce(positives="each")``.

No gradient flows into p^{ww}. It says how the candidates look from where the positive is, which is
what the anchor is to learn; through it the divergence would also shrink where z_i^w moves towards
its negatives, against the first term. Estimator: ``"partition"``.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

from negplug.contract.batch import ContrastiveBatch
from negplug.contract.hookspecs import ObjectiveSpec, hookimpl
from negplug.contract.inputs import check_number
from negplug.contract.negatives import Negatives
from negplug.contract.objective import Objective
from negplug.objectives.infonce import InfoNCE
from negplug.objectives.logits import divergence


class Relic(Objective):
    """InfoNCE with an invariance penalty.

    Args:
        alpha: α ≥ 0, the weight of the divergence between the views' distributions.

    Raises:
        TypeError: If ``alpha`` is no number.
        ValueError: If it is negative or infinite.
    """

    expression = "relic()"

    def __init__(self, alpha: float = 1.0) -> None:
        super().__init__()
        self.alpha = check_number("relic", "alpha", alpha, 0, math.inf)
        self.contrast = InfoNCE(positives="each")
        self.expression = f"relic(alpha={alpha!r})"

    def forward(
        self, batch: ContrastiveBatch, negatives: Sequence[Negatives], temperature: float
    ) -> Tensor:
        """Return the loss per anchor, ``[N]``."""
        self.check_partition(negatives)
        loss: Tensor = self.contrast(batch, negatives, temperature)
        if self.alpha == 0:
            return loss
        return loss + self.alpha * self.invariance(batch, negatives, temperature)

    def invariance(
        self, batch: ContrastiveBatch, negatives: Sequence[Negatives], temperature: float
    ) -> Tensor:
        """Return KL(p^{vw} ‖ p^{ww}) of each anchor, ``[N]``; the mean over its positives."""
        number = (batch.positives >= 0).sum(1).clamp(min=1)
        total = 0.0 * batch.anchors.embeddings.sum(1)
        for columns in batch.positives.unbind(1):
            positive = batch.keys.embeddings[columns.clamp(min=0)]
            apart = divergence(batch, negatives, positive, temperature)
            total = total + torch.where(columns >= 0, apart, 0.0)
        return total / number


@hookimpl
def negplug_objectives() -> Iterable[ObjectiveSpec]:
    """Offer ``relic``."""
    yield ObjectiveSpec(
        "relic",
        Relic,
        "InfoNCE, and the same distribution over negatives from every view",
        "Mitrovic et al. 2020, PMLR v137; 2021, arXiv:2010.07922",
    )
