"""ReSSL's objective: two similarity distributions over the same negatives.

Source: Zheng et al. 2021, "ReSSL: Relational self-supervised learning with weak augmentation"
(https://arxiv.org/abs/2107.09282), equations 4 to 6. With anchor q_i, its positive k_i as teacher
and negatives n_j of importance w_ij,

    t_ij ∝ w_ij e^{⟨k_i, n_j⟩/τ_k},     p_ij ∝ w_ij e^{⟨q_i, n_j⟩/τ_q},
    L_i = −Σ_j t_ij log(p_ij/w_ij) = log Σ_j w_ij e^{⟨q_i, n_j⟩/τ_q} − ⟨q_i, m_i⟩/τ_q

up to a constant, where m_i = Σ_j t_ij n_j is τ_k times the gradient of the teacher's log-sum-exp,
so that neither distribution is ever an ``[N, K]`` tensor. An anchor with a single negative learns
nothing from it: both distributions are the same, and loss and gradient are 0.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from negplug.contract.batch import ContrastiveBatch
from negplug.contract.negatives import Negatives
from negplug.contract.objective import Objective
from negplug.objectives.logits import negative_logsumexp


class Relational(Objective):
    """Cross-entropy of the anchor's similarities to the negatives against its positive's.

    Args:
        temperature_key: τ_k > 0 of the teacher. The temperature in use is τ_q, the anchor's.
    """

    several_positives = False  # the teacher is one row

    def __init__(self, temperature_key: float) -> None:
        super().__init__()
        self.temperature_key = temperature_key
        self.expression = f"ReSSL's relational objective (temperature_k={temperature_key})"

    def forward(
        self, batch: ContrastiveBatch, negatives: Sequence[Negatives], temperature: float
    ) -> Tensor:
        """Return the loss per anchor, ``[N]``.

        Raises:
            ValueError: If every anchor has but one negative; or if the negatives are draws from
                the anchor's softmax: the teacher's distribution is another one, which they cannot
                estimate.
        """
        if negatives[0].estimator != "partition":
            raise ValueError(
                f"ReSSL compares two softmax distributions over the same negatives, so it needs "
                f"negatives that estimate a denominator, got the {negatives[0].estimator!r} "
                f"estimator"
            )
        if sum(part.width for part in negatives) == 1:
            raise ValueError(
                "ReSSL compares two softmax distributions over the negatives, which are the same "
                "for a single one, so nothing would be learned; give it two negatives or more"
            )
        negative = negative_logsumexp(batch, negatives, temperature)
        target = self._teachers_mean(batch, [part.detach() for part in negatives])
        loss = negative - (batch.anchors.embeddings * target).sum(1) / temperature
        return torch.where(negative == -torch.inf, 0.0 * batch.anchors.embeddings.sum(1), loss)

    def _teachers_mean(self, batch: ContrastiveBatch, negatives: Sequence[Negatives]) -> Tensor:
        """Return m_i, ``[N, d]``, detached; 0 where there are no negatives."""
        with torch.enable_grad():
            teachers = batch.keys.embeddings.detach()[batch.positives[:, 0]].requires_grad_()
            known = replace(batch, anchors=batch.anchors.with_embeddings(teachers))
            total = negative_logsumexp(known, negatives, self.temperature_key)
            (gradient,) = torch.autograd.grad(total.sum(), teachers)
        return self.temperature_key * gradient
