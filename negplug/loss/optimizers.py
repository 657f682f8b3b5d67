"""Which step of an optimizer is running, for closures that it calls again (LBFGS, SAM).

Torch tells of every optimizer's step through two global hooks. A step that an exception ends is
not told of; whether one is running is then looked up on the stack.
"""

from __future__ import annotations

import gc
import sys
import weakref
from collections.abc import Iterator
from typing import Any, NamedTuple

from torch import Tensor
from torch.optim import Optimizer
from torch.optim.optimizer import (
    register_optimizer_step_post_hook,
    register_optimizer_step_pre_hook,
)


class Place(NamedTuple):
    """Where among the steps of all optimizers something happens.

    Attributes:
        begun: Number of optimizer steps begun so far.
        inside: Whether one of them is running.
    """

    begun: int
    inside: bool

    def again(self, before: Place) -> bool:
        """Return whether a closure runs here that has computed ``before``, and does so again.

        Either the running step has called it already, or what it repeats was computed just ahead
        of that step, as SAM's first pass may be.
        """
        ahead = not before.inside and self.begun == before.begun + 1
        return self.inside and (self == before or ahead)


_begun = 0
_running: list[int] = []


def place() -> Place:
    """Return where we are."""
    if _running and not _on_the_stack():
        _running.clear()
    return Place(_begun, bool(_running))


def finished() -> int:
    """Return a number that rises with every optimizer step that ends."""
    return _begun - len(_running)


def alive() -> weakref.WeakSet[Optimizer]:
    """Return all optimizers that there are. It looks through all objects of the process.

    One whose construction has failed has no parameters.
    """
    found = (each for each in gc.get_objects() if issubclass(type(each), Optimizer))
    return weakref.WeakSet(each for each in found if "param_groups" in vars(each))


def parameters(optimizer: Optimizer) -> Iterator[Tensor]:
    """Yield the parameters of every group of an optimizer."""
    return (p for group in optimizer.param_groups for p in group["params"])


def _on_the_stack() -> bool:
    frame = sys._getframe()
    while frame is not None:
        # The second is torch's wrapper around every optimizer's step.
        if frame.f_code.co_name in ("step", "wrapper"):
            if isinstance(frame.f_locals.get("self"), Optimizer):
                return True
        frame = frame.f_back  # type: ignore[assignment]
    return False


def _begin(optimizer: Any, *_: Any) -> None:
    global _begun
    _begun += 1
    _running.append(id(optimizer))


def _end(optimizer: Any, *_: Any) -> None:
    # With it those inside that an exception has ended.
    while _running and _running.pop() != id(optimizer):
        pass


register_optimizer_step_pre_hook(_begin)
register_optimizer_step_post_hook(_end)
