"""Two encoders' losses: ``ContrastiveLoss.pairs`` beside what CLIP and sentence-transformers have.

A host that is not installed is left out, and CLIP's loss is there as its paper writes it down too.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch
from choices import warmed
from harness import Setup, Step, installed
from losses import DIMENSION, TEMPERATURE
from torch import Tensor
from torch.nn.functional import cross_entropy, normalize
from views import correlated_views

from negplug import ContrastiveLoss, LearnedTemperature

CLIP = "CLIP's cross-entropy, as published"
OPEN_CLIP = "open_clip ClipLoss"
RANKING = "sentence-transformers MultipleNegativesRankingLoss"
HARD = 4
"""Given hard negatives of each query."""

TOWERS: dict[str, dict[str, Any]] = {
    "pairs, in_batch()": {},
    "pairs, in_batch(), a temperature that learns": {"learns": True},
    "pairs, uniform(num_negatives=32)": {"sampler": "uniform(num_negatives=32)"},
    "pairs, hard(num_negatives=32)": {"sampler": "hard(num_negatives=32)"},
    "pairs, queue(size=4096)": {"sampler": "queue(size=4096)"},
    "pairs, in_batch(), one direction": {"symmetric": False},
    f"pairs, in_batch(), one direction, {HARD} hard negatives each": {
        "symmetric": False,
        "hard": HARD,
    },
}
"""How a loss is called → what of it is not the default."""


def towers(batch_size: int, hard: int, device: torch.device) -> tuple[Tensor, ...]:
    """Return queries and documents ``[B, d]``, and hard negatives ``[B, M, d]`` if M > 0."""
    queries, documents = correlated_views(batch_size, DIMENSION, device=device)
    if not hard:
        return queries, documents
    generator = torch.Generator().manual_seed(2)
    others = torch.randn(batch_size, hard, DIMENSION, generator=generator)
    return queries, documents, others.to(device).requires_grad_()


def ours(name: str, batch_size: int, device: torch.device) -> Step:
    """Return forward and backward pass and update of a loss of :data:`TOWERS`."""
    given = TOWERS[name]
    temperature = LearnedTemperature(TEMPERATURE) if given.get("learns") else TEMPERATURE
    loss = ContrastiveLoss(given.get("sampler", "in_batch()"), temperature=temperature, seed=0)
    loss.to(device)
    inputs = towers(batch_size, given.get("hard", 0), device)
    call = functools.partial(loss.pairs, *inputs, symmetric=given.get("symmetric", True))
    return warmed(loss, call, inputs, batch_size)


def clip(queries: Tensor, documents: Tensor) -> Tensor:
    """Radford et al. 2021 (arXiv:2103.00020), figure 3."""
    logits = normalize(queries, dim=1) @ normalize(documents, dim=1).T / TEMPERATURE
    own = torch.arange(len(logits), device=logits.device)
    return (cross_entropy(logits, own) + cross_entropy(logits.T, own)) / 2


def open_clip(queries: Tensor, documents: Tensor) -> Tensor:
    """open_clip's, which wants rows of unit length."""
    from open_clip.loss import ClipLoss

    rows = normalize(queries, dim=1), normalize(documents, dim=1)
    loss: Tensor = ClipLoss()(*rows, logit_scale=1 / TEMPERATURE)
    return loss


def ranking(*rows: Tensor) -> Tensor:
    """sentence-transformers', of embeddings; it takes hard negatives as columns."""
    from sentence_transformers.losses import MultipleNegativesRankingLoss

    columns = [*rows[:2], *(column for others in rows[2:] for column in others.unbind(1))]
    criterion = MultipleNegativesRankingLoss(torch.nn.Identity(), scale=1 / TEMPERATURE)
    loss: Tensor = criterion.compute_loss_from_embeddings(columns, None)
    return loss


def published(
    loss: Callable[..., Tensor], hard: int, batch_size: int, device: torch.device
) -> Step:
    """Return forward and backward pass of a host's loss.

    Args:
        loss: (queries, documents, hard negatives if there are any) → scalar.
        hard: M hard negatives for each query.
        batch_size: B.
        device: What computes.
    """
    inputs = towers(batch_size, hard, device)

    def step() -> None:
        for each in inputs:
            each.grad = None
        torch.autograd.backward(loss(*inputs))

    return step


def of_two_towers() -> dict[str, Setup]:
    """Return all of them, those that are installed, by name."""
    hosts: dict[str, tuple[str, Setup]] = {
        CLIP: ("torch", functools.partial(published, clip, 0)),
        OPEN_CLIP: ("open_clip", functools.partial(published, open_clip, 0)),
        f"{RANKING}, one direction": (
            "sentence_transformers",
            functools.partial(published, ranking, 0),
        ),
        f"{RANKING}, one direction, {HARD} hard negatives each": (
            "sentence_transformers",
            functools.partial(published, ranking, HARD),
        ),
    }
    return installed(hosts) | {name: functools.partial(ours, name) for name in TOWERS}
