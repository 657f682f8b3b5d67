"""``sogclr()``: a moving average of each sample's own denominator.

Source: Yuan et al. 2022, "Provable stochastic optimization for global contrastive learning: small
batch does not harm performance" (https://arxiv.org/abs/2202.12387, algorithm 1). With the mean over
anchor i's negatives in the batch, of weights w,

    g_i = Σ_j w_ij e^{s_ij/τ} / Σ_j w_ij,        u_i ← g_i at the first visit,
                                                 u_i ← (1 − γ) u_i + γ g_i afterwards,

the gradient is that of −s⁺ + log(mean over the whole data set), with u_i in place of that mean:

    −∇s⁺/τ + ∇g_i/u_i = −∇s⁺/τ + (g_i/u_i) ∇ log Σ_j w_ij e^{s_ij/τ}.

With ``decay_steps`` γ falls from 1 to its end by a cosine (Wei et al. 2024, "FastCLIP",
https://arxiv.org/abs/2407.01445, section 4): early averages are of parameters long gone. In step t

    γ_t = γ + (1 − γ) (1 + cos(π min(t/T, 1))) / 2.

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
from typing import Any, NamedTuple

import torch
from torch import Tensor

from negplug.contract.batch import ContrastiveBatch
from negplug.contract.hookspecs import ObjectiveSpec, hookimpl
from negplug.contract.inputs import check_integer, check_number
from negplug.contract.negatives import Negatives
from negplug.contract.objective import Objective
from negplug.contract.sample_table import (
    Room,
    SampleTable,
    check_indexes,
    check_samples,
    views_of,
)
from negplug.contract.state import Stateful
from negplug.kernels.late import places
from negplug.objectives.logits import log_number, negative_logsumexp, positive_logits


class Seen(NamedTuple):
    """The samples of a batch's anchors.

    Attributes:
        indexes: ``[N]`` int64, the data set index of each.
        views: ``[N]`` int64, the view of each.
        past: What the table holds of each, by name, ``[N]``.
    """

    indexes: Tensor
    views: Tensor
    past: dict[str, Tensor]


class SogCLR(Stateful, Objective):
    """The global contrastive loss by a moving average per sample and view.

    Args:
        gamma: γ in (0, 1], the share of the present batch in the average. 1 keeps nothing of the
            past and is ``decoupled()``.
        size: Number of samples, which may be more than the data set says that it has, where each
            pass shows others; None takes what the run says, if it does.
        decay_steps: T ≥ 1, the training steps in which γ falls from 1 to ``gamma``; None for a
            constant γ.

    Raises:
        TypeError: If ``gamma`` is no number, or ``size`` or ``decay_steps`` no integer.
        ValueError: If ``gamma`` is not in (0, 1], or ``size`` or ``decay_steps`` < 1.
    """

    wants_indexes = True
    expression = "sogclr()"
    name = "sogclr"
    samples: int

    def __init__(
        self, gamma: float = 0.9, size: int | None = None, decay_steps: int | None = None
    ) -> None:
        super().__init__()
        check_number(self.name, "gamma", gamma, -math.inf, math.inf)
        if not 0 < gamma <= 1:
            raise ValueError(f"{self.name}: gamma must be in (0, 1], got {gamma}")
        self.gamma = float(gamma)
        self.size = None if size is None else check_integer(self.name, "size", size, 1)
        self.decay_steps = decay_steps
        if decay_steps is not None:
            check_integer(self.name, "decay_steps", decay_steps, 1)
        self.averages = SampleTable(log_u=-torch.inf)
        self.add_state("samples", default=0)
        given = {"size": size, "decay_steps": decay_steps}
        more = "".join(f", {key}={value}" for key, value in given.items() if value is not None)
        self.expression = f"{self.name}(gamma={self.gamma!r}{more})"

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
        average = mean
        if batch.training:
            seen = self.seen(batch)
            average = self.averaged(batch, seen.past["log_u"].to(mean), mean)
            self.remember(batch, seen, nothing, log_u=average)
        push = (mean - average).exp() * finite
        value = (average - mean + finite).detach()
        loss = value + (push - push.detach()) - pull / positives.clamp(min=1)
        return torch.where(nothing, 0.0 * batch.anchors.embeddings.sum(1), loss)

    def share(self, batch: ContrastiveBatch) -> float:
        """Return γ of the batch's step."""
        step = batch.context.draws.step
        if self.decay_steps is None or not isinstance(step, int):
            return self.gamma
        falling = (1 + math.cos(math.pi * min(step / self.decay_steps, 1.0))) / 2
        return self.gamma + (1 - self.gamma) * falling

    @torch.no_grad()
    def seen(self, batch: ContrastiveBatch) -> Seen:
        """Return which samples and views the anchors are, and what is kept of them."""
        indexes = batch.anchors.indexes
        if indexes is None:
            indexes = check_indexes(self.name, batch, None, self.size)
        views = views_of(batch, indexes)
        if self.averages.log_u.device != batch.anchors.embeddings.device:
            self.to(batch.anchors.embeddings.device)
        return Seen(indexes, views, self.averages.read(indexes.clamp(min=0), views))

    @torch.no_grad()
    def averaged(self, batch: ContrastiveBatch, past: Tensor, mean: Tensor) -> Tensor:
        """Return log u of each anchor, ``[N]``, this step included."""
        gamma = self.share(batch)
        average = past + math.log1p(-gamma) if gamma < 1 else past - torch.inf
        average = torch.logaddexp(average, mean + math.log(gamma))
        return average.where(past > -torch.inf, mean)

    @torch.no_grad()
    def remember(
        self, batch: ContrastiveBatch, seen: Seen, nothing: Tensor, **values: Tensor
    ) -> None:
        """Hold values ``[N]`` of the anchors of every rank back until the step is over.

        Args:
            batch: The batch.
            seen: Whose they are.
            nothing: ``[N]`` bool, True for anchors that leave none.
            **values: Every value of the table by its name.
        """
        names = torch.stack([seen.indexes, seen.views, (~nothing).long()])
        kept, names = batch.of_all_ranks(torch.stack(list(values.values()), dim=1), names)
        check_indexes(self.name, batch, names[0], self.size)
        samples = self.size or batch.context.dataset.size
        check_samples(self.name, self.samples, samples)
        room = Room(names[0], names[1], batch.anchors.num_views, samples)
        held = dict(zip(values, kept.unbind(1), strict=True))
        self.hold({**held, "names": names, "samples": samples, "room": room})

    def update(self, seen: dict[str, Any]) -> None:
        """Take in what a step has left."""
        indexes, views, has_negatives = seen["names"]
        kept, room = has_negatives.bool(), seen["room"]()
        values = {name: seen[name] for name in self.averages.names if name in seen}
        rows = places(kept)
        if rows is None:
            # Anchors without negatives write what is there, and before the others, who may be of
            # the same sample. An index that a check has yet to refuse must not write elsewhere.
            indexes = indexes.clamp(0, room[1] - 1)
            before = self.averages.read(indexes, views)
            values = {name: v.where(kept, before[name].to(v)) for name, v in values.items()}
            rows = has_negatives.argsort(stable=True)
        found = {name: value[rows] for name, value in values.items()}
        self.averages.write(indexes[rows], views[rows], room, **found)
        self.samples = seen["samples"] or self.samples

    def settings(self) -> dict[str, Any]:
        """Return γ, and in how many steps it falls."""
        decay = {} if self.decay_steps is None else {"decay_steps": self.decay_steps}
        return {"gamma": self.gamma, **decay}


@hookimpl
def negplug_objectives() -> Iterable[ObjectiveSpec]:
    """Offer ``sogclr``."""
    yield ObjectiveSpec(
        "sogclr",
        SogCLR,
        "a moving average of each sample's denominator",
        "Yuan et al. 2022, arXiv:2202.12387",
    )
