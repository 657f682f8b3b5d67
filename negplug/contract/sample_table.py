"""Values kept for each sample of the data set and each of its views, the same on all ranks.

Chains and moving averages are kept by data set index and view: tensors ``[V, n, …]`` that grow
with the indexes they meet, O(n) memory. What a step adds is gathered from all ranks before it is
written.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from negplug.contract.batch import ContrastiveBatch
from negplug.contract.ids import UNKNOWN
from negplug.contract.state import Stateful
from negplug.kernels.late import check, free_to_read, later
from negplug.kernels.table import read_entries, write_entries


class SampleTable(Stateful):
    """Named values per data set index and view.

    Args:
        vectors: Names of the values that are vectors ``[d]``; the others are numbers.
        **empty: The name of each value, and what an entry holds that was never written; the kind
            of number is its own, the width of a floating-point value that of the first write.
    """

    def __init__(self, vectors: tuple[str, ...] = (), **empty: float) -> None:
        super().__init__()
        self._empty = empty
        for name, value in empty.items():
            self.add_state(name, value, (None,) * (3 if name in vectors else 2))

    @property
    def names(self) -> tuple[str, ...]:
        """The names of the values."""
        return tuple(self._empty)

    @property
    def _values(self) -> dict[str, Tensor]:
        return {name: getattr(self, name) for name in self._empty}

    def read(self, indexes: Tensor, views: Tensor) -> dict[str, Tensor]:
        """Return the values ``[N, …]`` of N samples and views; those never written are empty.

        Args:
            indexes: ``[N]`` int64, from 0 on.
            views: ``[N]`` int64, from 0 on.
        """
        tables = self._values
        empty = list(self._empty.values())
        found = read_entries(list(tables.values()), views, indexes, empty)
        return dict(zip(tables, found, strict=True))

    def write(
        self, indexes: Tensor, views: Tensor, room: tuple[int, int], **values: Tensor
    ) -> None:
        """Write values ``[N, …]``; of a sample and view that occurs twice, the last one.

        Args:
            indexes: As in :meth:`read`.
            views: As in :meth:`read`.
            room: The number of views and that of samples, none of which is exceeded.
            **values: Every value by its name.
        """
        if not len(indexes):
            return
        self.reserve(room, **values)
        tables = [getattr(self, name) for name in values]
        write_entries(tables, views, indexes, list(values.values()))

    def reserve(self, room: tuple[int, int], **values: Tensor) -> None:
        """Make room for what :meth:`write` is going to write; see there for the arguments.

        What has no value here keeps its kind of number.
        """
        for name, kept in self._values.items():
            if kept.shape[0] < room[0] or kept.shape[1] < room[1]:
                none = kept.new_empty((0, *kept.shape[2:]))
                self._reserve(name, *room, values.get(name, none))

    def _reserve(self, name: str, views: int, length: int, like: Tensor) -> None:
        old: Tensor = getattr(self, name)
        if old.numel() == 0:
            kind = like.dtype if old.is_floating_point() else old.dtype
            old = old.new_empty((0, 0, *like.shape[1:]), dtype=kind, device=like.device)
        wide = old.shape[1]
        if length > wide:
            # Little more: an early batch nearly reaches the end of the data set.
            wide = max(length, wide + wide // 8)
        shape = (max(views, old.shape[0]), wide, *old.shape[2:])
        new = old.new_full(shape, self._empty[name])
        new[: old.shape[0], : old.shape[1]] = old
        setattr(self, name, new)

    def check_values(self, values: dict[str, Any]) -> None:
        """Raise ``ValueError`` unless all values are of the same views and samples."""
        shapes = {tuple(value.shape[:2]) for value in values.values()}
        if len(shapes) > 1:
            raise ValueError(
                f"the saved values {', '.join(values)} of each sample have the shapes "
                f"{sorted(shapes)}, which do not fit together; the file is damaged"
            )
        for name, value in values.items():
            if value.shape[:2].numel() and not value.numel():
                raise ValueError(f"the saved {name} has width 0; the file is damaged")
            if value.dtype == torch.int64 and (value < UNKNOWN).any():
                raise ValueError(f"the saved {name} holds {int(value.min())}; the file is damaged")


MOST_SAMPLES = 1 << 16
"""Of a data set whose size nobody has said: room is made for the greatest index that is met."""


def check_indexes(
    name: str, batch: ContrastiveBatch, indexes: Tensor | None, size: int | None
) -> Tensor:
    """Return ``indexes`` ``[N]``; raise where a sample's data set index is unknown or too large.

    Args:
        name: Who needs them, for messages.
        batch: Says why there are none.
        indexes: Those of all ranks, so that every rank raises and none is left waiting.
        size: Number of samples that was declared, if any; the data set's own otherwise. More than
            its own where each pass shows only some of them.

    Raises:
        ValueError: If an index is unknown, beyond the data set, or, where its size is unknown,
            from :data:`MOST_SAMPLES` on.
    """
    why = batch.unindexed or "the loss was called without indexes="
    if indexes is None:
        raise ValueError(f"{name}: needs the data set index of every sample, but {why}")
    own = batch.context.dataset.size
    if size is not None and own is not None and size < own:
        raise ValueError(f"{name}: size={size}, but the data set has {own} samples; give that")
    if len(indexes):
        _check_range(name, indexes, own if size is None else size)
    return indexes


def most_samples(size: int | None) -> int:
    """Return below what an index must be, ``size`` being the number of samples, if known."""
    return MOST_SAMPLES if size is None else size


def unnamed(name: str, index: int) -> ValueError:
    """Return the error that says which rows have no index, where the batch has indexes.

    Args:
        name: Who needs them, for messages.
        index: What stands for one.
    """
    return ValueError(
        f"{name}: needs the data set index of every sample, but one is {index}; given hard "
        f"negatives, being no samples of the batch, have none: beside them use a sampler that "
        f"keeps nothing for each sample, such as queue()"
    )


def beyond(name: str, highest: int, size: int | None) -> ValueError:
    """Return the error that says why an index cannot be one.

    Args:
        name: Who needs it, for messages.
        highest: The index, not below :func:`most_samples`.
        size: Number of samples; None if unknown.
    """
    if size is not None:
        return ValueError(
            f"{name}: the data set index {highest} is beyond size={size} of the data set; indexes "
            f"must count its samples from 0, so put what numbers them outermost, around any "
            f"Subset; if each pass shows only some samples, give the number of all as size="
        )
    return ValueError(
        f"{name}: keeps something for each sample up to the greatest index, but that is {highest}; "
        f"number the samples from 0, hashed or sparse ids by their place in a list, or give size= "
        f"if there are more than {MOST_SAMPLES}"
    )


def too_many(name: str, samples: int | None, more: int) -> ValueError:
    """Return the error that says that a data set shows more samples than it says that it has.

    Args:
        name: Who keeps something for each, for messages.
        samples: What it says.
        more: How many came beyond.
    """
    return ValueError(
        f"{name}: keeps something for each sample, and the data set says that it has {samples}, "
        f"but {more} more came; if each pass shows others, give the number of all as size="
    )


def _check_range(name: str, indexes: Tensor, size: int | None) -> None:
    # Of all but 0, 1, …, most − 1 the quotient is another than 0.
    failed = indexes.div(most_samples(size), rounding_mode="floor").any()

    def error() -> ValueError:
        lowest, highest = map(int, indexes.aminmax())
        return unnamed(name, lowest) if lowest < 0 else beyond(name, highest, size)

    check(f"{name}: data set indexes", failed, error)


class Room:
    """The room that a table needs, told once the backward pass is done.

    A copy, in another process or not, has the numbers.

    Args:
        indexes: ``[N]`` int64, of what is going to be written.
        views: ``[N]`` int64.
        num_views: Number of views; None if it is read off ``views``.
        size: Number of samples; None if it is read off ``indexes``.
    """

    def __init__(
        self, indexes: Tensor, views: Tensor, num_views: int | None, size: int | None
    ) -> None:
        self._known = num_views, size
        self._greatest: Callable[[], Any] | None = None
        if not len(indexes):
            self._known = num_views or 0, size or 0
        elif num_views is None or size is None:
            last_of_each = functools.partial(_last_of_each, views, indexes)
            # Where a value costs nothing there is nothing to be fetched before it is wanted.
            on_host = free_to_read(indexes.device)
            self._greatest = last_of_each if on_host else later(last_of_each())

    def __call__(self) -> tuple[int, int]:
        """Return the number of views, and that of samples."""
        views, size = self._known
        if self._greatest is not None:
            found = self._greatest()
            found = found.tolist() if isinstance(found, Tensor) else found
            last_view, last = found or (0, 0)  # on the meta device there are no values
            views, size = views or last_view + 1, size or last + 1
        return views or 0, size or 0

    def __getstate__(self) -> dict[str, Any]:
        return {"_known": self(), "_greatest": None}


def _last_of_each(views: Tensor, indexes: Tensor) -> Tensor:
    return torch.stack([views, indexes]).amax(1)


def check_samples(name: str, saved: int, size: int | None) -> None:
    """Raise ``ValueError`` if values kept for a data set of ``saved`` samples meet another size.

    Args:
        name: Who keeps them, for messages.
        saved: 0 if the size is unknown so far.
        size: Of the data set at hand; None if unknown.
    """
    if saved and size is not None and saved != size:
        grows = f"for one that grows give {name} the most samples that it will have, as size="
        raise ValueError(
            f"{name}: what it remembers is of a data set of {saved} samples, but the data set has "
            f"{size} now; go on with the data set as it was"
            + (f", or {grows}, from the start" if size > saved else "")
        )


def views_of(batch: ContrastiveBatch, indexes: Tensor) -> Tensor:
    """Return the view of each anchor, ``[N]`` int64.

    Where the batch does not say, the views of a sample are numbered as they occur.
    """
    views = batch.anchors.views
    return occurrences(indexes) if views is None else views


def occurrences(indexes: Tensor) -> Tensor:
    """Return how often each entry occurred before, ``[N]`` int64."""
    ordered, order = torch.sort(indexes, stable=True)
    first = torch.searchsorted(ordered, ordered)
    count = torch.arange(len(indexes), device=indexes.device) - first
    return torch.empty_like(count).index_copy_(0, order, count)
