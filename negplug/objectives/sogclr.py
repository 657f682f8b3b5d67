"""``sogclr()``: a moving average of each sample's own denominator.

Source: Yuan et al. 2022, "Provable stochastic optimization for global contrastive learning: small
batch does not harm performance" (https://arxiv.org/abs/2202.12387, algorithm 1). With the mean over
anchor i's negatives in the batch, of weights w,

    g_i = Σ_j w_ij e^{s_ij/τ} / Σ_j w_ij,        u_i ← g_i at the first visit,
                                                 u_i ← (1 − γ) u_i + γ g_i afterwards,

the gradient is that of −s⁺ + log(mean over the whole data set), with u_i in place of that mean:

    −∇s⁺/τ + ∇g_i/u_i = −∇s⁺/τ + (g_i/u_i) ∇ log Σ_j w_ij e^{s_ij/τ}.

The value is −s⁺/τ + log u_i + log Σ_j w_ij, which compares with that of ``decoupled()``.

What differs: each view of a sample has a u of its own, because each is an anchor with a mean of
its own (the paper has one u for both views); log u is kept, not u, so that no temperature
overflows; first visits are told sample by sample (the published code looks at the batch's sum,
so a partly new batch starts from 0); u is gathered over the ranks and saved in checkpoints; the
temperature stays the host's. Several positives are averaged. An evaluation, whose samples may be
of another data set, has no u: it is ``decoupled()``.

Estimator: ``"partition"``.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor

from negplug.contract.batch import ContrastiveBatch
from negplug.contract.hookspecs import ObjectiveSpec, hookimpl
from negplug.contract.inputs import check_integer, check_number
from negplug.contract.negatives import Negatives
from negplug.contract.objective import Objective
from negplug.contract.sample_table import (
    SampleTable,
    check_indexes,
    check_samples,
    room_for,
    views_of,
)
from negplug.contract.state import Stateful
from negplug.kernels.late import places
from negplug.objectives.logits import log_number, negative_logsumexp, positive_logits


class SogCLR(Stateful, Objective):
    """The global contrastive loss by a moving average per sample and view.

    Args:
        gamma: γ in (0, 1], the share of the present batch in the average. 1 keeps nothing of the
            past and is ``decoupled()``.
        size: Number of samples in the data set; None takes what the run says, if it does.

    Raises:
        TypeError: If ``gamma`` is no number, or ``size`` no integer.
        ValueError: If ``gamma`` is not in (0, 1], or ``size`` < 1.
    """

    wants_indexes = True
    expression = "sogclr()"
    samples: int

    def __init__(self, gamma: float = 0.9, size: int | None = None) -> None:
        super().__init__()
        check_number("sogclr", "gamma", gamma, -math.inf, math.inf)
        if not 0 < gamma <= 1:
            raise ValueError(f"sogclr: gamma must be in (0, 1], got {gamma}")
        self.gamma = float(gamma)
        self.size = None if size is None else check_integer("sogclr", "size", size, 1)
        self.averages = SampleTable(log_u=-torch.inf)
        self.add_state("samples", default=0)
        given = "" if size is None else f", size={size}"
        self.expression = f"sogclr(gamma={self.gamma!r}{given})"

    def forward(
        self, batch: ContrastiveBatch, negatives: Sequence[Negatives], temperature: float
    ) -> Tensor:
        """Return the loss per anchor, ``[N]``.

        Raises:
            ValueError: If data set indexes are unknown or beyond the data set.
        """
        self.check_partition(negatives)
        negative = negative_logsumexp(batch, negatives, temperature)
        number = log_number(batch, negatives)
        present = batch.positives >= 0
        positives = present.sum(1)
        pull = torch.where(present, positive_logits(batch, temperature), 0.0).sum(1)
        nothing = (positives == 0) | (negative == -torch.inf)
        # A finite stand-in for anchors that pay nothing, so that no gradient becomes NaN.
        finite = torch.where(nothing, 0.0, negative)
        mean = (finite - number.masked_fill(nothing, 0.0)).detach()
        average = self._average(batch, mean, nothing) if batch.training else mean
        push = (mean - average).exp() * finite
        value = (average - mean + finite).detach()
        loss = value + (push - push.detach()) - pull / positives.clamp(min=1)
        return torch.where(nothing, 0.0 * batch.anchors.embeddings.sum(1), loss)

    @torch.no_grad()
    def _average(self, batch: ContrastiveBatch, mean: Tensor, nothing: Tensor) -> Tensor:
        """Return log u of each anchor, ``[N]``, this step included; every rank's is held back."""
        indexes = batch.anchors.indexes
        if indexes is None:
            indexes = check_indexes("sogclr", batch, None, self.size)
        views = views_of(batch, indexes)
        if self.averages.log_u.device != mean.device:
            self.to(mean.device)
        past = self.averages.read(indexes.clamp(min=0), views)["log_u"].to(mean)
        average = past + math.log1p(-self.gamma) if self.gamma < 1 else past - torch.inf
        average = torch.logaddexp(average, mean + math.log(self.gamma))
        average = average.where(past > -torch.inf, mean)
        kept, names = batch.of_all_ranks(average, torch.stack([indexes, views, (~nothing).long()]))
        check_indexes("sogclr", batch, names[0], self.size)
        samples = self.size or batch.context.dataset.size
        check_samples("sogclr", self.samples, samples)
        room = room_for(names[0], names[1], batch.anchors.num_views, samples)
        self.hold({"log_u": kept, "names": names, "samples": samples, "room": room})
        return average

    def update(self, seen: dict[str, Any]) -> None:
        """Take in the averages of a step."""
        indexes, views, has_negatives = seen["names"]
        log_u, kept = seen["log_u"], has_negatives.bool()
        room = seen["room"]()
        rows = places(kept)
        if rows is None:
            # Anchors without negatives write what is there, and before the others, who may be of
            # the same sample. An index that a check has yet to refuse must not write elsewhere.
            indexes = indexes.clamp(0, room[1] - 1)
            before = self.averages.read(indexes, views)["log_u"].to(log_u)
            log_u = log_u.where(kept, before)
            rows = has_negatives.argsort(stable=True)
        self.averages.write(indexes[rows], views[rows], room, log_u=log_u[rows])
        self.samples = seen["samples"] or self.samples

    def settings(self) -> dict[str, Any]:
        """Return γ."""
        return {"gamma": self.gamma}


@hookimpl
def negplug_objectives() -> Iterable[ObjectiveSpec]:
    """Offer ``sogclr``."""
    yield ObjectiveSpec(
        "sogclr",
        SogCLR,
        "a moving average of each sample's denominator",
        "Yuan et al. 2022, arXiv:2202.12387",
    )
