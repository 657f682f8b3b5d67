"""Every sampler and every objective, as a user may choose it: a step of its loss on two views."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from harness import Step
from losses import DIMENSION, OURS, TEMPERATURE
from torch import Tensor
from views import correlated_views, known_samples

import negplug
from negplug import ContrastiveLoss, NegativeSampler
from negplug.samplers.filtered import Filtered

IMAGES = 4096
"""Samples of the data set; also the number of keys that a memory holds."""
CLASSES = 4
GROUP = 8
"""Samples of a group, a patient's, say."""

SAMPLERS = (
    OURS,
    'in_batch(views="cross")',
    'in_batch(views="same")',
    "gather()",
    "gather(ring=True)",
    "uniform(num_negatives=64)",
    "uniform(num_negatives=64, shared=True)",
    "queue(size=4096)",
    "queue(size=4096, num_negatives=64)",
    "memory_bank(size=4096)",
    "memory_bank(size=4096, num_negatives=64)",
    "hierarchical(in_batch(), queue(size=4096))",
    "schedule(in_batch(), hard(num_negatives=64), from_steps=(0, 1))",
    "stratified(num_negatives=64, same=0.25)",
    "hard(num_negatives=64)",
    "hard(num_negatives=64, skip=8)",
    'filtered(by="labels")',
    "filtered(similarity=0.3)",
    "filtered(absolute_margin=0.5)",
    "filtered(relative_margin=0.5)",
    'false_negatives(action="eliminate", threshold=0.2)',
    'false_negatives(action="attract", threshold=0.2)',
    "synthetic(num_mixed=64, num_hardest=64)",
    "synthetic(num_noisy=64, sigma=0.1)",
    "gumbel_max(num_negatives=64)",
    "emc2(size=4096)",
    "isir(size=4096)",
)
"""Expressions, each with ``infonce()``. No two samples here are more similar than some 0.3."""


def _groups(window: float | None = None) -> NegativeSampler:
    """Groups of samples that are neither negative nor positive; those of a window alone."""
    samples = torch.arange(IMAGES)
    groups = samples // GROUP
    places = groups if window is None else torch.stack((groups, samples % GROUP), 1)
    return Filtered(by="groups", file=places, window=window)


def _pairs() -> NegativeSampler:
    return Filtered(pairs=torch.arange(IMAGES).view(-1, 2))


def _guide() -> NegativeSampler:
    embeddings = torch.randn(IMAGES, DIMENSION, generator=torch.Generator().manual_seed(1))
    return Filtered(relative_margin=0.5, guide=embeddings)


WITH_TABLES: dict[str, Callable[[], NegativeSampler]] = {
    'filtered(by="groups", file=…)': _groups,
    'filtered(by="groups", file=…, window=1)': lambda: _groups(1),
    "filtered(pairs=…)": _pairs,
    "filtered(relative_margin=0.5, guide=…)": _guide,
}
"""What reads a table of a row per sample: how it is written → the sampler."""

OBJECTIVES = (
    "decoupled()",
    "debiased(tau_plus=0.1)",
    "debiased(tau_plus=0.1, beta=1.0)",
    "relic()",
    "sogclr(size=4096)",
    "isogclr(size=4096)",
    "sigmoid()",
    "sigmoid(learn=True)",
    "ifm()",
    "rince()",
)
"""Expressions, each with ``in_batch()``."""

_WITH = " with "


class Choice(NamedTuple):
    """What a row is measured of.

    Attributes:
        kind: Of the table's three parts: sampler, objective, two towers.
        name: How the choice is written.
    """

    kind: str
    name: str


def of_two_views() -> list[Choice]:
    """Return the samplers and the objectives."""
    samplers = [Choice("sampler", name) for name in (*SAMPLERS, *WITH_TABLES)]
    named = [f"{OURS}{_WITH}{objective}" for objective in OBJECTIVES]
    named.append(f"uniform(num_negatives=64){_WITH}relic()")
    return samplers + [Choice("objective", name) for name in named]


def loss_of(name: str) -> ContrastiveLoss:
    """Return the loss of a choice by its name."""
    sampler, _, objective = name.partition(_WITH)
    make = WITH_TABLES.get(sampler)
    built = negplug.make_sampler(sampler) if make is None else make()
    return ContrastiveLoss(built, objective or "infonce()", temperature=TEMPERATURE, seed=0)


def choice_step(name: str, batch_size: int, device: torch.device) -> Step:
    """Return forward and backward pass and update, with all memories full.

    Args:
        name: Of a choice of :func:`of_two_views`.
        batch_size: B.
        device: What computes.
    """
    loss = loss_of(name).to(device)
    views = correlated_views(batch_size, DIMENSION, device=device)
    known = known_samples(IMAGES, CLASSES, batch_size, device)
    return warmed(loss, lambda: loss(*views, **next(known)), views, batch_size)


def warmed(
    loss: ContrastiveLoss, call: Callable[[], Tensor], inputs: tuple[Tensor, ...], batch_size: int
) -> Step:
    """Return a step around a call of ``loss`` that was made until every sample was seen.

    Args:
        loss: Its parameters' gradients are computed too.
        call: Returns the loss of the inputs.
        inputs: Leaves that require gradients.
        batch_size: B.
    """
    leaves: list[Any] = [*inputs, *loss.parameters()]

    def step() -> None:
        for leaf in leaves:
            leaf.grad = None
        torch.autograd.backward(call())
        loss.end_step()

    with warnings.catch_warnings():
        # There is no encoder, whose training old keys could ruin; the smallest batch, which only
        # warms up, is short of a stratum.
        for message in ("the loss trains its keys", "all of them are used"):
            warnings.filterwarnings("ignore", f".*{message}")
        for _ in range(IMAGES // batch_size + 1):
            step()
    return step
