"""Gradients that a loop takes off its parameters, keeps, and puts back before the optimizer steps.

An accumulation by hand looks like a guard that throws gradients away: they are gone, and no
optimizer has stepped. The difference shows when it steps: what it then finds is not what the
latest backward pass has left there. From the first time that gradients are gone until the next
step, hooks note what passes leave.

A step that is forgotten because they are not put back is told of. One whose weights have moved
since its pass, by no optimizer's step, is not: it was SAM's first pass, and its second one counts.
"""

from __future__ import annotations

import itertools
import logging
import weakref
from collections.abc import Iterable
from typing import Any

from torch import Tensor
from torch.optim import Optimizer
from torch.optim.optimizer import register_optimizer_step_post_hook

from negplug.kernels.distributed import rank
from negplug.kernels.torch_private import write_count
from negplug.loss import optimizers

logger = logging.getLogger("negplug")

_looking: weakref.WeakSet[PutAside] = weakref.WeakSet()
_told = False
_FEW = 8  # weights, of which SAM moves all; each pass asks for them


class PutAside:
    """Whether a loop puts gradients aside.

    Attributes:
        found: Whether it does.
    """

    def __init__(self) -> None:
        self.found = False
        self._optimizers: weakref.WeakSet[Optimizer] = weakref.WeakSet()
        self._left: dict[int, weakref.ref[Tensor]] = {}
        self._hooks: list[Any] = []
        self._weights = 0
        self._forgets = False

    def note(self, theirs: Iterable[Optimizer]) -> None:
        """Take note of the weights of these optimizers, as a pass reaches them."""
        self._weights = 0 if _told else _moves(theirs)

    def look_for(self, theirs: Iterable[Optimizer]) -> None:
        """Look what these optimizers step with next; their gradients are gone just now."""
        self._forgets |= not _told and _moves(theirs) == self._weights
        if self.found or self._hooks:
            return
        self._optimizers = weakref.WeakSet(theirs)
        left = self._left = {}
        every = {id(p): p for optimizer in theirs for p in optimizers.parameters(optimizer)}

        def note(parameter: Tensor) -> None:
            if parameter.grad is not None:
                left[id(parameter)] = weakref.ref(parameter.grad)

        learning = [p for p in every.values() if p.requires_grad]
        self._hooks = [
            p.register_post_accumulate_grad_hook(note)  # type: ignore[no-untyped-call]
            for p in learning
        ]
        _looking.add(self)

    def compare(self, optimizer: Optimizer) -> None:
        """Compare what an optimizer has stepped with, and what backward passes have left."""
        if optimizer not in self._optimizers:
            return
        for parameter in optimizers.parameters(optimizer):
            left = self._left.get(id(parameter))
            if parameter.grad is not None and (left is None or left() is not parameter.grad):
                self.found = True
        if self._forgets and not self.found:
            _tell()
        self._forgets = False
        _looking.discard(self)
        for hook in self._hooks:
            hook.remove()
        self._hooks = []


def _tell() -> None:
    """Say once what becomes of a step without an optimizer's."""
    global _told
    if not _told and rank() == 0:
        logger.warning(
            "negplug: the gradients of a training step were dropped before an optimizer stepped, "
            "and samplers forget that step; where they are kept for later, call end_step() of the "
            "loss after each backward pass"
        )
    _told = True


def _moves(theirs: Iterable[Optimizer]) -> int:
    """Return a number that rises each time that weights of these optimizers are written to."""
    every = (p for optimizer in theirs for p in optimizers.parameters(optimizer))
    learning = (p for p in every if p.requires_grad and not p.is_inference())
    return sum(map(write_count, itertools.islice(learning, _FEW)))


def _after_step(optimizer: Any, *_: Any) -> None:
    for looking in list(_looking):
        looking.compare(optimizer)


register_optimizer_step_post_hook(_after_step)
