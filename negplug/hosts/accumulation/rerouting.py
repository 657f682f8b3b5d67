"""Reroutes the calls of losses while micro-batches are run."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from torch import Tensor

from negplug.hosts.treated_loss import TreatedLoss
from negplug.loss.contrastive import ContrastiveLoss

Loss = TreatedLoss | ContrastiveLoss
Route = Callable[[Any, functools.partial[Tensor]], Tensor]


@contextlib.contextmanager
def rerouted(losses: Iterable[Loss], route: Route) -> Iterator[None]:
    """Have ``route`` return what the losses return inside.

    Args:
        losses: Treated losses of a host, or losses that are given views.
        route: Is given the loss, and the call with its arguments.
    """
    with contextlib.ExitStack() as undo:
        for loss in losses:
            if isinstance(loss, TreatedLoss):
                loss.rerouted = route  # type: ignore[assignment]
                undo.callback(setattr, loss, "rerouted", None)
            else:
                own = vars(loss)
                own["forward"] = _Forward(loss, loss.forward, route)
                undo.callback(own.pop, "forward")
        yield


class _Forward:
    def __init__(self, loss: ContrastiveLoss, own: Callable[..., Tensor], route: Route) -> None:
        self._loss, self._own, self._route = loss, own, route

    def __call__(self, *args: Any, **kwargs: Any) -> Tensor:
        return self._route(self._loss, functools.partial(self._own, *args, **kwargs))
