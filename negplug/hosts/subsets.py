"""What can be asked of any data set: its length, its parent, what a torch ``Subset`` chooses."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch.utils.data import Subset

from negplug.contract.dataset import ParentSamples


class Parents:
    """Finds the outermost parent of a data set, once for each list of indices.

    It holds those lists and not the data set, so that whoever holds it can be pickled.
    """

    def __init__(self) -> None:
        self._lists: list[Any] = []
        self._found: ParentSamples | None = None
        self._read = False

    def read_again(self) -> None:
        """Read the lists anew when they are asked for next: they may be changed in place."""
        self._read = False

    def of(self, dataset: Any) -> ParentSamples | None:
        """Return where the samples are in the parent, of all Subsets; None if it is no Subset.

        The very object that was returned before, as long as that is the same.
        """
        lists = []
        while isinstance(dataset, Subset):
            lists.append(dataset.indices)
            dataset = dataset.dataset
        known = self._read and len(lists) == len(self._lists)
        if not (known and all(a is b for a, b in zip(lists, self._lists, strict=True))):
            found = _composed(lists, dataset)
            if not _same(found, self._found):
                self._found = found
            self._lists, self._read = lists, True
        return self._found


def _composed(lists: list[Any], parent: Any) -> ParentSamples | None:
    if not lists:
        return None
    places = torch.as_tensor(lists[0]).clone()  # an array may be changed in place
    for outer in lists[1:]:
        places = torch.as_tensor(outer)[places]
    return ParentSamples(places, length(parent))


def _same(one: ParentSamples | None, other: ParentSamples | None) -> bool:
    if one is None or other is None:
        return one is other
    return one.size == other.size and torch.equal(one.indexes, other.indexes)


def length(dataset: Any) -> int | None:
    """Return the number of samples, None of a data set that does not know it."""
    try:
        return len(dataset)
    except (TypeError, NotImplementedError):
        return None


def chosen(dataset: Any) -> Iterator[Any]:
    """Yield what decides which samples a data set has: itself, and what its subsets choose."""
    yield dataset
    while isinstance(dataset, Subset):
        yield dataset.indices
        dataset = dataset.dataset
        yield dataset


def reference_to(part: Any) -> Callable[[], Any]:
    """Return what gives a data set, or a part of it, as long as it exists; it is held weakly."""
    try:
        return weakref.ref(part)
    except TypeError:  # a list; to hold it costs nothing, for a data set holds it
        return lambda: part
