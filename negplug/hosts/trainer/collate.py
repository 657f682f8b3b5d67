"""Collate functions, watched: whether the rows of a batch are the samples that were drawn for it.

The recorder of indexes knows what a batch sampler draws, and a batch has those rows in that order
only if the collate function keeps them. ``default_collate`` does. Any other is watched while it
works, in the process where it works: it gets its samples and the recipe gets its batch, untouched,
and :mod:`negplug.hosts.trainer.arrangement` compares the two. Images that it changes as well are
followed by their marks (:mod:`negplug.hosts.trainer.row_marks`) in the first batches. What was
found lies in memory that worker processes share, so it is known by the time that the batch is.
"""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, default_collate

from negplug.hosts.nested import tensors_of_batch
from negplug.hosts.trainer.arrangement import misplaced
from negplug.hosts.trainer.row_marks import MIXED, RowMarks

_IN_ORDER, _BROKEN, _ROW, _SAMPLE = range(4)
_MARKED = 2
"""So many batches of a process are collated with rows that are marked."""

INSTEAD = (
    "so the indexes that the sampler drew are not known to be those of the rows; let the data set "
    "give each sample's index and hand the batch's over in training_step, by provide(indexes=…) "
    "of the callback's injection"
)


def watch_collate(loader: DataLoader[Any]) -> None:
    """Watch the collate function of a loader, unless it is known or its workers run already."""
    collate = own_collate(loader)
    if collate is default_collate or getattr(loader, "_iterator", None) is not None:
        return
    loader.collate_fn = WatchedCollate(collate, shared=loader.num_workers > 0)


def unwatch_collate(loader: DataLoader[Any]) -> None:
    """Give a loader its own collate function back."""
    if isinstance(loader.collate_fn, WatchedCollate):
        loader.collate_fn = own_collate(loader)


def own_collate(loader: DataLoader[Any]) -> Any:
    """Return the collate function of the recipe."""
    collate: Any = loader.collate_fn
    return collate.collate if isinstance(collate, WatchedCollate) else collate


def disagreement(loader: DataLoader[Any], size: int) -> str:
    """Return why the rows of a loader's batches are not what its sampler drew, or nothing.

    Args:
        loader: One that :func:`watch_collate` has seen.
        size: How many samples were drawn for the batch at hand.
    """
    collate = loader.collate_fn
    if collate is default_collate:
        return ""
    name = _name(own_collate(loader))
    if not isinstance(collate, WatchedCollate):
        return (
            f"the collate function {name} was at work before fit, in workers that persist, and was "
            f"not watched, {INSTEAD}"
        )
    return collate.disagreement(name, size)


class WatchedCollate:
    """A collate function, and whether its batches were in order so far.

    Its attributes are those of the collate function; its copy is the collate function.

    Args:
        collate: The recipe's own.
        shared: Whether worker processes call it.
    """

    collate: Any
    _found: Tensor

    def __init__(self, collate: Any, shared: bool) -> None:
        self.collate = collate
        self._left = _MARKED
        self._found = torch.zeros(4, dtype=torch.int64)
        if shared:
            self._found.share_memory_()  # type: ignore[no-untyped-call]

    def __call__(self, samples: Any) -> Any:
        """Return the batch of the samples."""
        # A list of our own, for the function may sort or clear the one that it is given.
        before = list(samples) if isinstance(samples, list) else samples
        if self._left and isinstance(samples, list):
            self._left -= 1
            batch, wrong = _collated_with_marks(self.collate, samples)
        else:
            batch, wrong = self.collate(samples), None
        if batch is not None:  # Lightning passes over such a batch
            if wrong is not None:
                self._break(*wrong)
            self._look(before, batch)
        return batch

    def __getattr__(self, name: str) -> Any:
        return getattr(object.__getattribute__(self, "collate"), name)

    def __deepcopy__(self, memo: Any) -> Any:
        return copy.deepcopy(self.collate, memo)

    def __reduce__(self) -> tuple[Any, ...]:
        return _in_worker, (self.collate, self._found)

    def disagreement(self, name: str, size: int) -> str:
        """Return why a batch of ``size`` samples may have other rows, or nothing."""
        in_order, broken, row, sample = self._found.tolist()
        if broken:
            if row < 0:
                what = f"sample {sample} of a batch was lost, replaced or repeated"
            elif sample == MIXED:
                return (
                    f"the collate function {name} mixes samples (row {row} of a batch was made of "
                    f"several), {INSTEAD}"
                )
            else:
                what = f"row {row} of a batch was sample {sample}"
            return (
                f"the collate function {name} drops, moves or repeats samples ({what}), {INSTEAD}"
            )
        if not in_order and size > 1:
            return (
                f"the collate function {name} leaves nothing in a batch by which its samples can "
                f"be told, {INSTEAD}"
            )
        return ""

    def _look(self, samples: Any, batch: Any) -> None:
        if not isinstance(samples, list):
            # What __getitems__ gave; in the order of the indexes, which is all that is known.
            if batch is samples:
                self._found[_IN_ORDER] = 1
            return
        try:
            wrong = misplaced(samples, batch)
        except Exception:
            return  # values of a kind of their own: nothing is known, and nothing may fail
        if wrong is False:
            self._found[_IN_ORDER] = 1
        elif wrong is not None:
            self._break(*wrong)

    def _break(self, row: int, sample: int) -> None:
        if not self._found[_BROKEN]:
            self._found[_ROW], self._found[_SAMPLE] = row, sample
            self._found[_BROKEN] = 1


def _in_worker(collate: Any, found: Tensor) -> WatchedCollate:
    watched = WatchedCollate(collate, shared=False)
    watched._found = found
    return watched


def _collated_with_marks(
    collate: Callable[[Any], Any], samples: list[Any]
) -> tuple[Any, tuple[int, int] | None]:
    """Collate samples, and look where their rows have gone.

    Returns:
        The batch; and a row and the sample that it is where no column of embeddings or images is
        in order, None if one is or nothing is known. The sample is :data:`MIXED` where it is made
        of several.
    """
    marks, size = RowMarks(), len(samples)
    for number, sample in enumerate(samples):
        for tensor in tensors_of_batch(sample):
            marks.set(tensor, torch.tensor(number, dtype=torch.int32))
    with marks:
        batch = collate(samples)
    order, wrong = torch.arange(size, dtype=torch.int32), None
    for tensor in tensors_of_batch(batch):
        rows = marks.of(tensor)
        if rows is None or rows.shape != (size,) or tensor.ndim < 2:
            continue
        if torch.equal(rows, order):
            return batch, None
        row = int((rows != order).nonzero()[0])
        wrong = wrong or (row, int(rows[row]))
    return batch, wrong


def _name(collate: Any) -> str:
    if isinstance(collate, functools.partial):
        collate = collate.func
    name: str = getattr(collate, "__qualname__", type(collate).__name__)
    return name
