"""What tells one data set from another, as far as it can be had without loading a sample.

State per sample is kept under positions in the data set, so it is of that data set alone. Loading
samples to compare them would draw from the random number generators of the run and open files
ahead of the workers. So the tables that a data set keeps in memory are read instead: paths,
targets, images; of each the first entry, the last and some between. Paths count from the folder
that they share, so that a data set may be moved.

A data set that keeps nothing in memory (a database, say) is known by its type, its length, its
plain settings and some bytes of its files. What functions and readers hold for it counts as well
(:mod:`.held`). A user who knows better gives it an attribute ``negplug_token``, a string or an
integer, which then stands for all of it.
"""

from __future__ import annotations

import array
import collections
import hashlib
import os
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset, Subset

from negplug.hosts.subsets import length
from negplug.hosts.trainer.dataset.held import contents, held_by
from negplug.hosts.trainer.dataset.paths import is_path, without_folder

TOKEN = "negplug_token"

_ENTRIES = 16
_VALUES = 64
_DEPTH = 6


@dataclass(frozen=True)
class Fingerprint:
    """A description of what a recipe trains on.

    Attributes:
        name: For messages, such as ``Subset of 16 from ImageFolder of 50000``.
        selection: Digest of the positions that each ``Subset`` takes from its parent.
        content: Digest of all that is known.
        blind: Whether nothing but the type and the length is known.
    """

    name: str
    selection: str
    content: str
    blind: bool = False

    def __str__(self) -> str:
        """Return what a checkpoint keeps."""
        return f"{self.name}, {self.content}"


def of_dataset(dataset: Any) -> Fingerprint:
    """Return the fingerprint of a data set, or of a collection of data sets.

    Raises:
        TypeError: If a ``negplug_token`` is neither a string nor an integer.
    """
    content = list(_content(dataset, 0))
    blind = len(content) == 1 and _token(dataset) is None
    return Fingerprint(_name(dataset), selection(dataset), _digest(iter(content)), blind)


def selection(dataset: Any) -> str:
    """Return the digest of the positions that each ``Subset`` in a data set takes."""
    return _digest(_selected(dataset, 0))


class Several(tuple[Any, ...]):
    """The data sets of a collection of loaders, in its order."""

    __slots__ = ()


def dataset_of(loader: Any, *, numbered_inside: bool = False) -> Any:
    """Return the data set that the indexes of a training loader count.

    Args:
        loader: What the recipe trains on: a loader or a collection of loaders.
        numbered_inside: Whether the samples say their own indexes, which a ``Subset`` around
            them leaves as they are.

    Returns:
        The data set; of a collection of loaders, those of all of them; of a loader that has none,
        the loader.
    """
    if isinstance(loader, dict):
        loader = tuple(loader.values())
    if isinstance(loader, (list, tuple)):
        return Several(dataset_of(each) for each in loader)
    dataset = getattr(loader, "dataset", None)
    dataset = loader if dataset is None else dataset
    while numbered_inside and type(dataset) is Subset:
        dataset = dataset.dataset
    return dataset


def _name(dataset: Any) -> str:
    token = _token(dataset)
    if token is not None:
        return f"{TOKEN} {token!r}"
    if isinstance(dataset, Several):
        return " and ".join(map(_name, dataset))
    size = length(dataset)
    name = type(dataset).__name__ + ("" if size is None else f" of {size}")
    return f"{name} from {_name(dataset.dataset)}" if isinstance(dataset, Subset) else name


def _selected(dataset: Any, depth: int) -> Iterator[str]:
    """Yield the positions that subsets take; nothing where a token stands for the data set."""
    if depth > _DEPTH or _token(dataset) is not None:
        return
    if isinstance(dataset, Subset):
        yield _positions(dataset.indices)
    for _, inner in _inside(dataset):
        yield from _selected(inner, depth + 1)


def _content(dataset: Any, depth: int) -> Iterator[str]:
    token = _token(dataset)
    if token is not None or depth > _DEPTH:
        yield repr(token)
        return
    size = length(dataset)
    yield f"{type(dataset).__name__} {size}"
    if isinstance(dataset, Subset):
        yield _positions(dataset.indices)
    if _is_table(dataset, size):  # a list of samples
        yield from _entries(dataset)
        return
    if size and hasattr(dataset, "column_names") and hasattr(dataset, "with_format"):
        # Of Hugging Face's: some samples as they are stored, in the order of shuffle and select.
        stored = dataset.with_format("arrow")[places_in(range(size))].to_pydict()
        yield from (f"{name} {values!r}" for name, values in sorted(stored.items()))
        return
    nested = list(_inside(dataset))
    for name, inner in nested:
        yield name
        yield from _content(inner, depth + 1)
    tables = [(name, value) for name, value in _attributes(dataset) if _is_table(value, size)]
    for name, table in tables:
        yield name
        yield from _entries(table)
    if isinstance(dataset, Dataset) and not (nested or tables):
        # All there is to tell by, such as the seed of made-up images. Folders may be moved, and
        # files that are open are those that will be.
        files = set[str]()
        for name, value in _attributes(dataset):
            files |= contents(value)
            if _is_plain(value) and ("://" in str(value) or not is_path(value)):
                yield f"{name} {value!r}"
        yield from sorted(files)


