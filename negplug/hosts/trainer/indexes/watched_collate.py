"""``WatchedCollate``: a collate function in whose place it is seen where samples go.

The function is watched while it works, in the process where it works: it gets its samples and the
recipe gets its batch, untouched, and :mod:`.arrangement` compares the two. Images that it changes
as well are followed by their marks (:mod:`.row_marks`) in the first batches and ever fewer later
ones, and those that leave Python's torch by their likeness. What was found lies in memory that
worker processes share, so it is known by the time that the batch is.

Where a host's batches bring indexes of their own, rows may stand in any order, if indexes and
images do so together. That is asked as well.
"""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable
from multiprocessing.context import get_spawning_popen
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import default_collate, get_worker_info

from negplug.hosts.nested import tensors_of_batch
from negplug.hosts.subsets import reference_to
from negplug.hosts.trainer.indexes import batched_fetch
from negplug.hosts.trainer.indexes.arrangement import arrangement_of, order_by_index
from negplug.hosts.trainer.indexes.row_marks import MIXED, RowMarks
from negplug.hosts.trainer.stand_in import same

OwnIndexes = Callable[[Any], Tensor | None]
"""Given a batch, returns the indexes ``[R]`` that the host itself finds in it."""

_IN_ORDER, _BROKEN, _ROW, _SAMPLE, _UNFOLLOWED = range(5)
_BY_PLACE, _BY_INDEX, _FETCHES = range(3)
_HOSTS = ("lightly", "solo", "torch", "torchvision", "lightning", "pytorch_lightning")
"""Packages whose own collate functions keep rows in order, whatever they do to images."""

INSTEAD = (
    "so the indexes that the sampler drew are not known to be those of the rows; let the data set "
    "give each sample's index and hand the batch's over in training_step, by provide(indexes=…) "
    "of the callback's injection"
)
_OWN_INSTEAD = (
    "move both alike, or hand the right indexes over in training_step, by provide(indexes=…) of "
    "the callback's injection"
)


