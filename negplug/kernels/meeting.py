"""Ranks meet before their first exchange, through the store that the process group began with.

A rank that calls no treated loss runs nothing of ours: it would leave the others in their first
collective until the group's timeout, or take it for one of its own. So nobody begins one before
all ranks are there.

Environment:
    NEGPLUG_RANKS_TIMEOUT: For how many seconds a rank waits for the others; 60 unless set.

A checkpoint may be saved on rank 0 alone, so before ranks exchange what it holds they meet as well,
and each time anew.
"""

from __future__ import annotations

import logging
import os
import time
import weakref
from contextlib import suppress
from datetime import timedelta
from typing import Any, NamedTuple

import torch.distributed as dist

from negplug.kernels.errors import RanksError
from negplug.kernels.torch_private import default_store
from negplug.kernels.waiting import look_on, waiting

VARIABLE = "NEGPLUG_RANKS_TIMEOUT"

_SECONDS = 60.0
SECONDS_OF_SILENCE = 10.0
"""After which a rank that waits for others says so."""
_SECONDS_OF_A_COLLECTIVE = 1800.0
"""As long as gloo waits for a rank unless it is told otherwise."""
_SECONDS_BETWEEN_LOOKS = 0.02

logger = logging.getLogger("negplug")


class Topic(NamedTuple):
    """What ranks meet for, in the words of messages.

    Attributes:
        does: What a rank waits for the others to do.
        has_not: What a rank that does not come has not done.
        because: Why it may not have.
    """

    does: str
    has_not: str
    because: str


LOSS = Topic(
    "call a loss that negplug treats",
    "has called no loss that negplug treats",
    "it trains without the sampler (NEGPLUG_SAMPLER, 'negplug run' or the callback on some ranks "
    "alone), or not at all",
)

SAVED = Topic(
    "save a checkpoint",
    "has saved no checkpoint",
    "a callback that saves on rank 0 alone cannot save a sampler with gather=False, of which each "
    "rank has a state of its own (save on all ranks, as ModelCheckpoint does, or give gather=True)",
)

_met: weakref.WeakKeyDictionary[Any, set[Topic]] = weakref.WeakKeyDictionary()
_patience: weakref.WeakKeyDictionary[Any, float] = weakref.WeakKeyDictionary()
_numbers: weakref.WeakKeyDictionary[Any, str] = weakref.WeakKeyDictionary()


def meet(topic: Topic = LOSS, says: str = "") -> list[str]:
    """Wait until every rank is here; does nothing from a group's second call for a topic on.

    Args:
        topic: What the ranks meet for.
        says: What this rank tells the others.

    Returns:
        What each rank said, in rank order; nothing where they have met before.

    Raises:
        RanksError: If a rank does not come; on every rank.
        ValueError: If the environment's number of seconds is none.
    """
    group = dist.group.WORLD
    if topic in _met.get(group, ()):
        return []
    seconds, store, own = _asked_for(), default_store(), dist.get_rank()
    _patience[group] = seconds  # of later exchanges too, whatever the environment says by then
    number = _number(group, store, own)
    everyone = {rank: _key(topic, rank, number) for rank in range(dist.get_world_size())}
    store.set(everyone[own], says.encode())
    keys = {rank: key for rank, key in everyone.items() if rank != own}
    missing = _waited_for(store, keys, seconds, topic)
    # What the first one says holds for all, so that none goes on without the others.
    said = f"rank {own} waited {seconds:g} s for rank {missing}" if missing else "met"
    verdict = store.compare_set(f"negplug/meeting to {topic.does}, {number}", "", said).decode()
    if verdict == said and missing:
        raise _absent(missing, topic, seconds)
    if verdict != "met":
        raise _given_up(verdict, topic)
    if group is not None:
        _met.setdefault(group, set()).add(topic)
    look_on()
    return [store.get(key).decode() for key in everyone.values()]