def tables_of(dataset: Any, name: str = "", depth: int = 0) -> Iterator[tuple[str, Any]]:
    """Yield the tables with an entry per sample that a data set keeps in memory, and their names.

    No two have one name. Nothing of a data set for which a token stands.
    """
    if _token(dataset) is not None or depth > _DEPTH:
        return
    size = length(dataset)
    if _is_table(dataset, size):
        yield name, dataset
        return
    parts = collections.Counter[str]()  # those of a list have one name
    for inner, nested in _inside(dataset):
        parts[inner] += 1
        yield from tables_of(nested, f"{name}.{inner}.{parts[inner]}", depth + 1)
    for inner, value in _attributes(dataset):
        if _is_table(value, size):
            yield f"{name}.{inner}", value


def _attributes(dataset: Any) -> Iterator[tuple[str, Any]]:
    """Yield what a data set keeps, in the order of names, and what is in collections of tables."""
    for name, value in sorted(getattr(dataset, "__dict__", {}).items()):
        yield name, value
        if isinstance(value, dict) and len(value) <= _VALUES:
            yield from ((f"{name}.{key}", inner) for key, inner in value.items())
        elif isinstance(value, (list, tuple)) and len(value) <= _ENTRIES:
            tables = enumerate(value) if all(map(_is_array, value)) else ()
            yield from ((f"{name}.{number}", inner) for number, inner in tables)
    yield from held_by(dataset)


def _inside(dataset: Any) -> Iterator[tuple[str, Any]]:
    """Yield the data sets that a data set, or a collection of them, is made of."""
    if isinstance(dataset, Several):
        yield from ((str(number), inner) for number, inner in enumerate(dataset))
    else:
        for name, value in _attributes(dataset):
            several = value if isinstance(value, (list, tuple)) else [value]
            if several and all(isinstance(each, Dataset) for each in several):
                yield from ((name, each) for each in several)


def _token(dataset: Any) -> str | int | None:
    token = getattr(dataset, TOKEN, None)
    if token is None or isinstance(token, (str, int)):
        return token
    raise TypeError(
        f"{TOKEN} of {type(dataset).__name__} must be a string or an integer, got "
        f"{type(token).__name__}"
    )


def _is_array(value: Any) -> bool:
    if isinstance(value, Tensor):
        return value.layout == torch.strided and not value.is_meta
    return type(value).__module__ == "numpy" and hasattr(value, "shape")


def _is_table(value: Any, size: int | None) -> bool:
    """Whether a value has an entry per sample that can be read at no cost."""
    if isinstance(value, Several):
        return False
    if isinstance(value, (list, tuple)) or hasattr(value, "iloc"):
        return bool(size) and len(value) == size
    return bool(size) and _is_array(value) and value.shape[:1] == (size,)


def _entries(table: Any) -> Iterator[str]:
    yield from map(repr, without_folder([entry_of(table, place) for place in places_in(table)]))


def places_in(table: Any) -> list[int]:
    """Return the first place of a table, the last and some between."""
    last, number = len(table) - 1, min(_ENTRIES, len(table))
    return [last * step // max(1, number - 1) for step in range(number)]


def entry_of(table: Any, place: int) -> Any:
    """Return an entry in lists and plain values, whose ``repr`` is that of any process."""
    rows = getattr(table, "iloc", table)  # of a data frame
    return _entry(rows[place])


def _entry(value: Any, depth: int = 0) -> Any:
    if isinstance(value, os.PathLike):
        value = os.fspath(value)
    if isinstance(value, dict):
        value = [*value.items()]
    elif hasattr(value, "tolist"):  # a tensor, an array, a row of a data frame, a scalar of numpy
        flat = value.reshape(-1) if hasattr(value, "reshape") else value
        value = flat[:: max(1, len(flat) // _VALUES)].tolist()
    if isinstance(value, (list, tuple)) and depth < _DEPTH:
        return [_entry(inner, depth + 1) for inner in value[: 2 * _VALUES]]
    return value if value is None or _is_plain(value) else type(value).__name__


def _is_plain(value: Any) -> bool:
    return isinstance(value, (bool, int, float, complex, bytes, str))


def _positions(indices: Any) -> str:
    """Return a digest of all positions in a parent."""
    given = indices.tolist() if hasattr(indices, "tolist") else list(indices)
    try:
        data = array.array("q", given).tobytes()
    except (TypeError, OverflowError):
        data = repr(given).encode()
    return hashlib.blake2b(data, digest_size=8).hexdigest()


def _digest(parts: Iterator[str]) -> str:
    return hashlib.blake2b("\n".join(parts).encode(), digest_size=8).hexdigest()
