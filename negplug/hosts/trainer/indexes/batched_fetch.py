"""Data sets that fetch a batch at once, by ``__getitems__``: whether they give what they are asked.

Torch's loaders call it with the positions of a batch and take what it gives for those samples in
that order. A database may sort them or leave out repeats (``SELECT … WHERE id IN (…)``), and
nothing in the batch says so. So a few samples are fetched together and one by one, and compared;
both begin with the same states of the global generators, which are put back afterwards.

This is done once, where samples are fetched: a database that is opened before its workers are
forked cannot be used in them.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch.utils.data import StackDataset, Subset

from negplug.hosts.subsets import length
from negplug.hosts.trainer.indexes.entries import OBJECT, entries
from negplug.kernels.rng_states import isolated_rng

GOOD, UNKNOWN, _ORDER, _NUMBER, _INDEXES = range(5)
FAULTS = {
    _ORDER: "gives samples in another order, or others, than they are asked for",
    _NUMBER: "does not give one sample for each position that it is asked for",
    _INDEXES: "gives samples the indexes of others",
}
"""What is wrong with how a data set fetches, as clauses, by what :func:`verdict_on` returns."""

_KNOWN = ("torch", "datasets")
"""Packages whose data sets keep the order."""
_SEEDS = 2


def class_of(dataset: Any) -> str:
    """Return the class with the ``__getitems__`` that fetches for a loader; empty if none does.

    Those of torch and of Hugging Face's ``datasets`` give what they are asked for. A stack of data
    sets has each of them fetch the batch.
    """
    dataset = _chosen_from(dataset)
    if type(dataset) is StackDataset:
        return " or ".join(filter(None, map(class_of, _parts(dataset))))
    if not callable(getattr(dataset, "__getitems__", None)):
        return ""
    home = type(dataset).__module__.partition(".")[0]
    return "" if home in _KNOWN else type(dataset).__name__


def _chosen_from(dataset: Any) -> Any:
    while isinstance(dataset, Subset) and type(dataset).__getitems__ is Subset.__getitems__:
        dataset = dataset.dataset
    return dataset


def _parts(stack: StackDataset[Any]) -> list[Any]:
    several = stack.datasets
    return list(several.values() if isinstance(several, dict) else several)


def verdict_on(dataset: Any, own: bool) -> int:
    """Return a number of :data:`FAULTS`, ``GOOD``, or ``UNKNOWN`` if nothing tells samples apart.

    Args:
        dataset: Of a loader, in the process that fetches.
        own: Whether its samples have indexes of their own, so that they may come in any order.
    """
    stack = _chosen_from(dataset)
    if type(stack) is StackDataset:
        # One that is in order says nothing of another; the worst is what a batch is.
        return max(verdict_on(part, own=False) for part in _parts(stack))
    if not class_of(dataset):
        return GOOD
    size = length(dataset)
    if size is None or size < 3:
        return UNKNOWN
    first, middle, last = 0, size // 2, size - 1
    try:
        with isolated_rng(torch.device("cpu")):
            if not own and len(_fetched(dataset, [first, first])) != 2:
                return _NUMBER
            places = [last, first, middle]
            verdicts = {_compared(dataset, places, own, seed) for seed in range(_SEEDS)}
    except Exception:
        return UNKNOWN  # it may not have these samples
    return verdicts.pop() if len(verdicts) == 1 else UNKNOWN


def _compared(dataset: Any, places: list[int], own: bool, seed: int) -> int:
    """Compare samples that are fetched together with those that are fetched one by one."""

    def beginning(fetch: Callable[[Any, Any], Any], asked: Any, seed: int = seed) -> Any:
        with isolated_rng(torch.device("cpu")):
            torch.default_generator.manual_seed(seed)  # of no other device
            return fetch(dataset, asked)

    known = [_looks(beginning(_one, place)) for place in places]
    again = [_looks(beginning(_one, place, seed + 1)) for place in places]
    together = beginning(_fetched, places)
    if len(together) != len(places) and not own:
        return _NUMBER
    right = wrong = False
    for number, sample in enumerate(together):
        looks = _looks(sample)
        owners = [
            [place for place, look in enumerate(known) if look.get(path) == key]
            for path, key in looks.items()
        ]
        # By what tells the samples apart; and what is always theirs, but not its own.
        who = {each[0] for each in owners if len(each) == 1}
        foreign = any(
            known[number].get(path) == again[number].get(path) != key
            for path, key in looks.items()
            if len({look.get(path) for look in known}) == len(known)
        )
        fits = len(who) == 1 if own else number in who
        right |= fits
        wrong |= not fits and (bool(who) or (foreign and not own))
    return (_INDEXES if own else _ORDER) if wrong else GOOD if right else UNKNOWN


def _one(dataset: Any, place: int) -> Any:
    try:
        return dataset[place]
    except (NotImplementedError, TypeError, AttributeError):
        return _fetched(dataset, [place])[0]  # it fetches in no other way


def _fetched(dataset: Any, places: list[int]) -> list[Any]:
    """Return samples that are fetched together, also where they come as one batch."""
    fetched = dataset.__getitems__(list(places))
    if isinstance(fetched, list):
        return fetched
    if isinstance(fetched, dict):
        return [dict(zip(fetched, row, strict=True)) for row in zip(*fetched.values(), strict=True)]
    if isinstance(fetched, tuple):
        return list(zip(*fetched, strict=True))
    return list(fetched)


def _looks(sample: Any) -> dict[Any, Any]:
    """Return what stands for each value of a sample."""
    return {
        entry.path: entry.key
        for entry in entries(sample)
        if entry.kind is not None and entry.kind != OBJECT
    }