def meet_anew(topic: Topic) -> None:
    """Wait until every rank is here, in each call.

    Rank 0 is the one that may be here alone, so its patience ends, and its word holds for all. The
    others wait for it as long as a collective would: it may have validated alone before.

    Args:
        topic: What the ranks meet for.

    Raises:
        RanksError: If a rank does not come; on every rank that does.
        ValueError: If the environment's number of seconds is none.
    """
    group, store, own = dist.group.WORLD, default_store(), dist.get_rank()
    seconds = _patience.get(group) or _asked_for()
    number = _number(group, store, own)
    # Counted in the store, where a group that comes after this one begins anew.
    times = store.add(f"negplug/times of rank {own} to {topic.does}, {number}", 1)
    number = f"{number}.{times}"
    keys = {rank: _key(topic, rank, number) for rank in range(1, dist.get_world_size())}
    decided = f"negplug/meeting to {topic.does}, {number}"
    if not own:
        missing = _waited_for(store, keys, seconds, topic)
        store.set(decided, f"rank 0 waited {seconds:g} s for rank {missing}" if missing else "met")
        if missing:
            raise _absent(missing, topic, seconds)
        return
    store.set(keys[own], "")
    look_on()
    longest = max(seconds, _SECONDS_OF_A_COLLECTIVE)
    with waiting(min(SECONDS_OF_SILENCE, seconds), f"is about to {topic.does}"):
        until = time.monotonic() + longest
        # By looks: a store that waits would keep other threads of this rank from asking it.
        while not store.check([decided]):
            if time.monotonic() > until:
                raise _absent("0", topic, longest)
            time.sleep(_SECONDS_BETWEEN_LOOKS)
    if (verdict := store.get(decided).decode()) != "met":
        raise _given_up(verdict, topic)


def _absent(missing: str, topic: Topic, seconds: float) -> RanksError:
    """Return the error of the rank that has waited for those."""
    return RanksError(
        f"rank {missing} {topic.has_not} within {seconds:g} s of this rank: {topic.because}, "
        f"or it has stopped; if it is only slow, set {VARIABLE} to more seconds"
    )


def _given_up(verdict: str, topic: Topic) -> RanksError:
    """Return the error of a rank for which another one has waited, as that one says."""
    return RanksError(
        f"{verdict} to {topic.does}, and has given up; if that rank is only slow, set "
        f"{VARIABLE} to more seconds"
    )


def first_said(topic: str, says: str) -> str:
    """Return what the first rank said of a topic, which may be this one; waits for nobody."""
    group, store = dist.group.WORLD, default_store()
    key = f"negplug/{topic}, {_number(group, store, dist.get_rank())}"
    first: str = store.compare_set(key, "", says).decode()
    return first


def _number(group: Any, store: Any, own: int) -> str:
    """Return which of the groups that have met through a store this one is.

    A launcher that restarts its ranks leaves them the store, with what those before said in it.
    """
    if group not in _numbers:
        attempt = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
        number = store.add(f"negplug/groups of rank {own} in attempt {attempt}", 1)
        _numbers[group] = f"{attempt}.{number}"
    return _numbers[group]


def _waited_for(store: Any, keys: dict[int, str], seconds: float, topic: Topic) -> str:
    """Return which ranks are not here after so many seconds; warn of them before."""
    patience = min(SECONDS_OF_SILENCE, seconds)
    if missing := _missing(store, keys, patience):
        logger.warning("negplug waits for rank %s to %s", missing, topic.does)
        missing = _missing(store, keys, seconds - patience)
    return missing


def _missing(store: Any, keys: dict[int, str], seconds: float) -> str:
    """Return which ranks are not here after so many seconds, by the key that each sets."""
    with suppress(RuntimeError):  # after the time
        if seconds > 0:
            store.wait(list(keys.values()), timedelta(seconds=seconds))
            return ""
    return ", ".join(str(rank) for rank, key in keys.items() if not store.check([key]))


def _key(topic: Topic, rank: int, number: str) -> str:
    return f"negplug/rank {rank} is here to {topic.does}, {number}"


def seconds_of_patience() -> float:
    """Return for how long ranks waited for one another at most as they met last."""
    return _patience.get(dist.group.WORLD, _SECONDS)


def _asked_for() -> float:
    """Return what the environment says; raise ``ValueError`` if that is no time."""
    text = os.environ.get(VARIABLE) or str(_SECONDS)
    try:
        seconds = float(text)
    except ValueError:
        seconds = 0.0
    if not 0 < seconds < 1e6:
        raise ValueError(f"{VARIABLE} must be a number of seconds above 0, got {text[:40]!r}")
    return seconds
