"""Counts what a step asks of a GPU, on a CPU that stands in for one.

Each operation of torch that writes is a launch or more on a GPU, and so is each Triton program.
"""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Iterator

from torch.utils._python_dispatch import TorchDispatchMode, _disable_current_modes
from triton.runtime import interpreter

# They allocate, or give another view of what is there, and launch nothing.
_FREE = {
    *("view", "_unsafe_view", "reshape", "_reshape_alias", "as_strided", "alias", "detach"),
    *("expand", "permute", "t", "transpose", "unsqueeze", "squeeze", "lift_fresh"),
    *("slice", "select", "split", "split_with_sizes", "unbind"),
    *("empty", "empty_like", "empty_strided", "new_empty", "new_empty_strided"),
}


class _Writes(TorchDispatchMode):
    def __init__(self, found: Counter[str]) -> None:
        super().__init__()
        self._found = found

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func._schema.name.split("::")[1]
        if name not in _FREE:
            self._found[name] += 1
        return func(*args, **(kwargs or {}))


@contextlib.contextmanager
def launches() -> Iterator[Counter[str]]:
    """Count by name, until it ends, the operations that write and the programs."""
    found: Counter[str] = Counter()
    call = interpreter.GridExecutor.__call__

    def counted(self, *args, **kwargs):
        found[self.fn.__name__] += 1
        # What the interpreter does in torch the program does on the device.
        with _disable_current_modes():
            return call(self, *args, **kwargs)

    interpreter.GridExecutor.__call__ = counted
    try:
        with _Writes(found):
            yield found
    finally:
        interpreter.GridExecutor.__call__ = call
