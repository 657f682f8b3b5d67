"""The first call of a loss that a watch treats: the host's own loss has run in it before."""

from __future__ import annotations

import gc
import itertools
import weakref
from collections.abc import Callable, Collection, Iterable
from typing import Any

import torch
from torch import Tensor

from negplug.hosts.nested import tensors_in
from negplug.hosts.training import Training
from negplug.hosts.treated_loss import TreatedLoss
from negplug.hosts.untreated import UntreatedLossError
from negplug.kernels.torch_private import backward_runs
from negplug.loss import optimizers


class FirstCall:
    """The first call of a loss, and whether another followed its step.

    It outlives the loss, so that a loss that is made anew in every step is noticed, and keeps
    neither the loss nor its model alive.

    Args:
        treated: The loss.
        trained: The parameters that it trains.
    """

    def __init__(self, treated: TreatedLoss, trained: Iterable[Tensor]) -> None:
        self._treated = weakref.ref(treated, self._forget)
        self._tally = treated.tally
        self._training = Training(trained)
        self._calls_in_step: int | None = None
        self._finished = optimizers.finished()
        self._step = treated.loss.next_step
        self._given: list[Tensor] | None = []

    def is_repeated(self, own: Callable[[], Tensor]) -> bool:
        """Return whether the first call is computed again, in a backward pass.

        ``torch.utils.checkpoint`` insists that the same tensors are saved, the host's first.

        Args:
            own: The host's loss of what the present call is given; a partial of its function.
        """
        if self._given is None:
            return False
        if not self._given:
            self._given = [tensor.detach() for tensor in _tensors(own)]
            return False
        if backward_runs():
            return _alike(self._given, own)
        treated = self._treated()
        if treated is None or treated.loss.next_step > self._step:
            self._given = None
        return False

    def is_of_another_training(self, own: Callable[[], Tensor]) -> bool:
        """Return whether the present call trains another model, as the next fold does.

        Args:
            own: As of :meth:`is_repeated`.
        """
        return self._training.is_followed(_tensors(own))

    def _forget(self, _: object) -> None:
        self._given = None

    def end_step(self, _: Tensor) -> None:
        """Note that the step's backward pass has come."""
        self._calls_in_step = self._tally.calls

    def insist_on_another(self, named: str, trained: Iterable[Tensor]) -> None:
        """Insist that the loss was called in another step of its training than its first.

        A backward pass alone ends no step: each of several losses in a list may have its own.

        Args:
            named: The loss that takes its place, with the place of its call.
            trained: The parameters that it trains. If they are others, the training is another.

        Raises:
            UntreatedLossError: If it was not.
        """
        stepped = optimizers.finished() > self._finished
        if not stepped or self._calls_in_step != self._tally.calls:
            return
        if not self._training or self._training.trains_any(trained):
            raise UntreatedLossError(
                f"{named}, is made anew in every step, and with it goes what its sampler "
                f"remembers: make it once, before the loop"
            )

    def is_succeeded(self, trained: Iterable[Tensor]) -> bool:
        """Return whether the loss is gone, and one that trains the same takes its place.

        Args:
            trained: The parameters that the other one trains.
        """
        return self._treated() is None and self._training.trains_any(trained)


def free_name(name: str, taken: Collection[str]) -> str:
    """Return a name of a loss's own, from which the seed of its draws is made.

    A training draws alike whatever was trained before it in the process, and is gone.

    Args:
        name: What it is called if it is the only one.
        taken: The names of those that there are; weakly kept.
    """
    if name in taken:
        gc.collect()  # a treated loss is part of a cycle
    names = (f"{name}.{number}" if number else name for number in itertools.count())
    return next(each for each in names if each not in taken)


def _tensors(own: Any) -> list[Tensor]:
    return [*tensors_in((own.args, own.keywords))]


def _alike(tensors: list[Tensor], own: Any) -> bool:
    found = _tensors(own)
    return len(found) == len(tensors) and all(
        a.shape == b.shape and torch.allclose(a, b.detach(), rtol=1e-2, atol=1e-4)
        for a, b in zip(tensors, found, strict=True)
    )
