"""Which call of which training step a loss call is, and when a step is over.

A call counts once a backward pass has reached its loss. Until then it may be a probe, a validation
without ``no_grad()`` or a batch that is skipped, and later calls are numbered as if it had not been
made. Nothing tells one that is kept in a loss's first step from the first of two losses, so all
calls of that step draw alike, whatever their numbers.

A step is over when a backward pass that frees its graph has reached one of its calls, or when an
optimizer has stepped since; the next call begins another. A pass that keeps its graph ends nothing.
One whose gradients train nothing (:mod:`negplug.loss.discarded`) counts as none. A call that
checkpointing makes inside of a backward pass, or an optimizer's closure again, is no new one. Nor
is one for a further chunk of its batch (:mod:`negplug.loss.chunks`).

A Trainer, which knows where its steps end, holds them open in between.
"""

from __future__ import annotations

import collections
import itertools
import weakref
from collections.abc import Callable
from typing import Any

from negplug.contract.batch import ContrastiveBatch
from negplug.kernels import late
from negplug.kernels.torch_private import backward_runs, graph_is_kept
from negplug.loss import optimizers
from negplug.loss.discarded import Passes
from negplug.loss.fingerprint import BatchFingerprint
from negplug.loss.forgotten import Forgotten
from negplug.loss.places import Places, states_of
from negplug.loss.refusals import closed_call, unknown_call
from negplug.loss.training_call import Call

_UNGRAPHED = 16  # calls without a graph that are remembered: more than a step has
_ALIKE = 1e-2  # squared distance of embeddings of length one that are computed twice


