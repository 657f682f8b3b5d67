"""``infonce()``: the softmax contrastive loss (van den Oord et al. 2018, SimCLR, SupCon).

With s⁺_p the logits of anchor i's positives p and ℓ⁻ = log Σ_j w_ij e^{s_ij/τ} over its negatives:

- one positive: −log e^{s⁺}/(e^{s⁺} + e^{ℓ⁻}) = softplus(ℓ⁻ − s⁺)   (SimCLR, equation 1)
- several, ``positives="sum"``: −log Σ_p e^{s_p}/(Σ_p e^{s_p} + e^{ℓ⁻})   (solo-learn)
- ``"each"``: mean over p of softplus(ℓ⁻ − s_p): each positive against the negatives alone
- ``"mean"``: mean over p of −log e^{s_p}/(Σ_q e^{s_q} + e^{ℓ⁻})   (SupCon, Khosla et al. 2020,
  equation 2)

All three agree for one positive. ``"mean"`` is also the loss of Huynh et al. 2022
(arXiv:2011.11765), in which a sampler attracts further positives: log Σ over all keys of e^s, less
the mean s_p. The loss is log1p of the ratio of negatives to positives, so nothing cancels where the
positive dominates.

Draws Z_r from the softmax over the negatives, of weights w_r, have no denominator. Their loss is

    −pull + Σ_r w_r s(Z_r)/τ,

with pull = log Σ_p e^{s_p} (``"sum"``) or the mean s_p. Its gradient estimates that of
−pull + ℓ⁻, the positives outside the denominator (EMC², Yau et al. 2024, equation 3); its value
compares with nothing but itself. Estimators: ``"partition"``, ``"posterior"``.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Literal

from torch import Tensor

from negplug.contract.attraction import attracts
from negplug.contract.batch import ContrastiveBatch
from negplug.contract.hookspecs import ObjectiveSpec, hookimpl
from negplug.contract.negatives import Negatives
from negplug.contract.objective import Objective
from negplug.kernels.anchor_loss import anchor_losses
from negplug.objectives.logits import negative_term

_FORMS = ("sum", "each", "mean")


class InfoNCE(Objective):
    """The softmax contrastive loss.

    Args:
        positives: How several positives of an anchor combine: ``"sum"``, ``"mean"`` or ``"each"``.
            None is ``"sum"``, and ``"mean"`` if a sampler attracts further positives.

    Raises:
        ValueError: If ``positives`` has another form than the three.
    """

    expression = "infonce()"
    takes_streams = True

    def __init__(self, positives: Literal["sum", "each", "mean"] | None = None) -> None:
        super().__init__()
        if positives not in (None, *_FORMS):
            raise ValueError(f"infonce: positives must be one of {_FORMS}, got {positives!r}")
        self.positives = positives
        if positives is not None:
            self.expression = f"infonce(positives={positives!r})"

    def forward(
        self, batch: ContrastiveBatch, negatives: Sequence[Negatives], temperature: float
    ) -> Tensor:
        """Return the loss per anchor, ``[N]``."""
        return anchor_losses(
            batch.anchors.embeddings,
            batch.keys.embeddings,
            batch.positives,
            negative_term(batch, negatives, temperature),
            temperature,
            self.positives or ("mean" if attracts(negatives) else "sum"),
            apart=negatives[0].estimator == "posterior",
        )


@hookimpl
def negplug_objectives() -> Iterable[ObjectiveSpec]:
    """Offer ``infonce``."""
    yield ObjectiveSpec(
        "infonce", InfoNCE, "softmax contrastive loss", "van den Oord et al. 2018, arXiv:1807.03748"
    )
