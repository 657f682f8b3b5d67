"""What micro-batches say and remember, as one step would.

- Lightning's ``self.log`` gets each value once, the mean over the micro-batches weighted by their
  rows; what is printed is that of the first.
- A memory of past keys takes all rows of a logical batch at once, after the step: every
  micro-batch reads it as it was before. Memories are known by the name that MoCo's authors gave
  to the writing of theirs, and Lightly and solo-learn to all of theirs.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn

_ENQUEUE = ("dequeue_and_enqueue", "_dequeue_and_enqueue")


class Reports:
    """The reports of a logical batch.

    Args:
        rows: Number of rows of each micro-batch.

    Attributes:
        number: The micro-batch that is run; None while nothing is to be taken down.
    """

    def __init__(self, rows: Sequence[int]) -> None:
        self.number: int | None = None
        self._rows = rows
        self._logged: dict[tuple[nn.Module, str], tuple[dict[int, Any], Any, Any]] = {}
        self._written: dict[tuple[nn.Module, str], list[list[tuple[Any, ...]]]] = {}

    @contextlib.contextmanager
    def taken(self, model: nn.Module) -> Iterator[None]:
        """Take down what the modules of ``model`` report inside; report it on leaving."""
        before: list[tuple[dict[str, Any], str, Any]] = []
        try:
            for module in model.modules():
                for name, shadow in self._shadows(module):
                    own = vars(module)
                    before.append((own, name, own.get(name)))
                    own[name] = shadow
            yield
        finally:
            for own, name, value in reversed(before):
                del own[name]
                if value is not None:
                    own[name] = value
        self._say()

    def _shadows(self, module: nn.Module) -> Iterator[tuple[str, Any]]:
        if hasattr(module, "training_step"):
            yield "log", functools.partial(self._log, module)
            own = getattr(module, "print", None)
            if callable(own):
                yield "print", functools.partial(self._print, own)
        for name in _ENQUEUE:
            if callable(getattr(module, name, None)):
                yield name, functools.partial(self._enqueue, module, name)

    def _log(self, module: nn.Module, name: str, value: Any, *args: Any, **kwargs: Any) -> None:
        if self.number is None:
            return
        value = value.detach() if isinstance(value, Tensor) else value
        values = self._logged.setdefault((module, name), ({}, args, kwargs))[0]
        values[self.number] = value

    def _print(self, own: Any, *args: Any, **kwargs: Any) -> None:
        if self.number == 0:
            own(*args, **kwargs)

    def _enqueue(self, module: nn.Module, name: str, *args: Any, **kwargs: Any) -> None:
        if self.number is None:
            return
        calls = self._written.setdefault((module, name), [])
        while len(calls) <= self.number:
            calls.append([])
        values = (*args, *kwargs.values())
        taken = [value.detach() if isinstance(value, Tensor) else value for value in values]
        calls[self.number].append((tuple(kwargs), taken))

    def _say(self) -> None:
        for (module, name), calls in self._written.items():
            for same in zip(*calls, strict=True):
                names = same[0][0]
                joined = [
                    _joined(values) for values in zip(*(call[1] for call in same), strict=True)
                ]
                place = len(joined) - len(names)
                kwargs = dict(zip(names, joined[place:], strict=True))
                getattr(module, name)(*joined[:place], **kwargs)
        for (module, name), (values, args, kwargs) in self._logged.items():
            log: Any = module.log
            log(name, self.mean(values), *args, **kwargs)

    def mean(self, values: dict[int, Any]) -> Any:
        """Return the mean of numbers by micro-batch, weighted by rows; of other values the last."""
        *_, last = values.values()
        if not isinstance(last, (Tensor, int, float)):
            return last
        rows = sum(self._rows[number] for number in values)
        return sum(value * (self._rows[number] / rows) for number, value in values.items())


def _joined(values: Sequence[Any]) -> Any:
    """Return the rows of all micro-batches; rows and their values are the last dimensions."""
    if isinstance(values[0], Tensor) and values[0].ndim:
        return torch.cat(list(values), max(values[0].ndim - 2, 0))
    return values[-1]
