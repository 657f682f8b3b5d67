"""A rank that waits for another one for long says so, once of each thing that it does meanwhile.

An exchange of which one rank takes no part waits for the group's timeout, half an hour by default,
without a word: rank 0 validates alone, or has one batch more. A thread of its own looks on, for the
rank itself is inside the exchange.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

_SECONDS_BETWEEN_LOOKS = 0.5

_waits: tuple[float, float, str] | None = None  # since when, for how long in silence, doing what
_looks = False

logger = logging.getLogger("negplug")


def look_on() -> None:
    """Have a thread look on, if there is none yet."""
    global _looks
    if not _looks:
        _looks = True
        threading.Thread(target=_look, name="negplug-waiting", daemon=True).start()


@contextmanager
def waiting(seconds: float, does: str) -> Iterator[None]:
    """Say so if what is inside takes long.

    Args:
        seconds: For how long nothing is said.
        does: What this rank does inside, as a clause.
    """
    global _waits
    _waits = time.monotonic(), seconds, does
    try:
        yield
    finally:
        _waits = None


def _look() -> None:
    said = set[str]()
    while True:
        time.sleep(_SECONDS_BETWEEN_LOOKS)
        waits = _waits
        if waits is None:
            continue
        since, seconds, does = waits
        if does not in said and time.monotonic() > since + seconds:
            said.add(does)
            logger.warning(
                f"this rank has waited {seconds:g} s for another one: it {does}. If that one is "
                f"only slow, nothing is wrong; otherwise have every rank make as many steps, and "
                f"as many calls of the loss, in validation too"
            )
