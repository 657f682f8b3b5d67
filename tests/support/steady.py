"""Training steps that are to wait for no device, by expression."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

SAMPLERS = [
    "in_batch()",
    "in_batch(views='cross')",
    "gather()",
    "queue(size=96)",
    "queue(size=96, num_negatives=5)",
    "memory_bank()",
    "memory_bank(size=64)",
    "memory_bank(num_negatives=5, size=64)",
    "uniform(num_negatives=5)",
    "uniform(num_negatives=5, shared=True)",
    "hard(num_negatives=5, skip=3)",
    "stratified(num_negatives=4)",
    "stratified(num_negatives=4, correction=True, source=queue(size=96))",
    "filtered(by='labels', similarity=0.9, relative_margin=0.05)",
    "false_negatives(top=3, threshold=0.2)",
    "false_negatives(top=4, threshold=0.1, source=hierarchical(in_batch(), queue(size=96)))",
    "hierarchical(in_batch(), queue(size=96))",
    "hierarchical(hard(num_negatives=3), uniform(num_negatives=5), memory_bank(size=64))",
    "synthetic(num_mixed=3, num_mixed_with_anchor=2, num_hardest=8, num_noisy=4, sigma=0.1)",
]
"""Samplers whose negatives estimate the denominator, as all objectives want it."""

DRAWING = [
    "gumbel_max(num_negatives=3)",
    "gumbel_max(num_negatives=3, source=queue(size=96))",
    *(
        f"{chain}(size=64, out_of_batch={option!r})"
        for chain in ("emc2", "isir")
        for option in ("cached", "drop")
    ),
    "isir()",
    "emc2(source=memory_bank())",
    "isir(size=64, out_of_batch='drop', source=memory_bank(size=64))",
]
"""Samplers that draw from the softmax."""

OBJECTIVES = ["infonce()", "decoupled()", "debiased(tau_plus=0.1)", "relic()", "sogclr()"]

OTHERS = ["sigmoid()", "ifm()", "rince()", "isogclr()", "sogclr(decay_steps=3)"]
"""Objectives that do with each kind of choice what those above do."""

KINDS = [
    "in_batch(views='cross')",
    "uniform(num_negatives=5)",
    "hierarchical(in_batch(), queue(size=96))",
    "synthetic(num_mixed=3, num_hardest=8)",
]
"""A sampler of each kind of choice."""


def pairs() -> list[tuple[str, str]]:
    """Return every sampler with every objective that takes it."""
    drawing = [(sampler, objective) for sampler in DRAWING for objective in OBJECTIVES[:2]]
    others = [(sampler, objective) for sampler in KINDS for objective in OTHERS]
    every = [(sampler, objective) for sampler in SAMPLERS for objective in OBJECTIVES]
    return every + others + drawing


def each() -> list[tuple[str, str]]:
    """Return every sampler with one objective, and every objective with each kind of choice.

    Of :func:`pairs` for where steps are slow: an objective sees a sampler's kind of choice alone.
    """
    samplers = [(sampler, "infonce()") for sampler in SAMPLERS + DRAWING]
    kinds = [*KINDS, "stratified(num_negatives=4, correction=True, source=queue(size=96))"]
    others = [(sampler, objective) for sampler in kinds for objective in OBJECTIVES[1:] + OTHERS]
    return samplers + others + [(DRAWING[0], "decoupled()"), ("isir()", "decoupled()")]


def batches(steps: int, size: int = 24) -> Iterator[tuple[Tensor, dict[str, Tensor]]]:
    """Yield two views of some samples, and what is known of them.

    Samples come again from step to step, and one is in the batch twice.
    """
    draw = torch.Generator().manual_seed(0)
    for _ in range(steps):
        z = torch.randn(2, size, 16, generator=draw).requires_grad_()
        indexes = torch.randperm(64, generator=draw)[:size]
        indexes[0] = indexes[1]
        yield z, {"indexes": indexes, "labels": indexes % 5}