class WatchedCollate:
    """A collate function, and whether its batches were in order so far.

    Its attributes are those of the collate function; its copy is the collate function, and so is
    its pickle but for a worker that starts from nothing.

    Args:
        collate: The recipe's own.
        shared: Whether worker processes call it.
        own: Finds the host's own indexes in a batch, if it brings some.
        dataset: The loader's.
    """

    collate: Any
    _found: Tensor

    def __init__(self, collate: Any, shared: bool, own: OwnIndexes | None, dataset: Any) -> None:
        self.collate = collate
        self._own = own
        self._batches = 0
        self._asks = True
        self._dataset: Callable[[], Any] = reference_to(dataset)
        self._found = torch.zeros(3, 5, dtype=torch.int64)
        if shared:
            self._found.share_memory_()  # type: ignore[no-untyped-call]

    def __call__(self, samples: Any) -> Any:
        """Return the batch of the samples."""
        self._look_at_fetch()
        if not isinstance(samples, list):
            # What __getitems__ gave, and so in its order.
            batch = self.collate(samples)
            if batch is samples:
                self._found[_BY_PLACE, _IN_ORDER] = 1
            return batch
        # A list of our own, for the function may sort or clear the one that it is given.
        before, marks = list(samples), list[Tensor]()
        # The first batch of a process, the second, the fourth and so on.
        self._batches += 1
        closely = self._batches & (self._batches - 1) == 0
        if closely:
            batch, marks = _collated_with_marks(self.collate, samples)
        else:
            batch = self.collate(samples)
        if batch is not None:  # Lightning passes over such a batch
            numbers = list(range(len(before)))
            self._judge(_BY_PLACE, before, batch, marks, numbers, numbers, closely)
            self._look_at_own(before, batch, marks, closely)
        return batch

    def __getattr__(self, name: str) -> Any:
        return getattr(object.__getattribute__(self, "collate"), name)

    def __deepcopy__(self, memo: Any) -> Any:
        return copy.deepcopy(self.collate, memo)

    def __reduce__(self) -> tuple[Any, ...]:
        if get_spawning_popen() is None:
            return same(self.collate)  # what a recipe saves in training is its own
        return _in_worker, (self.collate, self._own, self._found)

    def disagreement(self, size: int) -> str:
        """Return why a batch of ``size`` samples may have other rows, or nothing."""
        name = name_of(self.collate)
        in_order, broken, row, sample, _ = self._found[_BY_PLACE].tolist()
        if fault := self._fault_of_fetch():
            return f"{fault}, {INSTEAD}"
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
        if not in_order and size > 1 and self.collate is not default_collate:
            return (
                f"the collate function {name} leaves nothing in a batch by which its samples can "
                f"be told, {INSTEAD}"
            )
        return ""

    def indexes_moved(self) -> str:
        """Return why the host's own indexes are not those of the rows beside them, or nothing."""
        _, broken, row, sample, _ = self._found[_BY_INDEX].tolist()
        if fault := self._fault_of_fetch():
            return f"{fault}; {_OWN_INSTEAD}"
        if not broken:
            return ""
        what = "is made of several" if sample == MIXED else "is another one"
        return (
            f"the collate function {name_of(self.collate)} moves, drops, repeats or mixes samples "
            f"and leaves their indexes where they are (the sample in row {max(row, 0)} of a batch "
            f"{what}); {_OWN_INSTEAD}"
        )

    def unfollowed(self) -> str:
        """Return what makes rows of which it is not known which samples they are, or nothing."""
        if int(self._found[_FETCHES, 0]) == batched_fetch.UNKNOWN and self._own is None:
            return f"the __getitems__ of {batched_fetch.class_of(self._dataset())} gives"
        home = getattr(_function(self.collate), "__module__", None) or ""
        which = _BY_PLACE if self._own is None else _BY_INDEX
        if home.partition(".")[0] in _HOSTS or not self._found[which, _UNFOLLOWED]:
            return ""
        return f"the collate function {name_of(self.collate)} makes"

    def _fault_of_fetch(self) -> str:
        fault = batched_fetch.FAULTS.get(int(self._found[_FETCHES, 0]))
        if fault is None:
            return ""
        name = batched_fetch.class_of(self._dataset())
        return f"the data set {name} fetches batches by a __getitems__ of its own, which {fault}"

    def _look_at_fetch(self) -> None:
        if self._asks:
            self._asks = False
            worker = get_worker_info()
            dataset = self._dataset() if worker is None else worker.dataset
            self._found[_FETCHES, 0] = batched_fetch.verdict_on(dataset, self._own is not None)

    def _look_at_own(
        self, samples: list[Any], batch: Any, marks: list[Tensor], closely: bool
    ) -> None:
        indexes = None if self._own is None else self._own(batch)
        found = None if indexes is None else order_by_index(samples, indexes.tolist())
        if found is not None:
            self._judge(_BY_INDEX, samples, batch, marks, *found, closely)

    def _judge(
        self,
        which: int,
        samples: list[Any],
        batch: Any,
        marks: list[Tensor],
        order: list[int],
        names: list[int],
        closely: bool,
    ) -> None:
        """See whether row b is sample ``order[b]``, or one of the same name."""
        found = self._found[which]
        followed = [rows.tolist() for rows in marks if len(rows) == len(order)]
        seen = [_first_wrong(rows, order, names) for rows in followed]
        wrong = None if None in seen else next(iter(seen), None)
        if wrong is None:
            try:
                arrangement = arrangement_of(
                    [samples[number] for number in order],
                    batch,
                    [names[number] for number in order],
                    closely and not seen,
                )
            except Exception:
                return  # values of a kind of their own: nothing is known, and nothing may fail
            if arrangement is None:
                return
            wrong = arrangement.wrong
            if closely and not (seen or arrangement.by_images):
                found[_UNFOLLOWED] = 1
        if wrong is None:
            found[_IN_ORDER] = 1
        elif not found[_BROKEN]:
            found[_ROW], found[_SAMPLE] = wrong
            found[_BROKEN] = 1


def _in_worker(collate: Any, own: OwnIndexes | None, found: Tensor) -> WatchedCollate:
    watched = WatchedCollate(collate, False, own, None)
    watched._found = found
    return watched


def _collated_with_marks(
    collate: Callable[[Any], Any], samples: list[Any]
) -> tuple[Any, list[Tensor]]:
    """Collate samples, and look where their rows have gone.

    Returns:
        The batch; and the number of the sample of each row, for each column of embeddings or
        images that could be followed.
    """
    marks = RowMarks()
    for number, sample in enumerate(samples):
        for tensor in tensors_of_batch(sample):
            marks.set(tensor, torch.tensor(number, dtype=torch.int32))
    with marks:
        batch = collate(samples)
    columns = []
    for tensor in tensors_of_batch(batch):
        rows = marks.of(tensor)
        if rows is not None and rows.ndim == 1 and tensor.ndim > 1:
            columns.append(rows)
    return batch, columns


def _first_wrong(rows: list[int], order: list[int], names: list[int]) -> tuple[int, int] | None:
    """Return the first row that has another name than its sample, and that sample."""
    for row, (found, right) in enumerate(zip(rows, order, strict=True)):
        if found == MIXED or names[found] != names[right]:
            return row, found
    return None


def _function(collate: Any) -> Any:
    return collate.func if isinstance(collate, functools.partial) else collate


def name_of(collate: Any) -> str:
    """Return the name of a collate function, for messages."""
    function = _function(collate)
    name: str = getattr(function, "__qualname__", type(function).__name__)
    return name