class Steps:
    """The training steps of a loss, and the calls of the present one.

    Args:
        number: Number of steps that are over.
        most: The most calls that a step has had; None if no step is known.
        begun: Number of calls of the present step that were made before, by a run that resumes.

    Attributes:
        ended: Number of steps that are over, those included that trained nothing.
        passes: The backward passes of the present step.
        places: Where its calls are made.
        when_reached: What the first backward pass that reaches the present step does.
    """

    def __init__(self, number: int = 0, most: int | None = None, begun: int = 0) -> None:
        self.number = self.ended = number
        self.most, self.passes = most, Passes()
        self._forgotten = Forgotten[list[tuple[int, Call]]](self.passes)
        self._earlier: list[weakref.ref[Call]] = []
        self._held_open, self.places = False, Places()
        self._begin(begun)

    def _begin(self, begun: int = 0) -> None:
        self._begun = begun
        self._calls: list[weakref.ref[Call]] = []
        self._ungraphed: collections.deque[Call] = collections.deque(maxlen=_UNGRAPHED)
        self._reached: list[Call] = []
        self.passes.clear()
        self._final = False
        self._finished = optimizers.finished()
        self._place = optimizers.place()
        self._first = 0
        self._again: int | None = None
        self._chunk = False
        self.when_reached: Callable[[], object] | None = None

    @property
    def reached(self) -> bool:
        """Whether a backward pass has reached a call of the present step."""
        return bool(self._reached)

    @property
    def following(self) -> int:
        """Number of the next call of the step."""
        number = self._after_last()
        return 0 if not self._reached and self._whole(number) else number

    def hold_open(self) -> None:
        """Let nothing but :meth:`close` end the step."""
        self._held_open = True

    def over(self) -> bool:
        """Return whether a training call made now begins another step, if it is of no chunk."""
        return (
            bool(self._reached)
            and not self._held_open
            and not backward_runs()
            and (self._pass_over() or (self._again is None and self._complete()))
            and not optimizers.place().again(self._place)
        )

    def goes_on(self, batch: ContrastiveBatch) -> bool:
        """Return whether a call made now is of the latest pass, for one more chunk of its batch.

        A loop that computes chunks drops no gradients between them.
        """
        self.passes.settle()
        first = next((call for call in self._reached if call.number == self._first), None)
        if first is None or first.discarded or optimizers.finished() > self._finished:
            return False
        if optimizers.place().again(self._place):
            return False
        return first.chunks.are_followed(batch, first.fingerprint)

    def next(self, batch: ContrastiveBatch, shared: bool, graph: bool, chunk: bool) -> Call:
        """Return the call that is made now; the step before is closed if it is over.

        Args:
            batch: Of the call.
            shared: Whether the call uses the first one's state.
            graph: Whether it has a graph now, and not only when it is computed again.
            chunk: Whether it :meth:`goes_on`.
        """
        place = optimizers.place()
        if chunk or self._pass_over():
            # Calls again, of a closure or for a chunk, or further ones of a step held open.
            again = chunk or place.again(self._place)
            self._again, self._chunk = self._first if again else None, chunk
            if self._again is None and self.passes.dropped and not self.passes.aside.found:
                # Its gradients are gone, as those of SAM's first pass: the step begins again.
                self._forgotten.lose(self._left())
                self.passes.dropped = False
            self._first = self._after_last() if self._again is None else self._first
            self._final, self._finished = False, optimizers.finished()
        self._place = place
        if self._again is not None:
            known = [call for call in self._reached if call.number == self._again]
            self._again = self._again + 1 if known else None
            if known:
                known[0].again(batch)
                return known[0]
        where = self.places.here(self.most)
        number = self.places.number(where, [call.number for call in self._reached])
        call = Call(self, self.following if number is None else number, shared, graph, batch)
        call.place, call.placed = where, number is not None
        self._calls.append(weakref.ref(call))
        if not graph:
            self._ungraphed.append(call)
        return call

    def same(self, batch: ContrastiveBatch) -> Call:
        """Return the call that is computed again, inside of a backward pass.

        Raises:
            RuntimeError: If there was none, or its memory has changed since.
        """
        print_ = BatchFingerprint.of(batch)
        calls = [*_alive(self._earlier), *_alive(self._calls)]
        alike = print_.nearest(calls)
        if not alike:
            raise unknown_call()
        call = min(alike, key=lambda call: call.times)
        late.check("call computed again", print_.distance(call.fingerprint) > _ALIKE, unknown_call)
        if call.closed:
            raise closed_call()
        call.times += 1
        return call

    def reach(self, call: Call) -> None:
        """Take note that a backward pass has reached a call."""
        if call.closed:
            return
        self.passes.reach(call)
        if call not in self._reached:
            self._reached.append(call)
        act, self.when_reached = self.when_reached, None
        if act is not None:
            act()
        self._final = self._final or not graph_is_kept()
        self._finished = optimizers.finished()

    def close(self, told: bool) -> list[tuple[int, Call]]:
        """End the step.

        Args:
            told: Whether somebody has said so; then a pass counts whose gradients are left.

        Returns:
            The calls that it has trained with, in order, each with the number of the state that
            takes in what it held. Without any it was no step.
        """
        self.passes.settle()
        waits, self.passes.first = not told and self.passes.wait(), False
        every, self._held_open = self._left(), False
        self.places.learn(((call.place, state) for state, call in every), self._begun)
        discarded = all(call.discarded for _, call in every)
        if discarded and self.passes.dropped:
            self._forgotten.lose(every)
        self._begin()
        self.ended += bool(every)
        before = self._forgotten.recalled()
        if waits and discarded:
            self._forgotten.wait(every)
        self.number += len(before) + (not discarded)
        if before or not discarded:
            self._forgotten.clear()
        if not discarded:
            self.most = max(self.most or 0, *(1 + state for state, _ in every))
        now = [(state, call) for state, call in every if not call.discarded]
        return [*itertools.chain(*before), *now]

    def __getstate__(self) -> dict[str, Any]:
        """Leave out calls that no backward pass has reached, for their graphs stay behind."""
        names = ("number", "ended", "most", "_reached", "_final")
        return {name: vars(self)[name] for name in names}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__()  # type: ignore[misc]
        vars(self).update(state)

    def _left(self) -> list[tuple[int, Call]]:
        """Return the calls that were reached, each with its state; the step has no calls then."""
        reached = sorted(self._reached, key=lambda call: call.serial)
        numbers, placed = [call.number for call in reached], all(call.placed for call in reached)
        self._earlier = [weakref.ref(call) for call in _alive([*self._earlier, *self._calls])]
        self._calls, self._reached = [], []
        return list(zip(states_of(numbers, placed, self._begun), reached, strict=True))

    def _pass_over(self) -> bool:
        """Whether the backward pass of the calls so far is over, or was left out for a chunk."""
        left_out = self._chunk and all(call.number != self._again for call in self._reached)
        ended = self._final or self.passes.carried_on or left_out
        return bool(self._reached) and (ended or optimizers.finished() > self._finished)

    def _complete(self) -> bool:
        """Whether no backward pass can follow, or the step has had as many calls as any."""
        return self._whole(self._after_last()) or not all(c.has_graph for c in self._reached)

    def _whole(self, number: int) -> bool:
        return self.most is not None and number >= self.most

    def _after_last(self) -> int:
        calls = _alive(self._calls)
        return calls[-1].number + 1 if calls else self._begun


def _alive(calls: list[weakref.ref[Call]]) -> list[Call]:
    """Return the calls that a graph still holds, and drop the others from the list."""
    alive = [call for reference in calls if (call := reference()) is not None]
    if len(alive) < len(calls):
        calls[:] = [weakref.ref(call) for call in alive]
    return alive
