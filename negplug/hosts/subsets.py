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

    def of(self, dataset: Any) -> ParentSamples | None:
        """Return where the samples are in the parent, of all Subsets; None if it is no Subset."""
        lists = []
        while isinstance(dataset, Subset):
            lists.append(dataset.indices)
            dataset = dataset.dataset
        known = len(lists) == len(self._lists)
        if not (known and all(a is b for a, b in zip(lists, self._lists, strict=True))):
            self._lists, self._found = lists, _composed(lists, dataset)
        return self._found


def _composed(lists: list[Any], parent: Any) -> ParentSamples | None:
    if not lists:
        return None
    places = torch.as_tensor(lists[0])
    for outer in lists[1:]:
        places = torch.as_tensor(outer)[places]
    return ParentSamples(places, length(parent))


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
