"""Where in the code the calls of a step are made: which call of a step one is, told by its place.

Calls of a step are numbered in their order. One that no backward pass reaches, but whose loss is
kept, takes up a number and shifts those behind it. Where a step calls its loss at several places,
the place tells all the same which call of the step one is.
"""

from __future__ import annotations

import collections
import sys
from collections.abc import Collection, Hashable, Iterable, Sequence
from pathlib import Path
from types import CodeType, FrameType
from typing import cast

_FRAMES = 4  # a step's own helper, the step, what calls it

Place = tuple[tuple[Hashable, int], ...]


class Places:
    """The places of the calls of a step, once a step had several at places of their own.

    Attributes:
        mixed: Where the latest step has called the loss so that the memories of its places would be
            mixed up; empty otherwise.
    """

    def __init__(self) -> None:
        self.mixed = ""
        self._numbers: dict[Place, int] = {}
        self._states: dict[tuple[Place, int], int] = {}

    def here(self, most: int | None) -> Place:
        """Return where the loss is called just now; empty where steps have one call.

        Args:
            most: The most calls that a step has had; None if no step is known.
        """
        return () if most == 1 else _place()

    def number(self, place: Place, reached: Collection[int]) -> int | None:
        """Return which call of its step one at this place is; None if that is not known.

        Args:
            place: Of the call.
            reached: Numbers of calls that a backward pass has reached, which are no other ones.
        """
        number = self._numbers.get(place)
        return None if number in reached else number

    def learn(self, calls: Iterable[tuple[Place, int]], begun: int) -> None:
        """Take the calls of a step that is over, each with the state that takes in what it held.

        Args:
            calls: In their order.
            begun: How many the step had before them, in a run that resumes; theirs are not known.
        """
        found = [] if begun else list(calls)
        numbers = dict(found)
        self.mixed = ""
        if () not in numbers:
            self._compare(found)
        if len(found) > 1:
            apart = len(set(numbers.values())) == len(numbers) == len(found)
            self._numbers = numbers if apart and () not in numbers else {}

    def _compare(self, calls: Collection[tuple[Place, int]]) -> None:
        """Compare with earlier steps that have called the loss at some of these places."""
        times = collections.Counter[Place]()
        states: dict[tuple[Place, int], int] = {}
        for place, state in calls:
            states[place, times[place]] = state
            times[place] += 1
        if self._states.keys().isdisjoint(states):
            self._states = states  # another loop
            return
        owners = {state: place for (place, _), state in self._states.items()}
        for (place, time), state in states.items():
            owner = owners.get(state, place) if time else place  # once more than before
            if self._states.get((place, time), state) != state or owner != place:
                self.mixed = _described(place)
                return
        self._states |= states


def states_of(numbers: Sequence[int], placed: bool, begun: int) -> Sequence[int]:
    """Return the state that takes in what each call of a step held.

    Args:
        numbers: Of the calls that a backward pass has reached, in the order of the calls.
        placed: Whether each has its place's number, and so has sampled from the state of its place.
        begun: The number of the step's first call.
    """
    if placed and len(set(numbers)) == len(numbers):
        return numbers
    if numbers == sorted(set(numbers)):
        # Calls before the first one were none of the step.
        return [number - min(numbers) + begun for number in numbers]
    return range(len(numbers))  # nor were those whose place was taken


def _place() -> Place:
    frame: FrameType | None = sys._getframe(2)
    found: list[tuple[Hashable, int]] = []
    while frame is not None and len(found) < _FRAMES:
        package = str(frame.f_globals.get("__name__")).partition(".")[0]
        # contextlib's are around functions of ours that it decorates.
        if package not in ("torch", "contextlib") and not package.startswith("negplug"):
            found.append((_named(frame.f_code), frame.f_lasti))
        frame = frame.f_back
    return tuple(found)


def _named(code: CodeType) -> Hashable:
    """Return a code; of one that torch has compiled and that cannot be hashed, where it is from."""
    try:
        hash(code)
    except TypeError:  # a constant of it is a dictionary
        return code.co_filename, code.co_firstlineno, code.co_name
    return code


def _described(place: Place) -> str:
    code, instruction = place[0]
    if not isinstance(code, CodeType):
        file, first, _ = cast("tuple[str, int, str]", code)
        return f"{Path(file).name}:{first}"
    ranges = code.co_lines()
    line = next((line for start, end, line in ranges if start <= instruction < end), None)
    return f"{Path(code.co_filename).name}:{line}"
