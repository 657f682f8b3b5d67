"""Contrastive losses that functions compute beside treated ones, named in the first steps."""

from __future__ import annotations

import weakref
from collections.abc import Collection, Mapping

from torch import Tensor, nn

from negplug.hosts.functions import FunctionWatch
from negplug.hosts.injection import Injection
from negplug.hosts.lookout import STEPS, say_functions
from negplug.hosts.treated_loss import TreatedLoss
from negplug.kernels.graph_marks import mark


class FunctionsBeside:
    """Looks at functions until one of the treated losses has had its first steps.

    Whichever that is, for another may have gone by then.

    Args:
        injections: The handles of the treated losses that there are, by name.
        ignore: Functions to leave alone.
    """

    def __init__(self, injections: Mapping[str, Injection], ignore: Collection[str]) -> None:
        self._injections, self._ignore = injections, ignore
        self._functions: FunctionWatch | None = None

    def follow(self, injection: Injection, treated: TreatedLoss) -> None:
        """Look on while a loss that is about to be treated has its first steps."""
        if not self._injections:
            self.stop()
            self._functions = FunctionWatch()
        if self._functions is not None:
            treated.watcher = self._after_treated
            weakref.finalize(injection, _after_gone, weakref.ref(self)).atexit = False

    def leave_to(self, module: nn.Module, output: Tensor) -> None:
        """Say nothing of functions that a module has computed its loss with."""
        if self._functions is not None:
            self._functions.leave_to(module)
            mark(output)

    def stop(self) -> None:
        """Look no longer."""
        if self._functions is not None:
            self._functions.stop()
            self._functions = None

    def _after_treated(self, treated: TreatedLoss, _: Tensor) -> None:
        if self._functions is not None:
            say_functions(self._functions, self._ignore, ", ".join(self._injections))
            if treated.loss.next_step >= STEPS:
                self.stop()
        if self._functions is None:
            treated.watcher = None

    def stop_if_alone(self) -> None:
        """Look no longer where no treated loss is left, whose steps would say when to stop."""
        if not list(self._injections.values()):
            self.stop()


def _after_gone(looking: weakref.ref[FunctionsBeside]) -> None:
    beside = looking()
    if beside is not None:
        beside.stop_if_alone()
