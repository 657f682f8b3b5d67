"""``rince()``: InfoNCE that forgives false positives.

Source: Chuang et al. 2022, "Robust Contrastive Learning against Noisy Views" (robust InfoNCE,
https://arxiv.org/abs/2201.04309, equation 4). With s⁺ the logit of anchor i's positive and
ℓ⁻ = log Σ_j w_ij e^{s_ij/τ} over its negatives,

    L_i = −e^{q s⁺}/q + (λ (e^{s⁺} + e^{ℓ⁻}))^q / q,        q, λ ∈ (0, 1].

q = 1 is symmetric: a positive that is none cancels in expectation. For q → 0 with λ = 1 it is
``infonce()``. Several positives are averaged, each against the negatives.

In log space, with x = q (log λ + softplus(ℓ⁻ − s⁺)),

    L_i = e^{q s⁺} (e^x − 1) / q,

of which nothing cancels where x is small. Unlike a log-sum-exp the loss itself is an exponential,
up to e^{q/τ}: where q/τ is above 8 it is multiplied by the constant e^{8 − q/τ}, and so are its
gradients, which then fit into half precision too. Estimator: ``"partition"``.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

import torch
from torch import Tensor
from torch.nn.functional import softplus

from negplug.contract.batch import ContrastiveBatch
from negplug.contract.hookspecs import ObjectiveSpec, hookimpl
from negplug.contract.inputs import check_number
from negplug.contract.negatives import Negatives
from negplug.contract.objective import Objective
from negplug.objectives.logits import negative_logsumexp, positive_logits

_LARGEST = 8.0


class RINCE(Objective):
    """Robust InfoNCE.

    Args:
        q: In (0, 1]; the larger, the less a positive counts that is far away. The authors
            recommend 0.1 to 0.5.
        lam: λ in (0, 1], the weight of the negatives.

    Raises:
        TypeError: If an argument is no number.
        ValueError: If one is outside (0, 1].
    """

    expression = "rince()"
    takes_streams = True

    def __init__(self, q: float = 0.5, lam: float = 0.025) -> None:
        super().__init__()
        for name, value in (("q", q), ("lam", lam)):
            check_number("rince", name, value, -math.inf, math.inf)
            if not 1e-6 <= value <= 1:
                raise ValueError(f"rince: {name} must be in [1e-6, 1], got {value}")
        self.q, self.lam = float(q), float(lam)
        self.expression = f"rince(q={q!r}, lam={lam!r})"

    def forward(
        self, batch: ContrastiveBatch, negatives: Sequence[Negatives], temperature: float
    ) -> Tensor:
        """Return the loss per anchor, ``[N]``."""
        self.check_partition(negatives)
        negative = negative_logsumexp(batch, negatives, temperature)
        present = batch.positives >= 0
        number = present.sum(1)
        nothing = (number == 0) | (negative == -torch.inf)
        # A finite stand-in for anchors that pay nothing, so that no gradient becomes NaN.
        negative = torch.where(nothing, 0.0, negative)
        logits = torch.where(present, positive_logits(batch, temperature), 0.0)
        # The default threshold of 20 rounds to the identity too early for float64.
        above = softplus(negative[:, None] - logits, threshold=50.0)
        each = torch.where(present, self._losses(logits, above, temperature), 0.0)
        loss = each.sum(1) / number.clamp(min=1)
        return torch.where(nothing, 0.0 * batch.anchors.embeddings.sum(1), loss)

    def _losses(self, logits: Tensor, above: Tensor, temperature: float) -> Tensor:
        """Return L for each positive, ``[N, P]``; ``above`` is softplus(ℓ⁻ − s⁺)."""
        x = self.q * (math.log(self.lam) + above)
        height = self.q * logits - max(0.0, self.q / temperature - _LARGEST)
        # Each form is finite where it is taken: e^x alone may overflow, e^(height + x) never.
        near = x < 1
        small = height.exp() * torch.expm1(torch.where(near, x, 0.0))
        large = (height + torch.where(near, 0.0, x)).exp() - height.exp()
        return torch.where(near, small, large) / self.q


@hookimpl
def negplug_objectives() -> Iterable[ObjectiveSpec]:
    """Offer ``rince``."""
    yield ObjectiveSpec(
        "rince",
        RINCE,
        "InfoNCE that forgives false positives (robust InfoNCE)",
        "Chuang et al. 2022, arXiv:2201.04309",
    )
