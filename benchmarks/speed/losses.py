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
from devices import FLOAT32, in_precision
from harness import Setup, Step, installed
from torch import Tensor
from torch.nn.functional import cross_entropy, normalize
from views import correlated_views

import negplug

Loss = Callable[[Tensor, Tensor], Tensor]
Build = Callable[[float], Loss]
"""Temperature → loss."""

TEMPERATURE = 0.1
DIMENSION = 128
CONFIG = {"d": DIMENSION, "dtype": FLOAT32, "temperature": TEMPERATURE}

LIGHTLY = "Lightly NTXentLoss"
SOLO = "solo-learn simclr_loss_func"
TREATED = "Lightly NTXentLoss, treated: in_batch()"
PLAIN = "cross-entropy over all logits"
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
            indexes = torch.arange(len(z0), device=z0.device).repeat(2)
            loss: Tensor = simclr_loss_func(torch.cat((z0, z1)), indexes, temperature)
            return loss

        return by_index

    def by_view(z0: Tensor, z1: Tensor) -> Tensor:
        loss: Tensor = simclr_loss_func(z0, z1, temperature=temperature)
        return loss

    return by_view


def plain(temperature: float) -> Loss:
    """The loss as one would write it down."""

    def loss(z0: Tensor, z1: Tensor) -> Tensor:
        z = normalize(torch.cat((z0, z1)), dim=1)
        logits = (z @ z.T / temperature).fill_diagonal_(-torch.inf)
        return cross_entropy(logits, torch.arange(len(z), device=z.device).roll(len(z0)))

    return loss


def ours(
    temperature: float, sampler: str = "in_batch()", objective: str = "infonce()"
) -> negplug.ContrastiveLoss:
    """Our loss on its own, with the same draws in every process."""
    return negplug.ContrastiveLoss(sampler, objective, temperature=temperature, seed=0)


def hosts() -> dict[str, Build]:
    """Return temperature → loss for the hosts' softmax losses that can be imported, and plainly."""
    criterion = "NTXentLoss"
    return installed(
        {
            LIGHTLY: ("lightly", functools.partial(lightly, criterion=criterion)),
            SOLO: ("solo", solo),
            TREATED: ("lightly", functools.partial(lightly, criterion=criterion, treated=True)),
            PLAIN: ("torch", plain),
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


def on_device(loss: Loss, device: torch.device) -> Loss:
    """Return a loss whose buffers, if it has any, lie on the device."""
    return loss.to(device) if isinstance(loss, torch.nn.Module) else loss


def forward_backward(
    build: Build, batch_size: int, device: torch.device, precision: str = FLOAT32
) -> Step:
    """Return forward and backward pass of a loss, its inputs allocated.

    Args:
        build: Temperature → loss.
        batch_size: B.
        device: Where the inputs lie.
        precision: See :func:`devices.precisions`.
    """
    loss = on_device(build(TEMPERATURE), device)
    views = correlated_views(batch_size, DIMENSION, device=device)

    def step() -> None:
        for view in views:
            view.grad = None
        with in_precision(precision, device):
            value = loss(*views)
        torch.autograd.backward(value)

    return step


def sampled(sampler: str, precision: str = FLOAT32) -> Setup:
    """Return forward and backward pass of the softmax loss with ``sampler``, as a setup."""
    build = functools.partial(ours, sampler=sampler)
    return functools.partial(forward_backward, build, precision=precision)


def by_backend(name: str, setup: Setup, device: torch.device) -> dict[str, Setup]:
    """Return ``setup`` under each of the device's backends that is installed, named after it."""
    return installed(
        {
            f"{name}, {backend}": (module, functools.partial(under, backend, setup))
            for backend, module in BACKENDS[device.type].items()
        }
    )
