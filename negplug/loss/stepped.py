"""A loss in the course of training: which call of which step one is, and whose state serves it.

What the sampler wants to remember is held back until its step is over
(:mod:`negplug.loss.steps`) and the next one begins, or until ``end_step()`` or ``state_dict()``, so
that nothing is written between forward and backward.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import cast

from torch import Tensor

from negplug.contract.batch import ContrastiveBatch
from negplug.kernels.precision import not_inference
from negplug.kernels.torch_private import backward_runs, inside_function
from negplug.loss.calls import CallState
from negplug.loss.refusals import mixed_up
from negplug.loss.saved import SavingLoss
from negplug.loss.training_call import Call
from negplug.loss.uninterrupted import uninterrupted


class SteppedLoss(SavingLoss):
    """The side of :class:`negplug.loss.contrastive.ContrastiveLoss` that counts steps."""

    _fresh: list[CallState]

    def begin_step(self) -> None:
        """Begin a training step that lasts until :meth:`end_step`, whatever is done inside.

        Without it a step ends with its backward pass, as it does in a plain loop.
        """
        self.end_step()
        self._steps.hold_open()

    def end_step(self, told: bool = True) -> None:
        """Close the training step: samplers take in what a backward pass has reached.

        All of it or, where an interrupt comes first, nothing yet.

        Args:
            told: Whether that counts whatever becomes of its gradients. Otherwise they may have
                been left by a step that is skipped, see :mod:`negplug.loss.rhythm`.

        Raises:
            RuntimeError: If calls of the step would take in what is another place's.
        """
        with uninterrupted(bool(self._fresh)):
            reached = self._steps.close(told)
            where = self._steps.places.mixed
            if where and self._fresh and not all(call.shared for _, call in reached):
                raise mixed_up(where)
            for number, call in reached:
                self._state(0 if call.shared else number).take_in(call.held or [])
                call.closed, call.held = bool(call.held), []
            if self._steps.most is not None and len(self.further) >= self._steps.most:
                del self.further[self._steps.most - 1 :]  # of calls that had no backward pass

    @property
    def next_step(self) -> int:
        """Number of the step that a training call made now would be of, with those of no effect."""
        self.graphs.lead(self._steps)
        return self._steps.ended + self._steps.over()

    def _call_of(self, batch: ContrastiveBatch, shared: bool) -> Call | None:
        """Return which call of which step this is; None for an evaluation, which is none.

        A region that is checkpointed with ``use_reentrant=True`` is computed without a graph inside
        of a function of autograd, and again in the backward pass.
        """
        if not (batch.training or inside_function()):
            self.graphs.lead(self._steps)
            return None
        if backward_runs():
            return self._steps.same(batch)
        chunk = self._steps.goes_on(batch)
        if not chunk and self._steps.over():
            self.end_step(told=False)
        if self.graphs.lead(self._steps):
            self._steps.when_reached = self.graphs.advance
        return self._steps.next(batch, shared, graph=batch.training, chunk=chunk)

    def _state(self, number: int) -> CallState:
        """Return the state of the call of this number in its step."""
        if not number or not self._fresh:
            return self._own[0]
        while len(self.further) < number:
            self._add_call()
        return cast(CallState, self.further[number - 1])

    def _add_call(self) -> None:
        self.further.append(self._fresh[0].copy())

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> SteppedLoss:
        with not_inference():
            super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
            for call in self._fresh:
                call._apply(fn, recurse)  # type: ignore[no-untyped-call]
        return self
