"""``ifm()``: InfoNCE, and InfoNCE with every pair made harder by a margin.

Source: Robinson et al. 2021, "Can contrastive learning avoid shortcut solutions?" (implicit feature
modification, https://arxiv.org/abs/2106.11230, section 4). To move an embedding by at most ε such
that the loss of anchor i rises most is to move it along the anchor: similarities of positives fall
by ε, those of negatives rise by ε. With ℓ⁻ = log Σ_j w_ij e^{s_ij/τ}, T = log Σ_p e^{s_p/τ} and

    ℓ_ε = −log e^{T − ε/τ} / (e^{T − ε/τ} + e^{ℓ⁻ + ε/τ}) = softplus(ℓ⁻ − T + 2ε/τ),

    L_i = (ℓ_0 + α ℓ_ε) / 2.

Both read the same two numbers of an anchor, so the margin costs nothing. ε = 0, α = 1 is
``infonce()``. Estimator: ``"partition"``.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

from torch import Tensor

from negplug.contract.batch import ContrastiveBatch
from negplug.contract.hookspecs import ObjectiveSpec, hookimpl
from negplug.contract.inputs import check_number
from negplug.contract.negatives import Negatives
from negplug.contract.objective import Objective
from negplug.kernels.anchor_loss import anchor_losses
from negplug.objectives.logits import negative_logsumexp


class IFM(Objective):
    """InfoNCE with implicit feature modification.

    Args:
        epsilon: ε ≥ 0, how far embeddings of length one are moved; the authors take 0.05 to 0.2.
        alpha: α ≥ 0, the weight of the modified loss.

    Raises:
        TypeError: If an argument is no number.
        ValueError: If one is negative or infinite.
    """

    expression = "ifm()"
    takes_streams = True

    def __init__(self, epsilon: float = 0.1, alpha: float = 1.0) -> None:
        super().__init__()
        self.epsilon = check_number("ifm", "epsilon", epsilon, 0, math.inf)
        self.alpha = check_number("ifm", "alpha", alpha, 0, math.inf)
        self.expression = f"ifm(epsilon={epsilon!r}, alpha={alpha!r})"

    def forward(
        self, batch: ContrastiveBatch, negatives: Sequence[Negatives], temperature: float
    ) -> Tensor:
        """Return the loss per anchor, ``[N]``."""
        self.check_partition(negatives)
        negative = negative_logsumexp(batch, negatives, temperature)
        margin: float | Tensor = 2 * self.epsilon / temperature
        if batch.context.sharpness is not None:
            margin = margin * batch.context.sharpness  # τ learns, and the margin is over τ
        plain = self._losses(batch, negative, temperature)
        return (plain + self.alpha * self._losses(batch, negative + margin, temperature)) / 2

    def _losses(self, batch: ContrastiveBatch, negative: Tensor, temperature: float) -> Tensor:
        anchors, keys = batch.anchors.embeddings, batch.keys.embeddings
        return anchor_losses(anchors, keys, batch.positives, negative, temperature, "sum")


@hookimpl
def negplug_objectives() -> Iterable[ObjectiveSpec]:
    """Offer ``ifm``."""
    yield ObjectiveSpec(
        "ifm",
        IFM,
        "InfoNCE, and the same with a margin (implicit feature modification)",
        "Robinson et al. 2021, arXiv:2106.11230",
    )
