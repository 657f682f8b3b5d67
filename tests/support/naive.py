"""Naive references: one anchor at a time, in float64, straight from the formulas."""

from __future__ import annotations

import math

import torch
from device import DEVICE
from torch import Tensor


def simclr(views: list[Tensor], temperature: float, chosen: Tensor | None = None, c: float = 1.0):
    """Mean over all anchors of −log Σ_p e^{s_p} / (Σ_p e^{s_p} + c Σ_j e^{s_j}).

    Args:
        views: V tensors ``[B, d]``.
        temperature: τ.
        chosen: ``[N, M]`` columns of the negatives; all of them if None.
        c: Weight of each negative.
    """
    size = len(views[0])
    z = torch.cat(views)
    z = z / z.norm(dim=1, keepdim=True)
    losses = []
    for i in range(len(z)):
        positives = [k for k in range(len(z)) if k != i and k % size == i % size]
        if chosen is None:
            negatives = [k for k in range(len(z)) if k % size != i % size]
        else:
            negatives = chosen[i].tolist()
        pull = sum(torch.exp(z[i] @ z[k] / temperature) for k in positives)
        push = sum(torch.exp(z[i] @ z[k] / temperature) for k in negatives)
        losses.append(-torch.log(pull / (pull + c * push)))
    return torch.stack(losses).mean()


def supervised(z: Tensor, ids: Tensor, temperature: float, form: str) -> Tensor:
    """Mean over anchors that have a positive, for the three ways to combine positives."""
    z = z / z.norm(dim=1, keepdim=True)
    losses = []
    for i in range(len(z)):
        logits = z @ z[i] / temperature
        positives = [k for k in range(len(z)) if k != i and ids[k] == ids[i]]
        negatives = [k for k in range(len(z)) if ids[k] != ids[i]]
        if not positives:
            continue
        pull = sum(torch.exp(logits[k]) for k in positives)
        push = sum((torch.exp(logits[k]) for k in negatives), start=torch.zeros((), dtype=z.dtype))
        if form == "sum":
            losses.append(-torch.log(pull / (pull + push)))
        elif form == "mean":
            losses.append(
                -sum(logits[k] - torch.log(pull + push) for k in positives) / len(positives)
            )
        else:
            each = [
                torch.log(torch.exp(logits[k]) / (torch.exp(logits[k]) + push)) for k in positives
            ]
            losses.append(-sum(each) / len(positives))
    return torch.stack(losses).mean()


def embeddings(views: int, size: int, width: int = 16, seed: int = 0, spread: float = 1.0):
    """Views of ``size`` samples in float64 with gradient; small ``spread`` = similar views."""
    generator = torch.Generator().manual_seed(seed)
    base = torch.randn(size, width, dtype=torch.float64, generator=generator)
    noise = [
        torch.randn(size, width, dtype=torch.float64, generator=generator) for _ in range(views)
    ]
    return [(base + spread * n).to(DEVICE).requires_grad_() for n in noise]


def gradients(loss: Tensor, inputs: list[Tensor]) -> Tensor:
    """The gradients of ``loss``, concatenated."""
    return torch.cat([g.flatten() for g in torch.autograd.grad(loss, inputs, retain_graph=True)])


def relative(a: Tensor, b: Tensor) -> float:
    """‖a − b‖/‖b‖."""
    return float((a - b).norm() / b.norm())


def chi_square_bound(cells: int, confidence: float = 1 - 1e-6) -> float:
    """Upper bound of a χ² variable with ``cells − 1`` degrees of freedom."""
    from scipy.stats import chi2

    bound = float(chi2.ppf(confidence, cells - 1))
    assert math.isfinite(bound)
    return bound
