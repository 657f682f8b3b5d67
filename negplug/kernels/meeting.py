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


def meet() -> None:
    """Wait until every rank is here; does nothing from the second call of a group on.

    Raises:
        RanksError: If another rank does not come.
        ValueError: If the environment's number of seconds is none.
    """
    group = dist.group.WORLD
    if group in _met:
        return
    seconds, store = _seconds(), default_store()
    store.set(_key(dist.get_rank()), b"")
    others = [rank for rank in range(dist.get_world_size()) if rank != dist.get_rank()]
    for patience in (min(_SECONDS_OF_SILENCE, seconds), seconds - _SECONDS_OF_SILENCE):
        if missing := _missing(store, others, patience):
            logger.warning("negplug waits for rank %s to call a treated loss", missing)
    if missing:
        raise RanksError(
            f"rank {missing} has called no loss that negplug treats within {seconds:g} s of this "
            f"rank: it trains without the sampler (NEGPLUG_SAMPLER, 'negplug run' or the callback "
            f"on some ranks alone), or it has stopped; if it is only slow, set {VARIABLE} to more "
            f"seconds"
        )
    if group is not None:
        _met.add(group)


def _missing(store: Any, ranks: list[int], seconds: float) -> str:
    """Return which ranks are not here after so many seconds."""
    with suppress(RuntimeError):  # after the time
        if seconds > 0:
            store.wait([_key(rank) for rank in ranks], timedelta(seconds=seconds))
            return ""
    return ", ".join(str(rank) for rank in ranks if not store.check([_key(rank)]))


def _key(rank: int) -> str:
    return f"negplug/rank {rank} is here"


def _seconds() -> float:
    text = os.environ.get(VARIABLE) or str(_SECONDS)
    try:
        seconds = float(text)
    except ValueError:
        seconds = 0.0
    if not 0 < seconds < 1e6:
        raise ValueError(f"{VARIABLE} must be a number of seconds above 0, got {text[:40]!r}")
    return seconds
