"""Whether gradients are only asked for: ``torch.autograd.grad`` returns them and leaves none.

So a probe measures a gradient. Torch's engine does not say which of both runs, so the function is
wrapped where modules look it up.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterator
from typing import Any

import torch

_depth = 0


def running() -> bool:
    """Return whether a call of ``torch.autograd.grad`` is running."""
    return _depth > 0


@contextlib.contextmanager
def to_train() -> Iterator[None]:
    """Inside, a gradient that is asked for trains: that of a loss over micro-batches does."""
    global _depth
    _depth -= 1
    try:
        yield
    finally:
        _depth += 1


def _noting(grad: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(grad)
    def noting(*args: Any, **kwargs: Any) -> Any:
        global _depth
        if torch.compiler.is_compiling():
            return grad(*args, **kwargs)
        _depth += 1
        try:
            return grad(*args, **kwargs)
        finally:
            _depth -= 1

    return noting


setattr(torch.autograd, "grad", _noting(torch.autograd.grad))  # noqa: B010
