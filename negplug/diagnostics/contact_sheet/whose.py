"""Whose embedding a row of a loss call is: which sample of the loader's batch, which view."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from negplug.contract.batch import ContrastiveBatch
from negplug.contract.ids import UNKNOWN
from negplug.contract.rows import Rows


@dataclass(frozen=True)
class Row:
    """Whose embedding a row is, as far as that is known; None is unknown.

    Attributes:
        place: Which sample of the loader's batch.
        view: Which view of it.
        index: Data set index.
        label: Its label.
    """

    place: int | None = None
    view: int | None = None
    index: int | None = None
    label: int | None = None


class Whose:
    """Finds the rows of a call among the samples of the loader's batch.

    Args:
        batch: The call's batch, without gradient.
        size: B, the number of samples in the loader's batch.
    """

    def __init__(self, batch: ContrastiveBatch, size: int) -> None:
        own = batch.own_keys
        self._first = own.start or 0
        self._anchors = _Placed(batch.anchors, slice(None), size)
        symmetric = batch.anchors.same_as(batch.keys)
        self._keys = self._anchors if symmetric else _Placed(batch.keys, own, size)
        self._all_keys = batch.keys

    def anchor(self, number: int) -> Row:
        """Return whose anchor ``number`` is."""
        return self._anchors.row(number)

    def key(self, column: int) -> Row:
        """Return whose key ``column`` of the batch is."""
        if 0 <= column - self._first < len(self._keys):
            return self._keys.row(column - self._first)
        return self.of(self._all_keys, column)  # another rank's

    def of(self, pool: Rows, column: int) -> Row:
        """Return whose row of any pool it is.

        A row is one of the batch if it has the id and the very values of one: a queue may hold
        an earlier embedding of the same sample.
        """
        name, values = int(pool.ids[column]), pool.embeddings[column].cpu()
        for placed in (self._keys, self._anchors):
            found = placed.find(name, values)
            if found is not None:
                return placed.row(found)
        return Row(index=_at(pool.indexes, column), label=_at(pool.labels, column))


class _Placed:
    """This rank's anchors or keys, on the CPU, and which sample of the batch each is."""

    def __init__(self, rows: Rows, own: slice, size: int) -> None:
        self._values, self._ids = rows.embeddings[own].cpu(), rows.ids[own].cpu()
        self._indexes = None if rows.indexes is None else rows.indexes[own].cpu()
        self._labels = None if rows.labels is None else rows.labels[own].cpu()
        self._size = size if _view_after_view(self._ids, size) else None

    def __len__(self) -> int:
        return len(self._ids)

    def row(self, number: int) -> Row:
        index, label = _at(self._indexes, number), _at(self._labels, number)
        if self._size is None:
            return Row(None, None, index, label)
        # A single view may be any of the loader's: the loss is not told which.
        view = number // self._size if len(self) > self._size else None
        return Row(number % self._size, view, index, label)

    def find(self, name: int, values: Tensor) -> int | None:
        if name == UNKNOWN:
            return None
        for number in (self._ids == name).nonzero()[:, 0].tolist():
            if torch.equal(self._values[number], values):
                return int(number)
        return None


def _view_after_view(ids: Tensor, size: int) -> bool:
    """Whether the rows are the batch's samples, once for each view; parts of images are not."""
    if size < 1 or not len(ids) or len(ids) % size:
        return False
    by_view = ids.reshape(-1, size)
    return bool((by_view == by_view[0]).all())


def _at(values: Tensor | None, number: int) -> int | None:
    value = UNKNOWN if values is None else int(values[number])
    return None if value == UNKNOWN else value
