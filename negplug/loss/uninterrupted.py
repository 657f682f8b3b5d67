"""``uninterrupted``: signals wait until what a step writes into memories is written.

Ctrl-C raises between any two lines of Python, and other handlers save a checkpoint there, as
Lightning's does before a cluster takes the machine away. In the middle of an update a queue has its
rows and not their number yet, and one call of a step has been taken in and the next one has not.
"""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Iterator
from typing import Any

# Ctrl-C, whose handler raises, is the last one that is put back.
_SIGNALS = tuple(
    getattr(signal, name)
    for name in ("SIGTERM", "SIGHUP", "SIGUSR1", "SIGUSR2", "SIGALRM", "SIGINT")
    if hasattr(signal, name)  # not all systems have all
)

_inside = False


class _Later:
    """A handler that keeps signals for the script's own, as long as it is to."""

    def __init__(self) -> None:
        self.own: dict[int, Any] = {}
        self.keeps = True
        self.kept: list[tuple[int, Any]] = []

    def __call__(self, number: int, frame: Any) -> None:
        if self.keeps:
            self.kept.append((number, frame))
        else:
            self.own[number](number, frame)

    def deliver(self) -> None:
        """Run the script's own handlers of what was kept, each even if one before it raises."""
        while self.kept:
            number, frame = self.kept.pop(0)
            try:
                self.own[number](number, frame)
            finally:
                self.deliver()


@contextlib.contextmanager
def uninterrupted(needed: bool = True) -> Iterator[None]:
    """Let handlers of signals that are written in Python run behind what is inside.

    Elsewhere than in the main thread they do not run, and nothing is done.

    Args:
        needed: False if nothing inside is written in several places; it takes some microseconds.
    """
    global _inside
    if not needed or _inside or threading.current_thread() is not threading.main_thread():
        yield
        return
    later = _Later()
    try:
        _inside = True
        for number in _SIGNALS:
            own = signal.getsignal(number)
            if callable(own):
                later.own[number] = own
                signal.signal(number, later)
        yield
    finally:
        _inside = False
        try:
            # Signals are kept while there is a handler that may still be replaced.
            for number, own in later.own.items():
                signal.signal(number, own)
        finally:
            later.keeps = False
            later.deliver()
