"""Whether a call of a loss is of another training than the calls before it.

A criterion may be made once for all folds, seeds or trials of a process. What its sampler
remembers is of one model, so it begins anew with another one. Two models may also be trained in
turns; so another training is one of parameters that no call before has reached, and of an
optimizer that was made since the first.
"""

from __future__ import annotations

import weakref
from collections.abc import Iterable

import torch
from torch import Tensor

from negplug.hosts.graph_parameters import nearest_parameter, parameters_of
from negplug.kernels.torch_private import backward_runs
from negplug.loss import optimizers


class Training:
    """The parameters that the calls of a loss have trained so far; keeps none of them alive.

    Args:
        trained: Those of the first call.
    """

    def __init__(self, trained: Iterable[Tensor]) -> None:
        self._trained: dict[int, weakref.ref[Tensor]] = {}
        self._add(trained)
        self._optimizers = optimizers.alive()

    def __bool__(self) -> bool:
        """Return whether any is known."""
        return bool(self._trained)

    def trains_any(self, parameters: Iterable[Tensor]) -> bool:
        """Return whether one of these parameters is among them."""
        return any(map(self._trains, parameters))

    def is_followed(self, given: Iterable[Tensor]) -> bool:
        """Return whether a call, of the tensors ``given``, is the first of another training.

        A call costs the way to the nearest parameter; what is done with one that is new costs
        more, and is done once.
        """
        if not self or backward_runs() or not torch.is_grad_enabled():
            return False
        given = list(given)
        nearest = nearest_parameter(given)
        if nearest is None or self._trains(nearest):
            return False
        trained = {nearest, *(each for tensor in given for each in parameters_of(tensor))}
        if not self.trains_any(trained):
            since = optimizers.alive() - self._optimizers
            if any(each is nearest for one in since for each in optimizers.parameters(one)):
                return True
        self._add(trained)
        return False

    def _trains(self, parameter: Tensor) -> bool:
        found = self._trained.get(id(parameter))
        return found is not None and found() is parameter

    def _add(self, trained: Iterable[Tensor]) -> None:
        self._trained |= {id(each): weakref.ref(each) for each in trained}
