"""What the calls of a step remember, each for itself: a loss called twice remembers twice.

Losses such as MoCo v2+'s (two calls a step) or NNCLR's (four) share one loss object. The first call
has the loss's own sampler and objective; further ones have copies of what these were at first.
"""

from __future__ import annotations

import copy
from typing import Any

from torch import nn

from negplug.contract.declared_state import MOST, no_count
from negplug.contract.objective import Objective
from negplug.contract.part import Part
from negplug.contract.sampler import NegativeSampler
from negplug.contract.state import Stateful, check_format

_MOST_CALLS = 1 << 10  # of one loss in a step, each with memory of its own


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


def check_saved(own: CallState, state: dict[str, Any], prefix: str, strict: bool) -> None:
    """Raise ``ValueError`` if what a loss saved for its calls cannot be loaded.

    Args:
        own: What the loss's first call remembers.
        state: A ``state_dict``.
        prefix: Of the loss in it.
        strict: Whether all that the loss has must be there, and nothing else.
    """
    extra = state.get(f"{prefix}_extra_state", {})
    check_format("ContrastiveLoss", extra)
    _check_counters(own, extra)
    parts = {
        f"{prefix}{call}{name}._extra_state": part
        for call in ("", *(f"further.{n}." for n in range(extra["further"])))
        for name, part in own.named_modules(remove_duplicate=False)
        if isinstance(part, Stateful)
    }
    if strict:
        saved = {key for key in state if key.startswith(prefix) and key.endswith("._extra_state")}
        for key in sorted(parts.keys() ^ (saved - {f"{prefix}_extra_state"})):
            which = "lacks" if key in parts else "also has"
            raise ValueError(
                f"the saved state {which} {key}; resume with the same expression, or the file is "
                f"damaged"
            )
    for key, part in parts.items():
        if key in state:
            part.check_state(state[key])


def _check_counters(own: CallState, extra: dict[str, Any]) -> None:
    """Raise ``ValueError`` unless the counters of a loss go together.

    Args:
        own: What the loss's first call remembers.
        extra: The counters.
    """
    # Only what remembers has state of its own for the second and further calls of a step.
    most = _MOST_CALLS if own.updating else 1
    call = _MOST_CALLS if own.updating else MOST
    limits = {"seed": 1 << 63, "step": MOST, "call": call, "further": most}
    limits |= {"epoch": MOST} if "epoch" in extra else {}
    for name, beyond in limits.items():
        wrong = no_count(extra[name], beyond) if name in extra else "is missing"
        if wrong:
            raise ValueError(f"ContrastiveLoss: the saved {name} {wrong}; the file is damaged")
