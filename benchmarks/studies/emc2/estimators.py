"""The estimators of the global loss's gradient that both experiments compare, by name.

An estimator is called like ``negplug.ContrastiveLoss``: ``(z0, z1, indexes=…, encode=…)``, and
its gradient is what training would use. All but two are expressions of negplug. The objective is
``decoupled()`` wherever negatives estimate the denominator: the global loss has no positive in
its own, so that InfoNCE would err by that too. ``SimCLR`` is InfoNCE over the batch, as published.
"""

from __future__ import annotations

import functools
from collections.abc import Callable

import torch
from paper_form import Encode, PaperForm
from torch import Tensor, nn

from negplug import ContrastiveLoss

Build = Callable[[int, float, int], nn.Module]
"""Number of images, temperature, seed → estimator."""

SIMCLR = "SimCLR"
ORACLE = "oracle"
PAPER = "EMC², paper form"
PAPER_SHARED = "EMC², paper form, one chain per image"
PAPER_INDEPENDENT = "EMC², paper form, independent proposals"


class _Expression(nn.Module):
    """A negplug loss; samplers that do not encode anything are called without ``encode``."""

    def __init__(self, sampler: str, objective: str, temperature: float, seed: int) -> None:
        super().__init__()
        self.loss = ContrastiveLoss(sampler, objective, temperature=temperature, seed=seed)
        self.encodes = "recompute" in sampler

    def forward(self, z0: Tensor, z1: Tensor, *, indexes: Tensor, encode: Encode) -> Tensor:
        further = {"encode": encode} if self.encodes else {}
        loss: Tensor = self.loss(z0, z1, indexes=indexes, **further)
        return loss


class Oracle(nn.Module):
    """One negative per anchor, drawn from the exact softmax over the whole data set.

    Unbiased by construction: what is left is the variance of mini-batches and of one draw. It
    encodes the whole data set in each step.

    Args:
        size: n, number of images.
        temperature: τ.
        seed: Of the draws.
    """

    def __init__(self, size: int, temperature: float, seed: int) -> None:
        super().__init__()
        self.size = size
        self.temperature = temperature
        self.generator = torch.Generator().manual_seed(seed)

    def forward(self, z0: Tensor, z1: Tensor, *, indexes: Tensor, encode: Encode) -> Tensor:
        """Return a loss whose gradient is the estimate."""
        anchors = nn.functional.normalize(torch.cat([z0, z1]), dim=1)
        everyone = torch.cat(encode(torch.arange(self.size)))
        pool = nn.functional.normalize(everyone, dim=1)
        similarities = anchors @ pool.T / self.temperature
        own = indexes.repeat(2)[:, None] == torch.arange(self.size).repeat(2)
        posterior = similarities.detach().masked_fill(own, -torch.inf).softmax(dim=1)
        drawn = torch.multinomial(posterior, 1, generator=self.generator)
        positive = (anchors * anchors.roll(len(indexes), dims=0)).sum(1) / self.temperature
        return (similarities.gather(1, drawn)[:, 0] - positive).mean()


def _expression(
    sampler: str, objective: str, size: int, temperature: float, seed: int
) -> nn.Module:
    return _Expression(sampler.format(size=size, views=2 * size), objective, temperature, seed)


def _paper(size: int, temperature: float, seed: int, **form: bool) -> nn.Module:
    return PaperForm(size, temperature, seed=seed, **form)


_EXPRESSIONS = {
    SIMCLR: ("in_batch()", "infonce()"),
    "in_batch()": ("in_batch()", "decoupled()"),
    "uniform(num_negatives=4)": ("uniform(num_negatives=4)", "decoupled()"),
    # As large as the data set: its last epoch's views.
    "queue(size=2n)": ("queue(size={views})", "decoupled()"),
    "memory_bank(momentum=0)": ("memory_bank(momentum=0, size={size})", "decoupled()"),
    "SogCLR": ("in_batch()", "sogclr(gamma=0.9)"),
    # The negative cache: exact draws over past embeddings of the whole data set.
    "gumbel_max, queue(size=2n)": (
        "gumbel_max(num_negatives=1, source=queue(size={views}))",
        "infonce()",
    ),
    "emc2, cached": ("emc2(out_of_batch='cached')", "infonce()"),
    "emc2, recompute": ("emc2(out_of_batch='recompute')", "infonce()"),
    "emc2, drop": ("emc2(out_of_batch='drop')", "infonce()"),
    "isir, cached": ("isir(out_of_batch='cached')", "infonce()"),
    "isir, recompute": ("isir(out_of_batch='recompute')", "infonce()"),
    "isir, drop": ("isir(out_of_batch='drop')", "infonce()"),
}
"""Name → sampler and objective."""

ESTIMATORS: dict[str, Build] = {
    **{name: functools.partial(_expression, *pair) for name, pair in _EXPRESSIONS.items()},
    PAPER: _paper,
    PAPER_SHARED: functools.partial(_paper, shared=True),
    PAPER_INDEPENDENT: functools.partial(_paper, independent=True),
    ORACLE: Oracle,
}
"""Name → estimator, in the order of the tables."""


def described(name: str) -> str:
    """Return the sampler and objective of an estimator, or its name if it has none."""
    return " with ".join(_EXPRESSIONS.get(name, (name,)))


def chosen(names: list[str] | None, default: tuple[str, ...]) -> tuple[str, ...]:
    """Return the estimators that were asked for, or the default ones.

    Raises:
        ValueError: If there is no estimator of a name.
    """
    for name in names or ():
        if name not in ESTIMATORS:
            raise ValueError(f"there is no estimator {name!r}; choose from {', '.join(ESTIMATORS)}")
    return tuple(names or default)
