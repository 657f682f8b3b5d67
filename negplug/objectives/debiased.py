"""``debiased()``: the negatives' sum, corrected for false negatives and weighted to hard ones.

Sources: Chuang et al. 2020, "Debiased Contrastive Learning" (https://arxiv.org/abs/2007.00224),
equations 7 and 8; with β > 0 Robinson et al. 2021, "Contrastive Learning with Hard Negative
Samples" (https://arxiv.org/abs/2010.04592, "HCL"). An unlabelled negative is of the anchor's own
class with probability τ⁺. With logits s = ⟨a, k⟩/τ, N = Σ_j w_j negatives (their number if
unweighted) and the anchor's P positives,

    R  = N Σ_j w_j e^{(1+β) s_j} / Σ_j w_j e^{β s_j}        (β = 0: Σ_j w_j e^{s_j})
    G  = max( (R − τ⁺ N · (1/P) Σ_q e^{s⁺_q}) / (1 − τ⁺),  N e^{−1/τ} )
    L_i = (1/P) Σ_p −log e^{s⁺_p} / (e^{s⁺_p} + G)

G/N is the estimator g of the true negatives' mean, kept above the least value that it can have.
The correction averages all positives (M = P in equation 7) and each positive is pulled on its
own (equation 8 has one x⁺, in expectation). For τ⁺ = β = 0 the loss is
``infonce(positives="each")``.

As in the authors' code, the gradient flows through the weights e^{β s} too, and none through G
where it is at its least value. Everything is computed in log space. Estimator: ``"partition"``.
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
from negplug.objectives.logits import log_number, negative_logsumexp, positive_logits


class Debiased(Objective):
    """The debiased contrastive loss, with hard-negative weights if β > 0 (HCL).

    Args:
        tau_plus: τ⁺ in [0, 1), the probability that a negative is a false one: about one over
            the number of classes. 0 for no correction.
        beta: β ≥ 0, how strongly hard negatives are preferred. 0 for no preference.

    Raises:
        TypeError: If an argument is no number.
        ValueError: If an argument is outside its range.
    """

    expression = "debiased()"

    def __init__(self, tau_plus: float = 0.1, beta: float = 0.0) -> None:
        super().__init__()
        self.tau_plus = check_number("debiased", "tau_plus", tau_plus, 0, 1)
        self.beta = check_number("debiased", "beta", beta, 0, math.inf)
        self.expression = f"debiased(tau_plus={tau_plus!r}, beta={beta!r})"

    def forward(
        self, batch: ContrastiveBatch, negatives: Sequence[Negatives], temperature: float
    ) -> Tensor:
        """Return the loss per anchor, ``[N]``."""
        self.check_partition(negatives)
        present = batch.positives >= 0
        count = present.sum(1)
        number = log_number(batch, negatives)
        nothing = (count == 0) | (number == -torch.inf)
        # A finite stand-in for anchors that pay nothing, so that no gradient becomes NaN.
        total = torch.where(nothing, 0.0, self._log_total(batch, negatives, temperature, number))
        # Padding weighs nothing, but is finite: log-sum-exp over -inf alone has no gradient.
        padding = -torch.finfo(total.dtype).max
        logits = torch.where(present, positive_logits(batch, temperature), padding)
        count = count.clamp(min=1)
        positive = logits.logsumexp(1) - count.to(logits.dtype).log()
        steepness: float | Tensor = 1.0 / temperature
        if batch.context.sharpness is not None:
            steepness = steepness * batch.context.sharpness  # τ learns, and the least has it too
        negative = self._log_estimate(total, number, positive, steepness)
        # The default threshold of 20 rounds to the identity too early for float64.
        each = softplus(negative[:, None] - logits, threshold=50.0)
        loss = torch.where(present, each, 0.0).sum(1) / count
        return torch.where(nothing, 0.0 * batch.anchors.embeddings.sum(1), loss)

    def _log_total(
        self,
        batch: ContrastiveBatch,
        negatives: Sequence[Negatives],
        temperature: float,
        number: Tensor,
    ) -> Tensor:
        """Return log R, ``[N]``."""
        if self.beta == 0:
            return negative_logsumexp(batch, negatives, temperature)
        reweighted = negative_logsumexp(batch, negatives, temperature / (1.0 + self.beta))
        return number + reweighted - negative_logsumexp(batch, negatives, temperature / self.beta)

    def _log_estimate(
        self, total: Tensor, number: Tensor, positive: Tensor, steepness: float | Tensor
    ) -> Tensor:
        """Return log G, ``[N]``, from the logarithms of R, of N and of the mean positive."""
        if self.tau_plus == 0:
            return total  # a sum over unit rows is above its least value
        least = number - steepness
        # With F the false negatives' part: log(R − F) = log R + log(1 − e^−excess).
        excess = total - (math.log(self.tau_plus) + number + positive)
        # Below the smallest normal number the derivative, 1/excess, overflows.
        remains = excess >= torch.finfo(excess.dtype).tiny
        excess = torch.where(remains, excess, 1.0)
        estimate = total + torch.log(-torch.expm1(-excess)) - math.log1p(-self.tau_plus)
        return torch.where(remains & (estimate > least), estimate, least)


@hookimpl
def negplug_objectives() -> Iterable[ObjectiveSpec]:
    """Offer ``debiased``."""
    yield ObjectiveSpec(
        "debiased",
        Debiased,
        "corrected for false negatives; beta: harder ones count more (HCL)",
        "Chuang et al. 2020, arXiv:2007.00224",
    )
