"""What the calls of a step remember, each for itself: a loss called twice remembers twice.

Losses such as MoCo v2+'s (two calls a step) or NNCLR's (four) share one loss object. The first call
has the loss's own sampler and objective; further ones have copies of what these were at first.
"""

from __future__ import annotations

import copy
from typing import Any

from torch import nn

from negplug.contract.objective import Objective
from negplug.contract.part import Part
from negplug.contract.sampler import NegativeSampler
from negplug.contract.state import Stateful, check_format


class CallState(nn.Module):
    """What one call of a step remembers for itself.

    Attributes:
        updating: Its parts that change with training.
    """

    def __init__(self, sampler: NegativeSampler, objective: Objective) -> None:
        super().__init__()
        self.sampler = sampler
        self.objective = objective if objective.updates else None
        parts = [*sampler.parts_inside(), *objective.parts_inside()]
        self.updating: list[Part] = [part for part in parts if part.updates]

    def release(self) -> list[tuple[int, Any]]:
        """Return what its parts hold, each with the place of the part; they hold it no longer."""
        if not self.updating:
            return []
        return [(n, seen) for n, part in enumerate(self.updating) for seen in part.release()]

    def take_in(self, held: list[tuple[int, Any]]) -> None:
        """Update with what a call held."""
        for place, seen in held:
            self.updating[place].take_in(seen)

    def copy(self) -> CallState:
        """Return one that remembers the same, in memory of its own."""
        return copy.deepcopy(self)


def check_saved(own: CallState, state: dict[str, Any], prefix: str) -> None:
    """Raise ``ValueError`` if what a loss saved for its calls cannot be loaded.

    Args:
        own: What the loss's first call remembers.
        state: A ``state_dict``.
        prefix: Of the loss in it.
    """
    extra = state.get(f"{prefix}_extra_state", {})
    check_format("ContrastiveLoss", extra)
    further = int(extra["further"])
    for name, part in own.named_modules(remove_duplicate=False):
        if not isinstance(part, Stateful):
            continue
        for call in ("", *(f"further.{n}." for n in range(further))):
            key = f"{prefix}{call}{name}._extra_state"
            if key in state:
                part.check_state(state[key])
