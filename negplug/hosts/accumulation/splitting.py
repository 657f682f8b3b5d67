"""A loaded batch, split by rows into micro-batches."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterator, Mapping
from typing import Any

from torch import Tensor

_PLAIN = (str, bytes, bool, int, float, complex, type(None))


@dataclasses.dataclass(frozen=True)
class MicroBatch:
    """Some consecutive rows of a logical batch.

    Attributes:
        logical: The logical batch.
        start: Its first row of these.
        rows: Their number.
    """

    logical: Any
    start: int
    rows: int

    def taken(self) -> Any:
        """Return the rows in the structure of the logical batch, in containers and memory anew.

        A step may write to what it is given, and is run on it more than once.
        """
        return _cut(self.logical, _rows(self.logical), slice(self.start, self.start + self.rows))


def split(batch: Any, accumulate: int) -> list[MicroBatch]:
    """Split a batch into micro-batches of equal size, up to one row.

    Tensors and arrays are split along their first dimension, in lists, tuples, mappings and data
    classes too, and so is a list that has one plain value, such as a file name, for each row. What
    has no rows, a number say, goes with every micro-batch.

    Args:
        batch: What a loader gives.
        accumulate: Number of micro-batches; a batch of fewer rows gives fewer.

    Raises:
        ValueError: If it has no tensor, or tensors with different numbers of rows.
        TypeError: If something in it cannot be split.
    """
    rows = _rows(batch)
    parts = max(1, min(accumulate, rows))
    bounds = [rows * number // parts for number in range(parts + 1)]
    return [MicroBatch(batch, start, stop - start) for start, stop in itertools.pairwise(bounds)]


def _rows(batch: Any) -> int:
    found = {name: len(array) for name, array in _arrays(batch, "batch") if array.ndim}
    if not found:
        raise ValueError(
            f"accumulate: a batch of type {type(batch).__name__} holds no tensor with rows, so it "
            f"cannot be split into micro-batches; have the collate function give tensors"
        )
    first, rows = next(iter(found.items()))
    for name, number in found.items():
        if number != rows:
            raise ValueError(
                f"accumulate: {first} has {rows} rows and {name} has {number}, so the batch cannot "
                f"be split into micro-batches; give every tensor of a batch a row for each sample"
            )
    return rows


def _arrays(value: Any, name: str) -> Iterator[tuple[str, Any]]:
    """Yield the tensors and arrays of a batch, with their places in it."""
    if _is_array(value):
        yield name, value
    elif isinstance(value, Mapping):
        for key, part in value.items():
            yield from _arrays(part, f"{name}[{key!r}]")
    elif isinstance(value, (list, tuple)):
        for number, part in enumerate(value):
            yield from _arrays(part, f"{name}[{number}]")
    elif _is_record(value):
        for field in dataclasses.fields(value):
            yield from _arrays(getattr(value, field.name), f"{name}.{field.name}")
    elif not isinstance(value, _PLAIN):
        raise TypeError(
            f"accumulate: {name} is of type {type(value).__name__}, which cannot be split into "
            f"micro-batches; have the collate function give tensors, lists and mappings"
        )


def _cut(value: Any, rows: int, window: slice) -> Any:
    if isinstance(value, Tensor):
        return (value[window] if value.ndim else value).clone()
    if _is_array(value):
        return (value[window] if value.ndim else value).copy()
    if isinstance(value, Mapping):
        parts = {key: _cut(part, rows, window) for key, part in value.items()}
        return parts if type(value) is dict else type(value)(parts)  # type: ignore[call-arg]
    if isinstance(value, (list, tuple)):
        if len(value) == rows and all(isinstance(part, _PLAIN) for part in value):
            kept = list(value[window])
        else:
            kept = [_cut(part, rows, window) for part in value]
        return type(value)(*kept) if hasattr(value, "_fields") else type(value)(kept)
    if _is_record(value):
        names = [field.name for field in dataclasses.fields(value)]
        parts = {name: _cut(getattr(value, name), rows, window) for name in names}
        return dataclasses.replace(value, **parts)
    return value


def _is_array(value: Any) -> bool:
    return isinstance(value, Tensor) or (hasattr(value, "__array__") and hasattr(value, "ndim"))


def _is_record(value: Any) -> bool:
    return dataclasses.is_dataclass(value) and not isinstance(value, type)
