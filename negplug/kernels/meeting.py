"""Ranks meet before their first exchange, through the store that the process group began with.

A rank that calls no treated loss runs nothing of ours: it would leave the others in their first
collective until the group's timeout, or take it for one of its own. So nobody begins one before
all ranks are there.

Environment:
    NEGPLUG_RANKS_TIMEOUT: For how many seconds a rank waits for the others; 60 unless set.
"""

from __future__ import annotations

import logging
import os
import weakref
from contextlib import suppress
from datetime import timedelta
from typing import Any

import torch.distributed as dist

from negplug.kernels.errors import RanksError
from negplug.kernels.torch_private import default_store

VARIABLE = "NEGPLUG_RANKS_TIMEOUT"

_SECONDS = 60.0
_SECONDS_OF_SILENCE = 10.0

logger = logging.getLogger("negplug")

_met: weakref.WeakSet[Any] = weakref.WeakSet()
_numbers: weakref.WeakKeyDictionary[Any, int] = weakref.WeakKeyDictionary()


def meet() -> None:
    """Wait until every rank is here; does nothing from the second call of a group on.

    Raises:
        RanksError: If a rank does not come; on every rank.
        ValueError: If the environment's number of seconds is none.
    """
    group = dist.group.WORLD
    if group in _met:
        return
    seconds, store, own = _seconds(), default_store(), dist.get_rank()
    number = _number(group, store, own)
    store.set(_key(own, number), b"")
    others = [rank for rank in range(dist.get_world_size()) if rank != own]
    keys = {rank: _key(rank, number) for rank in others}
    patience = min(_SECONDS_OF_SILENCE, seconds)
    if missing := _missing(store, keys, patience):
        logger.warning("negplug waits for rank %s to call a treated loss", missing)
        missing = _missing(store, keys, seconds - patience)
    # What the first one says holds for all, so that none goes on without the others.
    said = f"rank {own} waited {seconds:g} s for rank {missing}" if missing else "met"
    verdict = store.compare_set(f"negplug/meeting {number}", "", said).decode()
    if verdict == said and missing:
        raise RanksError(
            f"rank {missing} has called no loss that negplug treats within {seconds:g} s of this "
            f"rank: it trains without the sampler (NEGPLUG_SAMPLER, 'negplug run' or the callback "
            f"on some ranks alone), or it has stopped; if it is only slow, set {VARIABLE} to more "
            f"seconds"
        )
    if verdict != "met":
        raise RanksError(
            f"{verdict} to call a loss that negplug treats, and has given up; if that rank is only "
            f"slow, set {VARIABLE} to more seconds"
        )
    if group is not None:
        _met.add(group)


def _number(group: Any, store: Any, own: int) -> int:
    """Return which of the groups that have met through a store this one is, counted from 1."""
    if group not in _numbers:
        _numbers[group] = store.add(f"negplug/groups of rank {own}", 1)
    return _numbers[group]


def _missing(store: Any, keys: dict[int, str], seconds: float) -> str:
    """Return which ranks are not here after so many seconds, by the key that each sets."""
    with suppress(RuntimeError):  # after the time
        if seconds > 0:
            store.wait(list(keys.values()), timedelta(seconds=seconds))
            return ""
    return ", ".join(str(rank) for rank, key in keys.items() if not store.check([key]))


def _key(rank: int, number: int) -> str:
    return f"negplug/rank {rank} is here, {number}"


def _seconds() -> float:
    text = os.environ.get(VARIABLE) or str(_SECONDS)
    try:
        seconds = float(text)
    except ValueError:
        seconds = 0.0
    if not 0 < seconds < 1e6:
        raise ValueError(f"{VARIABLE} must be a number of seconds above 0, got {text[:40]!r}")
    return seconds
