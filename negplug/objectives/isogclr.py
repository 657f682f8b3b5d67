"""``isogclr()``: ``sogclr()`` with a temperature for each sample, which learns.

Source: Qiu et al. 2023, "Not All Semantics are Created Equal: Contrastive Self-supervised Learning
with Automatic Temperature Individualization" (https://arxiv.org/abs/2305.11965, equation 6 and
algorithm 1). Samples of frequent semantics want a large temperature, those of rare ones a small
one. With the mean g_i(τ) = Σ_j w_ij e^{s_ij/τ} / Σ_j w_ij over anchor i's negatives,

    F = mean over i of  τ_i log E g_i(τ_i) − s_i⁺ + τ_i ρ,        τ_min ≤ τ_i ≤ τ_max,

with similarities s. u_i is the moving average of g_i as in :mod:`negplug.objectives.sogclr`. The
gradient by the embeddings is −∇s⁺ + τ_i (g_i/u_i) ∇ log Σ_j w_ij e^{s_ij/τ_i}; and once the
backward pass is over each temperature takes a step with momentum,

    G_i = log u_i + ρ − (g_i/u_i) E_{j ~ p_i}[s_ij]/τ_i        (∂F/∂τ_i, with u_i for E g_i),
    v_i ← (1 − β) v_i + β G_i,        τ_i ← τ_i − η v_i, kept in [τ_min, τ_max].

p_i is the softmax over the negatives. τ_i begins at the loss's temperature.

What differs: as in ``sogclr`` each view of a sample is an anchor of its own, with u, v and τ of its
own, kept for checkpoints and gathered over ranks. Kernels take one number for the temperature: they
get τ_min, and anchors of length τ_min/τ_i ≤ 1, which are the same logits; so nothing overflows that
does not at τ_min. E_p[s] is the slope of the log-sum-exp along the anchor, a second pass over the
negatives. The value is F; in an evaluation, whose samples have no τ_i, that of the loss's
temperature with the batch's g. Estimator: ``"partition"``.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks

from negplug.contract.batch import ContrastiveBatch
from negplug.contract.hookspecs import ObjectiveSpec, hookimpl
from negplug.contract.inputs import check_number
from negplug.contract.negatives import Negatives
from negplug.contract.sample_table import SampleTable
from negplug.objectives.logits import log_number, negative_logsumexp, positive_logits
from negplug.objectives.sogclr import SogCLR


class ISogCLR(SogCLR):
    """The robust global contrastive loss, with a temperature per sample and view.

    Args:
        gamma: As of :class:`negplug.objectives.sogclr.SogCLR`.
        rho: ρ ≥ 0; the larger, the smaller the temperatures. The authors take 0.1 to 0.5 for
            images.
        eta: η ≥ 0, how far a temperature goes in a step.
        beta: β in (0, 1], the share of the present gradient in the momentum.
        tau_min: The least temperature.
        tau_max: The greatest one.
        size: As of ``SogCLR``.
        decay_steps: As of ``SogCLR``.

    Raises:
        TypeError: If an argument has the wrong type.
        ValueError: If an argument is outside its range.
    """

    expression = "isogclr()"
    name = "isogclr"

    def __init__(
        self,
        gamma: float = 0.9,
        rho: float = 0.3,
        eta: float = 0.01,
        beta: float = 0.9,
        tau_min: float = 0.05,
        tau_max: float = 0.7,
        size: int | None = None,
        decay_steps: int | None = None,
    ) -> None:
        super().__init__(gamma, size, decay_steps)
        self.rho = check_number(self.name, "rho", rho, 0, math.inf)
        self.eta = check_number(self.name, "eta", eta, 0, math.inf)
        self.beta = check_number(self.name, "beta", beta, 0, math.inf)
        if not 0 < self.beta <= 1:
            raise ValueError(f"isogclr: beta must be in (0, 1], got {beta}")
        self.tau_min = check_number(self.name, "tau_min", tau_min, 1e-6, math.inf)
        self.tau_max = check_number(self.name, "tau_max", tau_max, self.tau_min, math.inf)
        # Of an entry that was never written the temperature is that of the loss.
        self.averages = SampleTable(log_u=-torch.inf, tau=0.0, slope=0.0)
        each = ("rho", "eta", "beta", "tau_min", "tau_max")
        more = ", ".join(f"{name}={getattr(self, name)!r}" for name in each)
        self.expression = f"{self.expression[:-1]}, {more})"

    def forward(
        self, batch: ContrastiveBatch, negatives: Sequence[Negatives], temperature: float
    ) -> Tensor:
        """Return the loss per anchor, ``[N]``.

        Raises:
            ValueError: If data set indexes are unknown or beyond the data set, or the temperature
                of the loss learns too.
        """
        self.check_partition(negatives)
        if batch.context.sharpness is not None:
            raise ValueError(
                "isogclr: learns a temperature for each sample, so that of the loss cannot learn "
                "too; give it a number, where they begin"
            )
        rows = batch.anchors.embeddings
        seen = self.seen(batch) if batch.training else None
        begin = min(max(temperature, self.tau_min), self.tau_max)
        tau = torch.full_like(rows[:, 0], begin).detach()
        if seen is not None:
            known = seen.past["tau"].to(tau)
            tau = torch.where(known > 0, known, tau).clamp(self.tau_min, self.tau_max)
        factor = self.tau_min / tau
        negative = self._logsumexp(batch, negatives, factor)
        number = log_number(batch, negatives)
        present = batch.positives >= 0
        positives = present.sum(1)
        pull = torch.where(present, positive_logits(batch, 1.0), 0.0).sum(1)
        nothing = (positives == 0) | (negative == -torch.inf)
        # A finite stand-in for anchors that pay nothing, so that no gradient becomes NaN.
        finite = torch.where(nothing, 0.0, negative)
        mean = (finite - number.masked_fill(nothing, 0.0)).detach()
        average = mean
        if seen is not None:
            average = self.averaged(batch, seen.past["log_u"].to(mean), mean)
            expected = self._expected_logit(batch, negatives, factor)
            gradient = average + self.rho - (mean - average).exp() * expected
            past = seen.past["slope"].to(mean)
            slope = past + self.beta * (gradient - past)
            after = (tau - self.eta * slope).clamp(self.tau_min, self.tau_max)
            self.remember(batch, seen, nothing, log_u=average, tau=after, slope=slope)
        push = tau * (mean - average).exp() * finite
        value = tau * (average + self.rho)
        loss = value + (push - push.detach()) - pull / positives.clamp(min=1)
        return torch.where(nothing, 0.0 * rows.sum(1), loss)

    def _logsumexp(
        self, batch: ContrastiveBatch, negatives: Sequence[Negatives], factor: Tensor
    ) -> Tensor:
        """Return log Σ_j w_ij e^{s_ij/τ_i}, ``[N]``; ``factor`` is τ_min/τ_i."""
        anchors = batch.anchors
        short = replace(anchors, embeddings=anchors.embeddings * factor[:, None], name="")
        return negative_logsumexp(replace(batch, anchors=short), negatives, self.tau_min)

    def _expected_logit(
        self, batch: ContrastiveBatch, negatives: Sequence[Negatives], factor: Tensor
    ) -> Tensor:
        """Return E_p[s]/τ_i, ``[N]``: the slope of the log-sum-exp by log(1/τ_i)."""
        fixed = replace(batch, anchors=batch.anchors.detach())
        # A graph of its own, of which a checkpointed region around it is to drop nothing.
        with torch.enable_grad(), saved_tensors_hooks(_as_it_is, _as_it_is):
            scale = factor.clone().requires_grad_()
            total = self._logsumexp(fixed, [part.detach() for part in negatives], scale)
            (slope,) = torch.autograd.grad(total.sum(), scale)
        return slope * factor

    def settings(self) -> dict[str, Any]:
        """Return what the averages and the temperatures depend on."""
        names = ("rho", "eta", "beta", "tau_min", "tau_max")
        return super().settings() | {name: getattr(self, name) for name in names}


def _as_it_is(tensor: Tensor) -> Tensor:
    return tensor


@hookimpl
def negplug_objectives() -> Iterable[ObjectiveSpec]:
    """Offer ``isogclr``."""
    yield ObjectiveSpec(
        "isogclr",
        ISogCLR,
        "sogclr with a learned temperature for each sample",
        "Qiu et al. 2023, arXiv:2305.11965",
    )
