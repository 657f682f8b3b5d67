"""The attributes of modules, kept so that they can be put back."""

from __future__ import annotations

import copy
from collections import deque
from collections.abc import Iterator
from typing import Any

from torch import Tensor

from negplug.kernels.torch_private import write_count

# What torch keeps there is looked after by name.
_OWN = ("_parameters", "_buffers", "_modules")


class Contents:
    """What a container or a tensor holds, to be put back into the very object."""

    def __init__(self, holder: Any) -> None:
        self._holder = holder
        self._mark = mark(holder) if isinstance(holder, Tensor) else None
        self._copy = holder.clone() if isinstance(holder, Tensor) else copy.copy(holder)

    def put_back(self) -> None:
        """Undo what was written since."""
        if isinstance(self._holder, Tensor):
            if mark(self._holder) != self._mark:
                self._holder.copy_(self._copy)
            return
        if _entries(self._holder) == _entries(self._copy):
            return
        self._holder.clear()
        # Lists and deques extend where dictionaries and sets update.
        fill = getattr(self._holder, "update", None) or self._holder.extend
        fill(self._copy)


def holders(attributes: dict[str, Any]) -> Iterator[Any]:
    """Yield the containers and plain tensors among a module's attributes."""
    for name, value in attributes.items():
        plain = isinstance(value, Tensor) and not value.requires_grad
        if name not in _OWN and (plain or isinstance(value, (list, dict, set, deque))):
            yield value


def put_back(now: dict[str, Any], before: dict[str, Any]) -> None:
    """Give a dictionary the entries that it had, and no others."""
    for name in now.keys() - before.keys():
        del now[name]
    now.update(before)


def mark(tensor: Tensor) -> tuple[int, int]:
    """Return what changes with the memory of a tensor and with each write that autograd sees."""
    return tensor.data_ptr(), write_count(tensor)


def _entries(container: Any) -> list[int]:
    """Return which objects a container holds."""
    values = [*container, *container.values()] if isinstance(container, dict) else container
    return [id(value) for value in values]
