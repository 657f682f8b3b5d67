"""A column of a data set, found by its name: one value for each sample.

A name is looked for in what a data set keeps beside its samples, which are never loaded:

- an attribute with an entry for each sample (a list, an array, a tensor, a column of a frame);
- a column of the data set itself (``dataset["patient_id"]`` of Hugging Face's);
- a column of a table among its attributes: a frame of pandas or polars, a mapping of lists;
- the same of a data set that it wraps; of a ``Subset`` those of its samples; of a ``ConcatDataset``
  those of all parts, one after another.

A data set that keeps an order of its own beside the column is warned of: nothing says whether its
samples come in that order.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch.utils.data import ConcatDataset, Dataset, Subset

from negplug.hosts.column_classes import as_classes
from negplug.hosts.subsets import length

_DEPTH = 6  # of data sets in data sets


def column_of(dataset: Any, name: str) -> list[Any]:
    """Return the values of a column, one for each sample, in their order.

    Raises:
        ValueError: If there is no such column, or more than one.
    """
    found = _found(dataset, name, 0)
    if found is not None:
        return found
    size = length(dataset)
    known = sorted({known for known in _names(dataset, 0) if not known.startswith("_")})
    offered = f"it has {', '.join(known)}" if known else "it keeps none"
    raise ValueError(
        f"{type(dataset).__name__} of {size} has no column {name!r} with a value for each sample; "
        f"{offered}"
    )


def _found(dataset: Any, name: str, depth: int) -> list[Any] | None:
    size = length(dataset)
    if size is None or depth > _DEPTH:
        return None
    if isinstance(dataset, Subset):
        inner = _found(dataset.dataset, name, depth + 1)
        return None if inner is None else [inner[int(place)] for place in dataset.indices]
    if isinstance(dataset, ConcatDataset):
        parts = [_found(part, name, depth + 1) for part in dataset.datasets]
        joined = [part for part in parts if part is not None]
        return [v for part in joined for v in part] if len(joined) == len(parts) else None
    own = list(_own(dataset, name, size))
    if len(own) > 1:
        first, *others = (as_classes(name, values) for values in own)
        if not all(torch.equal(first, other) for other in others):
            raise ValueError(
                f"{type(dataset).__name__} has {len(own)} columns {name!r}, which differ; give the "
                f"values as an attribute of another name"
            )
    inside = (_found(inner, name, depth + 1) for inner in _wrapped(dataset, size))
    found = own[0] if own else next((values for values in inside if values is not None), None)
    if found is not None:
        _warn_of_order(dataset, name, size)
    return found


def _own(dataset: Any, name: str, size: int) -> Iterator[list[Any]]:
    """Yield what goes by a name in a data set and in the tables that it keeps."""
    values = _per_sample(getattr(dataset, name, None), size)
    if values is not None:
        yield values
    for table in _tables(dataset):
        if name in _column_names(table):
            values = _per_sample(_as_stored(table)[name], size)
            if values is not None:
                yield values


def _as_stored(table: Any) -> Any:
    """Return a table of Hugging Face's without the transform that it applies to what is read."""
    with_format = getattr(table, "with_format", None)
    return with_format(None) if callable(with_format) else table


def _warn_of_order(dataset: Any, name: str, size: int) -> None:
    """Warn if a data set keeps an order of positions, in which its samples may come."""
    for attribute, order in _attributes(dataset).items():
        whole = _per_sample(order, size) if attribute != name else None
        if whole is None or not all(type(place) is int for place in whole):
            continue
        if whole != sorted(whole) and sorted(whole) == list(range(size)):
            warnings.warn(
                f"the column {name!r} is taken as {type(dataset).__name__} keeps it, and not in "
                f"the order of {attribute!r}, in which its samples may come; if they do, give "
                f"their values in that order, as an attribute of another name",
                stacklevel=2,
            )
            return


def _tables(dataset: Any) -> list[Any]:
    return [dataset, *_attributes(dataset).values()]


def _attributes(dataset: Any) -> dict[str, Any]:
    return getattr(dataset, "__dict__", {})


def _names(dataset: Any, depth: int) -> Iterator[str]:
    size = length(dataset)
    if size is None or depth > _DEPTH:
        return
    if isinstance(dataset, Subset):
        yield from _names(dataset.dataset, depth + 1)
    elif isinstance(dataset, ConcatDataset):
        yield from set.intersection(*(set(_names(part, depth + 1)) for part in dataset.datasets))
    else:
        # Of a table every column: to look at its values may mean to decode images.
        columns = (name for table in _tables(dataset) for name in _column_names(table))
        attributes = (n for n, v in _attributes(dataset).items() if _per_sample(v, size))
        yield from (*attributes, *columns)
        for inner in _wrapped(dataset, size):
            yield from _names(inner, depth + 1)


def _wrapped(dataset: Any, size: int) -> list[Any]:
    """Return the data sets of as many samples that a data set keeps as attributes."""
    return [
        value
        for value in _attributes(dataset).values()
        if (isinstance(value, Dataset) or _column_names(value)) and length(value) == size
    ]


def _column_names(table: Any) -> list[str]:
    if isinstance(table, Mapping):
        return [name for name in table if isinstance(name, str)]
    for attribute in ("column_names", "columns"):
        names: Any = getattr(table, attribute, None)
        if isinstance(names, Mapping) or callable(names) or not hasattr(names, "__iter__"):
            continue
        return [name for name in names if isinstance(name, str)]
    return []


def _per_sample(values: Any, size: int) -> list[Any] | None:
    """Return a value for each sample as a list; None if there is none for each."""
    if isinstance(values, (str, bytes, Mapping, Dataset)) or callable(values):
        return None
    if length(values) != size or not hasattr(values, "__iter__") or _column_names(values):
        return None
    shape: tuple[int, ...] = getattr(values, "shape", (size,))
    if len(shape) == 2 and shape[1] == 1 and hasattr(values, "reshape"):
        values = values.reshape(-1)
    elif len(shape) != 1:
        return None
    for convert in ("tolist", "to_pylist", "to_list"):
        if hasattr(values, convert):
            return list(getattr(values, convert)())
    return list(values)
