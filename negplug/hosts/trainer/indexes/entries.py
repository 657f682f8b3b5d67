"""The entries of samples and of batches, and what stands for each when they are compared.

An array is known by a few of its values, a number or a text by itself, and anything else as the
very object that it is.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Hashable, Iterator, Mapping, Sequence
from numbers import Real
from typing import Any, NamedTuple

import torch
from torch import Tensor

_PLACES = 16
"""Of an array, so many values are compared; longer lists of numbers are arrays."""
_DEPTH = 4
"""How deep samples and batches are searched."""

NUMBER = "number"
"""The kind of single numbers and of text, which are told apart by their field."""

OBJECT = "object"
"""The kind of containers and of all else, which are recognised as the very objects they were."""

_PICTURE = "picture"
"""The kind of Pillow's images, recognised likewise."""

Path = tuple[Hashable, ...]


class Column(NamedTuple):
    """Part of a batch with an entry for each row.

    Attributes:
        kind: Of the entries; that of arrays is their number of values.
        keys: What stands for each.
        rows: The entries ``[n, …]``, of an array.
    """

    kind: Hashable
    keys: list[Hashable]
    rows: Any


class Entry(NamedTuple):
    """A value in a sample.

    Attributes:
        path: The way to it.
        value: Itself.
        kind: Of it; None if it cannot be compared.
        key: What stands for it.
    """

    path: Path
    value: Any
    kind: Hashable | None
    key: Hashable


def entries(value: Any, path: Path = ()) -> Iterator[Entry]:
    """Yield the values in a sample, containers too."""
    kind, key = _key(value)
    yield Entry(path, value, kind, key)
    if kind == OBJECT and len(path) < _DEPTH:
        for name, part in _parts(value):
            yield from entries(part, (*path, name))


def columns(batch: Any, depth: int = 0) -> Iterator[Column]:
    """Yield the columns of a batch."""
    if depth > _DEPTH or isinstance(batch, (str, bytes, Real)):
        return
    array = as_array(batch)
    if array is not None:
        yield from _rows(array)
        if array.ndim > 2:
            yield from _rows(array.reshape((-1, *array.shape[2:])))  # views, stacked
        return
    if isinstance(batch, (list, tuple)):
        keys = [_key(item) for item in batch]
        for kind in {kind for kind, _ in keys} - {None}:
            yield Column(kind, [key if own == kind else None for own, key in keys], None)
        for column in _transposed(batch):
            yield from columns(column, depth + 1)
    parts = _parts(batch)
    if len(parts) <= _PLACES:
        for _, part in parts:
            yield from columns(part, depth + 1)


def _transposed(rows: Sequence[Any]) -> list[list[Any]]:
    """Return the fields of rows that were left as they are, containers of the same parts."""
    if not rows or any(_key(row)[0] != OBJECT for row in rows):
        return []
    parts = [_parts(row) for row in rows]
    if len(parts[0]) > _PLACES or any(len(part) != len(parts[0]) for part in parts):
        return []
    return [[value for _, value in column] for column in zip(*parts, strict=True)]


def _rows(array: Any) -> Iterator[Column]:
    if array.ndim and math.prod(array.shape):
        rows = array.reshape((array.shape[0], -1))
        keys: list[Hashable] = [row.tobytes() for row in _few(rows)]
        yield Column(_kind(rows.shape[1]), keys, array if array.ndim > 1 else None)


def _key(value: Any) -> tuple[Hashable | None, Hashable]:
    """Return the kind of a value, None if it cannot be compared, and what stands for it."""
    if isinstance(value, (str, bytes)):
        return NUMBER, value
    if isinstance(value, Real):
        try:
            return NUMBER, struct.pack("=f", float(value))
        except OverflowError:
            return NUMBER, struct.pack("=f", math.inf)
    array = as_array(value)
    if array is None:
        return _PICTURE if is_picture(value) else OBJECT, id(value)
    numbers = math.prod(array.shape)
    return (_kind(numbers), _few(array.reshape((1, -1))).tobytes()) if numbers else (None, None)


def _kind(numbers: int) -> Hashable:
    return NUMBER if numbers == 1 else numbers


def _few(rows: Any) -> Any:
    """Return some columns of ``[n, m]`` as NumPy's float32, the same for every n."""
    step = max(1, rows.shape[1] // _PLACES)
    few = rows[:, : step * _PLACES : step]
    if isinstance(few, Tensor):
        if few.dtype == torch.float32:
            return few.numpy()
        few = few.to(torch.float64).numpy()
    return few.astype("float64").astype("float32")


def is_picture(value: Any) -> bool:
    """Return whether a value is an image of Pillow."""
    return type(value).__module__.partition(".")[0] == "PIL"


def as_array(value: Any) -> Any:
    """Return numbers in the memory of the host as a tensor or NumPy's array, else None."""
    if isinstance(value, Tensor):
        plain = value.layout == torch.strided and value.device.type == "cpu"
        return value.detach() if plain and not value.is_complex() else None
    if type(value).__module__ == "numpy" and hasattr(value, "dtype"):
        return value if value.dtype.kind in "biuf" else None
    if isinstance(value, (list, tuple)) and len(value) > _PLACES and isinstance(value[0], Real):
        try:
            return torch.as_tensor(value)
        except (TypeError, ValueError, RuntimeError, OverflowError):
            return None
    return None


def _parts(value: Any) -> list[tuple[Hashable, Any]]:
    """Return what a container holds: entries, values or attributes."""
    if isinstance(value, Mapping):
        return list(value.items())
    if isinstance(value, (list, tuple)):
        return list(enumerate(value))
    return list(getattr(value, "__dict__", {}).items())
