"""The losses under comparison: (z0, z1) → scalar, built anew by each call.

A host's loss is imported when it is built, so that one host's absence leaves the others.
"""

from __future__ import annotations

import contextlib
import functools
import inspect
import io
import warnings
from collections.abc import Callable

import torch
from backends import BACKENDS, under
from harness import Setup, Step, installed
from torch import Tensor
from views import correlated_views

import negplug

Loss = Callable[[Tensor, Tensor], Tensor]
Build = Callable[[float], Loss]
"""Temperature → loss."""

TEMPERATURE = 0.1
DIMENSION = 128
CONFIG = {"d": DIMENSION, "dtype": "float32", "temperature": TEMPERATURE}

LIGHTLY = "Lightly NTXentLoss"
SOLO = "solo-learn simclr_loss_func"
TREATED = "Lightly NTXentLoss, treated: in_batch()"
OURS = "in_batch()"
LIGHTLY_DCL = "Lightly DCLLoss"
TREATED_DCL = "Lightly DCLLoss, treated: in_batch()"
OURS_DCL = "in_batch() with decoupled()"


def lightly(temperature: float, criterion: str, treated: bool = False) -> Loss:
    """A criterion of Lightly, negatives of the same process.

    Args:
        temperature: τ.
        criterion: Name of its class.
        treated: Whether its negatives are handed to negplug.
    """
    from lightly import loss as criteria

    loss = getattr(criteria, criterion)(temperature=temperature)
    if treated:
        negplug.inject(loss, "in_batch()")
    built: Loss = loss
    return built


def solo(temperature: float) -> Loss:
    """solo-learn's loss, in either of its two signatures."""
    # What 1.0.2 imports undoes filters of warnings, and has dozens to tell.
    with warnings.catch_warnings(), contextlib.redirect_stderr(io.StringIO()):
        from solo.losses.simclr import simclr_loss_func

    if "indexes" in inspect.signature(simclr_loss_func).parameters:
        # main: all views in one tensor, and who belongs to whom.
        def by_index(z0: Tensor, z1: Tensor) -> Tensor:
            indexes = torch.arange(len(z0)).repeat(2)
            loss: Tensor = simclr_loss_func(torch.cat((z0, z1)), indexes, temperature)
            return loss

        return by_index

    def by_view(z0: Tensor, z1: Tensor) -> Tensor:
        loss: Tensor = simclr_loss_func(z0, z1, temperature=temperature)
        return loss

    return by_view


def ours(
    temperature: float, sampler: str = "in_batch()", objective: str = "infonce()"
) -> negplug.ContrastiveLoss:
    """Our loss on its own, with the same draws in every process."""
    return negplug.ContrastiveLoss(sampler, objective, temperature=temperature, seed=0)


def hosts() -> dict[str, Build]:
    """Return temperature → loss for the hosts' softmax losses that can be imported."""
    criterion = "NTXentLoss"
    return installed(
        {
            LIGHTLY: ("lightly", functools.partial(lightly, criterion=criterion)),
            SOLO: ("solo", solo),
            TREATED: ("lightly", functools.partial(lightly, criterion=criterion, treated=True)),
        }
    )


def decoupled_losses() -> dict[str, Build]:
    """Return the same for the decoupled loss, ours included; solo-learn has none."""
    criterion = "DCLLoss"
    return installed(
        {
            LIGHTLY_DCL: ("lightly", functools.partial(lightly, criterion=criterion)),
            TREATED_DCL: ("lightly", functools.partial(lightly, criterion=criterion, treated=True)),
            OURS_DCL: ("negplug", functools.partial(ours, objective="decoupled()")),
        }
    )


def forward_backward(build: Build, batch_size: int) -> Step:
    """Return forward and backward pass of a loss, its inputs allocated.

    Args:
        build: Temperature → loss.
        batch_size: B.
    """
    loss = build(TEMPERATURE)
    views = correlated_views(batch_size, DIMENSION)

    def step() -> None:
        for view in views:
            view.grad = None
        torch.autograd.backward(loss(*views))

    return step


def sampled(sampler: str) -> Setup:
    """Return forward and backward pass of the softmax loss with ``sampler``, as a setup."""
    return functools.partial(forward_backward, functools.partial(ours, sampler=sampler))


def by_backend(name: str, setup: Setup) -> dict[str, Setup]:
    """Return ``setup`` under each backend that is installed, named after it too."""
    return installed(
        {
            f"{name}, {backend}": (module, functools.partial(under, backend, setup))
            for backend, module in BACKENDS.items()
        }
    )
