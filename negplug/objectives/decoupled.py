"""``decoupled()``: the softmax contrastive loss without the positive in its denominator.

Source: Yeh et al. 2021, "Decoupled Contrastive Learning" (https://arxiv.org/abs/2110.06848),
equation 6. With s⁺_p the logits of anchor i's positives and ℓ⁻ = log Σ_j w_ij e^{s_ij/τ} over its
negatives,

    L_i = −(1/P) Σ_p ω_ip s⁺_p + ℓ⁻,

where ω = 1 (DCL), or, with ``sigma``, the negative von Mises–Fisher weights of the n pairs of an
anchor and a positive (DCLW),

    ω_ip = 2 − n · softmax over the pairs of ⟨z_i, z_p⟩/σ,

which average to 1 and lower the pull on pairs that are already close. They are detached.
With draws from the softmax ℓ⁻ is their expected logit (:mod:`negplug.objectives.logits.posterior`).
Estimators: ``"partition"``, ``"posterior"``.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

from negplug.contract.batch import ContrastiveBatch
from negplug.contract.hookspecs import ObjectiveSpec, hookimpl
from negplug.contract.inputs import LARGEST, check_number
from negplug.contract.negatives import Negatives
from negplug.contract.objective import Objective
from negplug.kernels.anchor_loss import anchor_losses
from negplug.objectives.logits import negative_term, positive_logits


class Decoupled(Objective):
    """The decoupled contrastive loss (DCL).

    The weights compare the pairs of one loss call on this rank, as Lightly's ``DCLWLoss`` does,
    also where the negatives are gathered. Several positives of an anchor are averaged, and each
    pair has a weight of its own.

    Args:
        sigma: σ > 0 of the von Mises–Fisher weights (Lightly: 0.5); None for no weights.

    Raises:
        TypeError: If ``sigma`` is no number.
        ValueError: If ``sigma`` is not above 0 and finite.
    """

    expression = "decoupled()"
    takes_streams = True

    def __init__(self, sigma: float | None = None) -> None:
        super().__init__()
        if sigma is not None:
            sigma = check_number("decoupled", "sigma", sigma, 0, math.inf)
            if sigma < 1 / LARGEST:
                raise ValueError(
                    f"decoupled: sigma must be above 0; leave it out for no weights, or give 1e-30 "
                    f"or more, not {sigma}"
                )
        self.sigma = sigma
        self.expression = "decoupled()" if sigma is None else f"decoupled(sigma={sigma!r})"

    def forward(
        self, batch: ContrastiveBatch, negatives: Sequence[Negatives], temperature: float
    ) -> Tensor:
        """Return the loss per anchor, ``[N]``."""
        negative = self.push(batch, negatives, temperature)
        if self.sigma is None:
            anchors, keys = batch.anchors.embeddings, batch.keys.embeddings
            terms = (anchors, keys, batch.positives, negative)
            return anchor_losses(*terms, temperature, "mean", apart=True)
        present = batch.positives >= 0
        pull = torch.where(present, positive_logits(batch, temperature), 0.0)
        pull = pull * _pair_weights(batch, present, self.sigma)
        number = present.sum(1)
        loss = negative - pull.sum(1) / number.clamp(min=1)
        # Alone, the push or the pull would be unbounded: an anchor needs both to pay.
        nothing = (number == 0) | (negative == -torch.inf)
        return torch.where(nothing, 0.0 * batch.anchors.embeddings.sum(1), loss)

    def push(
        self, batch: ContrastiveBatch, negatives: Sequence[Negatives], temperature: float
    ) -> Tensor:
        """Return ℓ⁻, ``[N]``; -inf for an anchor without negatives."""
        return negative_term(batch, negatives, temperature)


@torch.no_grad()
def _pair_weights(batch: ContrastiveBatch, present: Tensor, sigma: float) -> Tensor:
    """Return the von Mises–Fisher weights, ``[N, P]``; 0 where there is no positive."""
    share = positive_logits(batch, sigma).flatten().softmax(0).view_as(present)
    return torch.where(present, 2.0 - present.sum() * share, 0.0)


@hookimpl
def negplug_objectives() -> Iterable[ObjectiveSpec]:
    """Offer ``decoupled``."""
    yield ObjectiveSpec(
        "decoupled",
        Decoupled,
        "without the positive in the denominator (DCL, DCLW)",
        "Yeh et al. 2021, arXiv:2110.06848",
    )
