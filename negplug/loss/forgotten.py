"""Steps that have trained nothing, as far as is known, and that may turn out to count after all."""

from __future__ import annotations

import collections
from typing import Generic, TypeVar

from negplug.loss.discarded import Passes

_KEPT = 32  # steps of each kind

_Step = TypeVar("_Step")


class Forgotten(Generic[_Step]):
    """What a loop may have put aside (:mod:`negplug.loss.put_aside`), or left for later.

    Args:
        passes: The backward passes of the steps, which tell what becomes of them.
    """

    def __init__(self, passes: Passes) -> None:
        self._passes = passes
        self._lost = collections.deque[_Step](maxlen=_KEPT)
        self._waiting = collections.deque[_Step](maxlen=_KEPT)

    def lose(self, step: _Step) -> None:
        """Forget a step whose gradients are gone."""
        if not self._passes.probed:  # of which nothing can have been put aside
            self._lost.append(step)

    def wait(self, step: _Step) -> None:
        """Forget a step whose gradients are still there."""
        self._waiting.append(step)

    def recalled(self) -> list[_Step]:
        """Return the steps that are known to have trained by now, in order."""
        rhythm, waiting = self._passes.rhythm, list(self._waiting)
        kept, rhythm.kept = rhythm.kept, False
        if kept or not rhythm.left:
            self._waiting.clear()
            self._lost += [] if kept else waiting  # their gradients are gone
        put_aside = list(self._lost) if self._passes.aside.found else []
        return [*put_aside, *(waiting if kept else [])]

    def clear(self) -> None:
        """Forget for good those whose gradients are gone: an optimizer has stepped since."""
        self._lost.clear()
