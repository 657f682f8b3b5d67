"""Backward passes whose gradients train nothing, so that their step never was.

- A ``GradScaler`` skips an optimizer's step where it finds infinite gradients. Torch has no hook
  for that, so ``GradScaler.step`` is wrapped. A fused optimizer skips on its device, and is asked
  once the device has got there.
- A probe asks for a gradient (:mod:`negplug.kernels.asked_for`), and no optimizer steps next. It is
  none if it asks for that of embeddings, and another pass then carries it on to the parameters.
- A guard throws the gradients away: no optimizer has stepped with them, and none is left. In
  gradient accumulation they are still there, unless the loop has put them aside
  (:mod:`negplug.loss.put_aside`).
- Where they are still there as the next call is made, a loop accumulates, or it skips a step and
  clears them later. One whose optimizer has stepped behind every pass so far
  (:mod:`negplug.loss.rhythm`) is taken to skip, until an optimizer steps with what was left.

Optimizers are known from their construction on, so that a guard may skip the first step.
"""

from __future__ import annotations

import collections
import functools
import weakref
from collections.abc import Callable, Collection, Iterable
from typing import Any, NamedTuple, Protocol

from torch import Tensor, nn
from torch.amp import GradScaler
from torch.autograd.graph import Node
from torch.optim import Optimizer
from torch.optim.optimizer import register_optimizer_step_post_hook

from negplug.kernels import asked_for, late
from negplug.kernels.torch_private import backward_runs, found_infinite
from negplug.loss import optimizers
from negplug.loss.put_aside import PutAside
from negplug.loss.rhythm import Rhythm

_UNUSED = 3  # passes without a step by an optimizer that has never stepped: another one trains


class _Step(NamedTuple):
    """What became of a step that an optimizer was asked for.

    Attributes:
        number: How many steps of any optimizer there were up to it.
        skipped: Tells whether a ``GradScaler`` skipped it.
    """

    number: int
    skipped: Callable[[], bool]


# The latest steps of each known optimizer, however many another one makes in between.
_known: weakref.WeakKeyDictionary[Optimizer, collections.deque[_Step]] = weakref.WeakKeyDictionary()
_number_known = 0
_number = 0


class Reached(Protocol):
    """What a backward pass has reached.

    Attributes:
        discarded: Whether that pass has trained nothing.
    """

    discarded: bool


class Passes:
    """The backward passes of a step, of which is still to be seen what becomes of them.

    Attributes:
        aside: Whether gradients that are gone were put aside; then they are not thrown away.
        dropped: Whether gradients of the present step were gone before an optimizer stepped.
        probed: Whether the present step's gradients were asked for to train nothing.
        rhythm: What becomes of gradients that are still there.
        optimizers: Those of the step's losses, as far as they have stepped before.
        first: Whether no step was ended before.
    """

    def __init__(self) -> None:
        self.first = True
        self._known = 0
        self._unused = 0
        self.aside = PutAside()
        self.rhythm = Rhythm()
        self.optimizers: weakref.WeakSet[Optimizer] = weakref.WeakSet()
        self._behind: weakref.WeakSet[Optimizer] = weakref.WeakSet()  # which stepped last
        self._steps: list[Collection[_Step]] = []  # of all of these, also once one is gone
        self._cut = self._attacks = False
        self.clear()

    def clear(self) -> None:
        """Begin another step."""
        self._open: list[Reached] = []
        self._asked = False
        self._carries: int | None = None
        self._since = _number
        self._fresh = True
        self.dropped = self.probed = False

    def look_at(self, loss: Tensor) -> None:
        """Find the optimizers of a step's losses, where there may be others than before."""
        several = len(_known) > 1  # each may train its own
        theirs = self.optimizers
        begins = bool(theirs) and not any(_known[optimizer] for optimizer in theirs)
        if several or begins or self._known != _number_known:
            found, kinds = _training_with(loss)
            self._cut, self._attacks = kinds == {False}, kinds == {False, True}
            self.optimizers = found if self._fresh else self.optimizers | found
            self._steps = [_known[optimizer] for optimizer in list(self.optimizers)]
            self._known, self._fresh = _number_known, False

    def reach(self, call: Reached) -> None:
        """Take note of a pass, which is running."""
        self.settle()
        self.aside.note(self._theirs())
        if not self._open:
            self.rhythm.reach()
            self.probed = _asks_for_none_of(self._theirs())
            self._carries = asked_for.left() if self.probed and _asks_for_results() else None
        call.discarded = False
        self._asked = asked_for.running() and (self._asked or not self._open)
        self._open.append(call)
        self._since = _number

    @property
    def open(self) -> bool:
        """Whether a pass has reached a call of which it is undecided whether it counts."""
        return bool(self._open)

    @property
    def carried_on(self) -> bool:
        """Whether a pass of its own has carried the gradients that were asked for on."""
        return self._carries is not None and asked_for.left() > self._carries

    def settle(self) -> None:
        """Say of what was reached whether it was discarded, as far as that is decided."""
        if self.rhythm.left:
            skipped = self._skipped(self.rhythm.since, self.rhythm.theirs)
            if skipped:
                self.rhythm.step(trained=not all(skipped))
        if self._open:
            lost = self._are_lost()
            if lost is not None:
                for call in self._open:
                    call.discarded = lost
                self._open = []

    def wait(self) -> bool:
        """Leave the passes that are undecided to what comes; return whether there are any.

        Until an optimizer steps with their gradients they are taken for discarded.
        """
        # A loss of embeddings alone does not tell whose; before the first step it may be anyone's.
        theirs = self._theirs() or ((self._behind or list(_known)) if self._cut else ())
        if self._open and theirs and self.rhythm.leave(self._since, theirs):
            for call in self._open:
                call.discarded = True
            return True
        return False

    def _theirs(self) -> list[Optimizer]:
        """Return the optimizers of the step's losses."""
        # One that has stepped for the first time may be theirs too.
        return list(self.optimizers) if self._known == _number_known else []

    def _skipped(self, since: int, theirs: Iterable[Optimizer]) -> list[bool]:
        """Return of each step of these optimizers since then whether it was skipped.

        Those that have stepped are remembered as the latest to do so.
        """
        found = {o: [s for s in _known[o] if s.number > since] for o in list(theirs)}
        if any(found.values()):
            self._behind = weakref.WeakSet(o for o, steps in found.items() if steps)
        return [step.skipped() for steps in found.values() for step in steps]

    def _are_lost(self) -> bool | None:
        theirs = self._theirs()
        skipped = self._skipped(self._since, theirs or _known)
        if not skipped:
            every = (step for steps in self._steps for step in steps)
            skipped = [step.skipped() for step in every if step.number > self._since]
        if skipped:
            self.rhythm.step(trained=not all(skipped))
            return all(skipped)
        if self.carried_on:
            self.probed = self._asked = False
        if self.probed:
            self.dropped = True
            return True
        # While a pass runs its gradients are still to come.
        if not theirs or backward_runs():
            return None
        if not self._asked and any(map(_has_gradients, theirs)):
            return None
        if any(_known[optimizer] for optimizer in theirs):
            self._unused = 0
        else:
            self._unused += not self._attacks
        if self._unused < _UNUSED:
            self.aside.look_for(theirs)
        else:
            self.aside.found = True
        self.dropped = True
        return not self.aside.found


