"""Tensors in lists, tuples and mappings, as batches and arguments of functions hold them.

Batches may be objects of the recipe's own too, whose attributes hold them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from torch import Tensor

_DEPTH = 6
_OBJECTS = 4
"""How deep batches of objects are searched."""


def tensors_in(value: Any, depth: int = _DEPTH) -> Iterator[Tensor]:
    """Yield the tensors in a value, in their order."""
    if isinstance(value, Tensor):
        yield value
    elif depth and isinstance(value, Mapping):
        for part in value.values():
            yield from tensors_in(part, depth - 1)
    elif depth and isinstance(value, (list, tuple)):
        for part in value:
            yield from tensors_in(part, depth - 1)


def tensors_of_batch(batch: Any, depth: int = _OBJECTS) -> Iterator[Tensor]:
    """Yield the tensors in a batch or a sample, those in attributes of objects included."""
    if isinstance(batch, (Tensor, str, bytes)) or not depth:
        yield from tensors_in(batch, 0)
    elif isinstance(batch, Mapping):
        yield from tensors_of_batch(list(batch.values()), depth)
    elif isinstance(batch, (list, tuple)):
        for part in batch:
            yield from tensors_of_batch(part, depth - 1)
    else:
        yield from tensors_of_batch(list(getattr(batch, "__dict__", {}).values()), depth - 1)


def with_tensors(value: Any, change: Callable[[Tensor], Tensor]) -> Any:
    """Return a value with ``change(tensor)`` in place of each tensor."""
    if isinstance(value, Tensor):
        return change(value)
    if isinstance(value, dict):
        return {name: with_tensors(part, change) for name, part in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)([with_tensors(part, change) for part in value])
    return value
