"""Columns of a data set as classes of its samples, each read once."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from negplug.hosts.column_classes import as_classes
from negplug.hosts.column_search import column_of
from negplug.hosts.subsets import chosen, reference_to


class Columns:
    """Reads columns of a data set, each once until it is to read them again.

    It holds the data set weakly, so that whoever holds it can be pickled and copied.
    """

    def __init__(self) -> None:
        self._chain: list[Callable[[], Any]] = []
        self._read: dict[str, Tensor] = {}
        self._due: set[str] = set()

    def read_again(self) -> None:
        """Read each column anew when it is asked for next: a recipe may have given it new values.

        Pseudo-labels, say, which follow from the embeddings of the epoch before.
        """
        self._due.update(self._read)

    def of(self, dataset: Any, name: str) -> Tensor:
        """Return the classes of the samples ``[n]`` int64; see :func:`.as_classes`.

        The very tensor that was returned before, as long as the data set and the choice of its
        subsets are the same objects, and the values that are read again are the same.

        Args:
            dataset: A data set that knows its length.
            name: Of the column.

        Raises:
            ValueError: If there is no such column, or more than one.
            TypeError: If its values name no classes.
        """
        chain = list(chosen(dataset))
        if len(chain) != len(self._chain) or any(
            known() is not part for known, part in zip(self._chain, chain, strict=True)
        ):
            self._chain, self._read = [reference_to(part) for part in chain], {}
        known = self._read.get(name)
        if known is None or name in self._due:
            found = as_classes(name, column_of(dataset, name))
            self._due.discard(name)
            if known is None or not torch.equal(found, known):
                self._read[name] = found
        return self._read[name]

    def __getstate__(self) -> dict[str, Any]:
        return {"_chain": [], "_read": {}, "_due": set()}
