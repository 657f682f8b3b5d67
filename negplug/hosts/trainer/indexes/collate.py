"""Whether the rows of a loader's batches are the samples that were drawn for it.

The recorder of indexes knows what a batch sampler draws, and a batch has those rows in that order
only if the data set fetches them in it and the collate function keeps it. ``default_collate`` does.
Any other is watched (:mod:`.watched_collate`), and so is a data set that fetches a batch at once
(:mod:`.batched_fetch`).
"""

from __future__ import annotations

from typing import Any

from torch.utils.data import DataLoader, default_collate

from negplug.hosts.trainer.indexes import batched_fetch
from negplug.hosts.trainer.indexes.watched_collate import (
    INSTEAD,
    OwnIndexes,
    WatchedCollate,
    name_of,
)


def watch_collate(loader: DataLoader[Any], own: OwnIndexes | None) -> None:
    """Watch the collate function of a loader, unless it is known or its workers run already.

    Args:
        loader: One that is iterated later.
        own: Finds the host's own indexes, where its batches bring some.
    """
    if _needs_no_watch(loader) or getattr(loader, "_iterator", None) is not None:
        return
    collate = own_collate(loader)
    loader.collate_fn = WatchedCollate(collate, loader.num_workers > 0, own, loader.dataset)


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
    if isinstance(collate, WatchedCollate):
        return collate.disagreement(size)
    if _needs_no_watch(loader):
        return ""
    what = f"the collate function {name_of(collate)}"
    if collate is default_collate:
        what = f"the __getitems__ of {batched_fetch.class_of(loader.dataset)}"
    return f"{what} was at work before fit, in workers that persist, and was not watched, {INSTEAD}"


def own_indexes_moved(loader: DataLoader[Any]) -> str:
    """Return why the host's own indexes are not those of the rows beside them, or nothing."""
    collate = loader.collate_fn
    return collate.indexes_moved() if isinstance(collate, WatchedCollate) else ""


def one_by_one(loader: DataLoader[Any]) -> bool:
    """Return whether a loader's samples are fetched one by one, in the order of its sampler."""
    return not batched_fetch.class_of(loader.dataset)


def unfollowed(loader: DataLoader[Any]) -> str:
    """Return what makes rows of which it is not known which samples they are, or nothing."""
    collate = loader.collate_fn
    return collate.unfollowed() if isinstance(collate, WatchedCollate) else ""


def collates(loader: Any) -> str:
    """Return what makes samples and batches of a loader, for messages."""
    if not isinstance(loader, DataLoader):
        return f"the training loader {type(loader).__name__}"
    name = f"the data set {type(loader.dataset).__name__}"
    collate = own_collate(loader)
    return (
        name if collate is default_collate else f"{name} or the collate function {name_of(collate)}"
    )


def _needs_no_watch(loader: DataLoader[Any]) -> bool:
    return own_collate(loader) is default_collate and not batched_fetch.class_of(loader.dataset)
