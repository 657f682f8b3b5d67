"""Whose row is whose: the rows of a batch, found again among the samples that it was made of.

A collate function may drop, sort, pack or repeat samples, and its source does not say so. What it
was given and what it returned do: a collated image, name or label is a copy of its sample's. So
every column of the batch (the rows of a tensor, the entries of a list) is compared with every
field of the samples, bit for bit, at a few places of each value. Nothing is changed and nothing
is called.

The column that tells the most samples apart decides: where images are augmented in the collate
function only names and labels are found again, and where labels repeat the images know better. Of
several such columns one that is in order suffices: a recipe may batch shuffled views beside it.
"""

from __future__ import annotations

import collections
import math
import struct
from collections.abc import Hashable, Iterator, Mapping, Sequence
from numbers import Real
from typing import Any, Literal

import torch
from torch import Tensor

_PLACES = 16
"""Of an array, so many values are compared; longer lists of numbers are arrays."""
_DEPTH = 4
"""How deep samples and batches are searched."""

_NUMBER = "number"
"""The kind of single numbers and of text, which are told apart by their field."""

_OBJECT = "object"
"""The kind of containers and of all else, which are recognised as the very objects they were."""

_Owners = dict[Hashable, set[int]]
"""The samples of each value of a field."""


def misplaced(samples: Sequence[Any], batch: Any) -> tuple[int, int] | Literal[False] | None:
    """Compare a batch with the samples it was made of.

    Args:
        samples: What the collate function was given, in that order.
        batch: What it returned.

    Returns:
        False if row b is sample b; a row and the sample that it is where it is not, the row being
        -1 for a sample that was lost, replaced or repeated; None if nothing in the batch tells.
    """
    if any(sample is None for sample in samples):
        return -1, next(number for number, sample in enumerate(samples) if sample is None)
    fields = _fields(samples)
    best, where = (1, False), None  # how many samples a column tells apart, and is it in order
    for kind, keys in _columns(batch, 0):
        for owners in _comparable(fields, kind):
            found = [owners.get(key) for key in keys]
            known = [(row, of) for row, of in enumerate(found) if of]
            # Numbers coincide, arrays do not: part of a column of numbers is no evidence.
            if not known or (kind == _NUMBER and len(known) < len(found)):
                continue
            if kind != _NUMBER and _repeated(keys, len(samples)):
                return -1, min(known[0][1])
            wrong = _first_wrong(known, len(found), len(samples))
            if wrong is None and 2 * len(known) < len(found):
                continue  # too few are found again to speak for the others
            apart = min(len(set(keys)), len({min(of) for _, of in known}))
            if (apart, wrong is None) <= best:
                continue
            best, where = (apart, wrong is None), wrong
            if apart == len(samples) and wrong is None:
                return False
    if best[0] == 1:
        return None
    return False if where is None else where


def _first_wrong(
    known: list[tuple[int, set[int]]], rows: int, samples: int
) -> tuple[int, int] | None:
    """Return the first of the known rows that is another sample than its place says.

    Rows may be those of several views, view after view or sample after sample.
    """
    views, rest = divmod(rows, samples)
    first = next(((row, min(of)) for row, of in known if row % samples not in of), None)
    if first is None:
        # In order; but then too many or too few.
        return (-1, rows % samples) if rest else None
    by_sample = not rest and all(row // views in of for row, of in known)
    return None if by_sample else first


def _repeated(keys: list[Hashable], samples: int) -> bool:
    """Whether there are more rows than samples and each is there twice; two views would differ."""
    return len(keys) > samples and min(collections.Counter(keys).values()) > 1


def _fields(samples: Sequence[Any]) -> dict[tuple[Hashable, Any], _Owners]:
    """Return the owners of each value: of numbers and text by field, of arrays by size."""
    fields: dict[tuple[Hashable, Any], _Owners] = collections.defaultdict(dict)
    for number, sample in enumerate(samples):
        for path, kind, key in _values(sample, (), 0):
            field = (kind, path if kind == _NUMBER else ())
            fields[field].setdefault(key, set()).add(number)
    return fields


def _comparable(fields: dict[tuple[Hashable, Any], _Owners], kind: Hashable) -> list[_Owners]:
    return [owners for (own, _), owners in fields.items() if own == kind]


def _values(
    value: Any, path: tuple[Hashable, ...], depth: int
) -> Iterator[tuple[tuple[Hashable, ...], Hashable, Hashable]]:
    """Yield the way to each value in a sample, containers too, its kind and what stands for it."""
    kind, key = _key(value)
    if kind is not None:
        yield path, kind, key
    if kind == _OBJECT and depth < _DEPTH:
        for name, part in _parts(value):
            yield from _values(part, (*path, name), depth + 1)


def _columns(batch: Any, depth: int) -> Iterator[tuple[Hashable, list[Hashable]]]:
    """Yield the columns of a batch: the kind of their rows, and the key of each."""
    if depth > _DEPTH or isinstance(batch, (str, bytes, Real)):
        return
    array = _as_array(batch)
    if array is not None:
        yield from _rows(array)
        if array.ndim > 2:
            yield from _rows(array.reshape((-1, *array.shape[2:])))  # views, stacked
        return
    if isinstance(batch, (list, tuple)):
        keys = [_key(item) for item in batch]
        for kind in {kind for kind, _ in keys} - {None}:
            yield kind, [key if own == kind else None for own, key in keys]
        for column in _transposed(batch):
            yield from _columns(column, depth + 1)
    parts = _parts(batch)
    if len(parts) <= _PLACES:
        for _, part in parts:
            yield from _columns(part, depth + 1)


def _transposed(rows: Sequence[Any]) -> list[list[Any]]:
    """Return the fields of rows that were left as they are, containers of the same parts."""
    if not rows or any(_key(row)[0] != _OBJECT for row in rows):
        return []
    parts = [_parts(row) for row in rows]
    if len(parts[0]) > _PLACES or any(len(part) != len(parts[0]) for part in parts):
        return []
    return [[value for _, value in column] for column in zip(*parts, strict=True)]


def _rows(array: Any) -> Iterator[tuple[Hashable, list[Hashable]]]:
    if array.ndim and math.prod(array.shape):
        rows = array.reshape((array.shape[0], -1))
        yield _kind(rows.shape[1]), [row.tobytes() for row in _few(rows)]


def _key(value: Any) -> tuple[Hashable | None, Hashable]:
    """Return the kind of a value, None if it cannot be compared, and what stands for it."""
    if isinstance(value, (str, bytes)):
        return _NUMBER, value
    if isinstance(value, Real):
        try:
            return _NUMBER, struct.pack("=f", float(value))
        except OverflowError:
            return _NUMBER, struct.pack("=f", math.inf)
    array = _as_array(value)
    if array is None:
        return _OBJECT, id(value)
    numbers = math.prod(array.shape)
    return (_kind(numbers), _few(array.reshape((1, -1))).tobytes()) if numbers else (None, None)


def _kind(numbers: int) -> Hashable:
    return _NUMBER if numbers == 1 else numbers


def _few(rows: Any) -> Any:
    """Return some columns of ``[n, m]`` as NumPy's float32, the same for every n."""
    step = max(1, rows.shape[1] // _PLACES)
    few = rows[:, : step * _PLACES : step]
    if isinstance(few, Tensor):
        if few.dtype == torch.float32:
            return few.numpy()
        few = few.to(torch.float64).numpy()
    return few.astype("float64").astype("float32")


def _as_array(value: Any) -> Any:
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
