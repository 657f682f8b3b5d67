"""``Call``: one training call of a loss, of which the backward pass that reaches it tells."""

from __future__ import annotations

import itertools
import weakref
from typing import Any, Protocol

import torch
from torch import Tensor

from negplug.contract.batch import ContrastiveBatch
from negplug.kernels.graph_marks import mark
from negplug.kernels.torch_private import backward_runs
from negplug.loss.chunks import Chunks
from negplug.loss.discarded import Passes
from negplug.loss.fingerprint import BatchFingerprint
from negplug.loss.places import Place
from negplug.loss.refusals import no_second_derivative

_serial = itertools.count()


class Told(Protocol):
    """Who is told of a call's backward pass.

    Attributes:
        number: Number of the present step.
        most: The most calls that a step has had; None if no step is known.
        passes: The backward passes of the present step.
    """

    number: int
    most: int | None
    passes: Passes

    def reach(self, call: Call) -> None:
        """Take note that a backward pass has reached a call."""


class Call:
    """A training call. The graph of its loss holds it, by a hook.

    Attributes:
        step: Number of its step.
        number: Its number in the step.
        drawn: The number by which it draws, see :mod:`negplug.loss.steps`.
        shared: Whether it uses the first call's state, whatever its number.
        held: What its step takes in once it is over: the place of a part among those of the
            call's state that update, and what it was given to hold. None until it was computed
            with a graph.
        graph: Whether it had one when it was computed first.
        fingerprint: Of its batch, as it was made last.
        chunks: Those of its batch that it was computed for.
        times: How often it was computed, as the passes of one that is checkpointed do.
        closed: Whether its step is over and has changed a memory.
        discarded: Whether the backward pass that has reached it trained nothing.
        place: Where it was made; empty where that tells nothing.
        placed: Whether its number is that of its place.
    """

    def __init__(
        self, steps: Told, number: int, shared: bool, graph: bool, batch: ContrastiveBatch
    ) -> None:
        self._steps = steps
        self.serial, self.step, self.number = next(_serial), steps.number, number
        self.drawn = 0 if steps.most is None and not steps.number else number
        self.shared = shared
        self.graph = graph
        self.held: list[tuple[int, Any]] | None = None
        self.fingerprint = BatchFingerprint.of(batch)
        self.chunks = Chunks(batch)
        self.times = 1
        self.closed = self.discarded = self.placed = False
        self.place: Place = ()
        self._hook: weakref.ref[Any] | None = None

    def again(self, batch: ContrastiveBatch) -> None:
        """Take note that it is made again, by a closure or for a further chunk."""
        self.fingerprint = BatchFingerprint.of(batch)
        self.chunks.add(batch)

    def computed(self, loss: Tensor, held: list[tuple[int, Any]]) -> None:
        """Take the loss, whose backward pass will tell of this call, and what its parts hold.

        A call that is computed again holds what it held at first.
        """
        self.held = held if self.held is None else self.held
        if not (self.graph and backward_runs()):  # where nothing comes to the loss itself
            self._steps.passes.look_at(loss)
            hook = self._reach
            self._hook = weakref.ref(hook)
            mark(loss)
            loss.register_hook(hook)  # type: ignore[no-untyped-call]

    @property
    def has_graph(self) -> bool:
        """Whether a backward pass may still reach it."""
        return self._hook is not None and self._hook() is not None

    def _reach(self, _: Tensor) -> None:
        if torch.is_grad_enabled():  # in a backward pass that makes a graph of its own
            raise no_second_derivative()
        self._steps.reach(self)

    def __getstate__(self) -> dict[str, Any]:
        return vars(self) | {"_hook": None, "place": ()}