def _training_with(loss: Tensor) -> tuple[weakref.WeakSet[Optimizer], set[bool]]:
    """Return the known optimizers of parameters that a loss depends on, and what it depends on.

    That is of each leaf whether it is a parameter. A gradient cache computes a loss from embeddings
    alone, an attack on the images from these and parameters.
    """
    leaves, seen, todo = set(), set[Node](), [loss.grad_fn]
    while todo:
        node = todo.pop()
        if node is not None and node not in seen:
            seen.add(node)
            leaves.add(getattr(node, "variable", None))
            todo += [following for following, _ in node.next_functions]
    found = (o for o in list(_known) if any(p in leaves for p in optimizers.parameters(o)))
    return weakref.WeakSet(found), {isinstance(leaf, nn.Parameter) for leaf in leaves - {None}}


def _has_gradients(optimizer: Optimizer) -> bool:
    return any(p.grad is not None for p in optimizers.parameters(optimizer))


def _asks_for_none_of(theirs: Collection[Optimizer]) -> bool:
    """Whether the running pass gives no gradient to what these optimizers train."""
    inputs = asked_for.inputs()
    if not theirs or inputs is None:
        return False
    return {id(each) for each in inputs}.isdisjoint(map(id, _parameters(theirs)))


def _asks_for_results() -> bool:
    """Whether the running pass is for gradients of what was computed, and of no leaf."""
    inputs = asked_for.inputs() or ()
    return not any(isinstance(each, Tensor) and each.grad_fn is None for each in inputs)


def _parameters(theirs: Iterable[Optimizer]) -> list[Tensor]:
    return [p for optimizer in theirs for p in optimizers.parameters(optimizer)]


def _know(optimizer: Optimizer) -> None:
    global _number_known
    if optimizer not in _known:
        _known[optimizer] = collections.deque(maxlen=8)
        _number_known += 1


def _asked(optimizer: Optimizer, skipped: Callable[[], bool]) -> None:
    global _number
    _know(optimizer)
    _number += 1
    _known[optimizer].append(_Step(_number, skipped))


def _after_step(optimizer: Any, *_: Any) -> None:
    if not _has_gradients(optimizer):
        return  # a guard has thrown them away, and a Trainer steps all the same
    found_inf = getattr(optimizer, "found_inf", None)  # which a GradScaler sets on a fused one
    if isinstance(found_inf, Tensor):
        read = late.later(found_inf.detach().reshape(1))
        _asked(optimizer, lambda: any(read() or ()))
    else:
        _asked(optimizer, lambda: False)


def _noticing(step: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(step)
    def noticing(self: GradScaler, optimizer: Optimizer, *args: Any, **kwargs: Any) -> Any:
        before = optimizers.place().begun
        result = step(self, optimizer, *args, **kwargs)
        unhooked = optimizers.place().begun == before
        if unhooked and self.is_enabled() and found_infinite(self, optimizer):
            _asked(optimizer, lambda: True)
        return result

    return noticing


def _knowing(construct: Callable[..., None]) -> Callable[..., None]:
    @functools.wraps(construct)
    def knowing(self: Optimizer, *args: Any, **kwargs: Any) -> None:
        construct(self, *args, **kwargs)
        _know(self)

    return knowing


register_optimizer_step_post_hook(_after_step)
Optimizer.__init__ = _knowing(Optimizer.__init__)  # type: ignore[method-assign]
GradScaler.step = _noticing(GradScaler.step)  # type: ignore[method-assign]
