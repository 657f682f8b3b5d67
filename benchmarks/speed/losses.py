"""The losses under comparison: (z0, z1) → scalar, built anew by each call.

A host's loss is imported when it is built, so that one host's absence leaves the others.
"""

from __future__ import annotations

import contextlib
import importlib.util
import inspect
import io
import warnings
from collections.abc import Callable

import torch
from torch import Tensor

import negplug

Loss = Callable[[Tensor, Tensor], Tensor]
Build = Callable[[float], Loss]
"""Temperature → loss."""

LIGHTLY = "Lightly NTXentLoss"
SOLO = "solo-learn simclr_loss_func"
TREATED = "Lightly NTXentLoss, treated: in_batch()"
OURS = "in_batch()"


def lightly(temperature: float) -> Loss:
    """Lightly's loss, negatives of the same process."""
    from lightly.loss import NTXentLoss

    loss: Loss = NTXentLoss(temperature=temperature)
    return loss


def lightly_treated(temperature: float) -> Loss:
    """Lightly's loss with its negatives handed to negplug."""
    from lightly.loss import NTXentLoss

    criterion = NTXentLoss(temperature=temperature)
    negplug.inject(criterion, "in_batch()")
    loss: Loss = criterion
    return loss


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


def ours(temperature: float, sampler: str = "in_batch()") -> Loss:
    """Our loss on its own."""
    return negplug.ContrastiveLoss(sampler, temperature=temperature)


def full_losses() -> dict[str, Build]:
    """Return temperature → loss for every importable loss over all negatives of the batch.

    What cannot be imported is named on standard output.
    """
    hosts = {
        LIGHTLY: ("lightly", lightly),
        SOLO: ("solo", solo),
        TREATED: ("lightly", lightly_treated),
    }
    known: dict[str, Build] = {}
    for name, (module, build) in hosts.items():
        if importlib.util.find_spec(module) is None:
            print(f"without {name}: {module} is not installed")
        else:
            known[name] = build
    return known | {OURS: ours}
