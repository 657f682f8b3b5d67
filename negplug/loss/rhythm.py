"""Whether an optimizer steps behind each pass, or gradients of several passes are added up.

A guard that skips a step often leaves its gradients where they are: the next ``zero_grad()`` comes
between the next forward pass and its backward pass. As that forward pass is made, it looks like
gradient accumulation. But a loop that accumulates has done so before its first step of an
optimizer, and one whose optimizer has stepped behind every pass so far most likely skips. What
was left is decided once an optimizer steps, or as the next backward pass begins on parameters
without gradients.
"""

from __future__ import annotations

import weakref
from collections.abc import Iterable

import torch
from torch import Tensor
from torch.optim import Optimizer

from negplug.loss import optimizers


class Rhythm:
    """What becomes of passes whose gradients are still there when the next call is made.

    Attributes:
        left: How many steps were left so, as far as is undecided what became of them.
        since: How many steps of any optimizer there were up to the first of them.
        theirs: The optimizers of what they train.
        kept: Whether an optimizer has stepped with what was left, or may have; whoever reads it
            sets it back.
    """

    def __init__(self) -> None:
        self.left = self.since = 0
        self.theirs: weakref.WeakSet[Optimizer] = weakref.WeakSet()
        self.kept = False
        self._steady: bool | None = None  # None until an optimizer has stepped

    def leave(self, since: int, theirs: Iterable[Optimizer]) -> bool:
        """Leave a step; return whether it is taken for skipped until more is known."""
        if self._steady is False:
            return False
        if not self.left:
            self.since, self.theirs = since, weakref.WeakSet()
        self.left += 1
        self.theirs.update(theirs)
        return self._steady is True

    def reach(self) -> None:
        """Take note that a backward pass begins; of what was cleared nothing is left."""
        if not self.left:
            return
        gradients = (p.grad for each in list(self.theirs) for p in optimizers.parameters(each))
        found = (gradient for gradient in gradients if gradient is not None)
        # The first step of a queue, which is empty, has gradients of zero.
        if not any(not self._steady or _is_something(each) for each in found):
            self.left = 0

    def step(self, trained: bool) -> None:
        """Take note that an optimizer has stepped, or was skipped by a ``GradScaler``."""
        if trained:
            self.kept |= self.left > 0
            self._steady = self._steady is not False and not self.left
        self.left = 0


def _is_something(gradient: Tensor) -> bool:
    """Whether a gradient is other than zero; reads it from the device."""
    plain = type(gradient) is Tensor and gradient.layout is torch.strided
    return not plain or bool(gradient.any())
