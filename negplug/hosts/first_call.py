"""The first call of a loss, which is treated behind it: that call has run the host's loss too."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from negplug.hosts.nested import tensors_in
from negplug.hosts.treated_loss import TreatedLoss
from negplug.kernels.torch_private import backward_runs
from negplug.loss import optimizers


class FirstCall:
    """The first call of a loss, and whether another followed its step.

    Args:
        treated: The loss.
    """

    def __init__(self, treated: TreatedLoss) -> None:
        self._treated = treated
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
        if self._treated.loss.next_step > self._step:
            self._given = None
        return False

    def end_step(self, _: Tensor) -> None:
        """Note that the step's backward pass has come."""
        self._calls_in_step = self._treated.calls

    @property
    def was_the_last(self) -> bool:
        """Whether the step is over and the loss was not called in another.

        A backward pass alone ends none: each of several losses in a list may have its own.
        """
        stepped = optimizers.finished() > self._finished
        return stepped and self._calls_in_step == self._treated.calls


def _tensors(own: Any) -> list[Tensor]:
    return [*tensors_in((own.args, own.keywords))]


def _alike(tensors: list[Tensor], own: Any) -> bool:
    found = _tensors(own)
    return len(found) == len(tensors) and all(
        a.shape == b.shape and torch.allclose(a, b.detach(), rtol=1e-2, atol=1e-4)
        for a, b in zip(tensors, found, strict=True)
    )
