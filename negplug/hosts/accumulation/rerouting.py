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

# The methods of a ContrastiveLoss whose arguments have rows.
_SPLIT = ("forward", "pairs")


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
                for name in _SPLIT:
                    own[name] = _Method(loss, getattr(loss, name), route)
                    undo.callback(own.pop, name)
                own["contrast"] = _refuse
                undo.callback(own.pop, "contrast")
        yield


class _Method:
    def __init__(self, loss: ContrastiveLoss, own: Callable[..., Tensor], route: Route) -> None:
        self._loss, self._own, self._route = loss, own, route

    def __call__(self, *args: Any, **kwargs: Any) -> Tensor:
        return self._route(self._loss, functools.partial(self._own, *args, **kwargs))


def _refuse(*_: Any, **__: Any) -> Tensor:
    raise ValueError(
        "accumulate: the step calls contrast() with a batch of its own, and micro-batches' cannot "
        "be joined; call the loss with views, or pairs(), or remove accumulate"
    )
