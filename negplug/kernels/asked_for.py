"""Whether gradients are only asked for: ``torch.autograd.grad`` returns them and leaves none.

A probe measures gradients in this way. An attack on the images asks for the images' gradient alone,
in this way or by ``backward(inputs=…)``. Torch's engine does not say what runs, so both functions
are wrapped where modules look them up.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch

_depth = 0
_inputs: list[Sequence[Any] | None] = []
_left = 0


def running() -> bool:
    """Return whether a call of ``torch.autograd.grad`` is running."""
    return _depth > 0


def inputs() -> Sequence[Any] | None:
    """Return what the running pass computes the gradients of; None for all leaves."""
    return _inputs[-1] if _inputs else None


def left() -> int:
    """Return a number that rises with every pass that leaves gradients in all leaves."""
    return _left


@contextlib.contextmanager
def to_train() -> Iterator[None]:
    """Inside, a gradient that is asked for trains: that of a loss over micro-batches does."""
    global _depth
    _depth -= 1
    _inputs.append(None)
    try:
        yield
    finally:
        _depth += 1
        _inputs.pop()


def _noting(run: Callable[..., Any], place: int, returns: bool) -> Callable[..., Any]:
    """Wrap a function of autograd.

    Args:
        run: The function.
        place: Of ``inputs`` among its arguments.
        returns: Whether it returns gradients and leaves none.
    """

    @functools.wraps(run)
    def noting(*args: Any, **kwargs: Any) -> Any:
        global _depth, _left
        if torch.compiler.is_compiling():
            return run(*args, **kwargs)
        given = kwargs.get("inputs") if len(args) <= place else args[place]
        if isinstance(given, Iterator):  # of a model's parameters, say, which can be read once
            given = tuple(given)
            args = (*args[:place], given, *args[place + 1 :]) if len(args) > place else args
            kwargs = kwargs if len(args) > place else kwargs | {"inputs": given}
        _inputs.append((given,) if isinstance(given, torch.Tensor) else given)
        _depth += returns
        try:
            return run(*args, **kwargs)
        finally:
            _depth -= returns
            _inputs.pop()
            _left += not returns and given is None

    return noting


setattr(torch.autograd, "grad", _noting(torch.autograd.grad, 1, returns=True))  # noqa: B010
setattr(  # noqa: B010
    torch.autograd, "backward", _noting(torch.autograd.backward, 5, returns=False)
)
