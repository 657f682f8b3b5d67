"""A last check of a script that leaves with exit code 0, by ``os._exit`` and ``os.execv`` too.

Scripts leave by ``os._exit(0)`` so that nothing hangs at exit; no ``finally`` and no code behind
the script runs then.
"""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import NoReturn

from negplug.cli.replacing import keep_this_process
from negplug.cli.treatment import fail


@contextmanager
def checked_leaving(problem: Callable[[], str | None]) -> Iterator[None]:
    """Check this process, and none that it forks, where it leaves the ``with`` block or ends in it.

    What leaves with an error has told it, and is left alone.

    Args:
        problem: Returns what is wrong with exit code 0, or None.
    """
    process, leave = os.getpid(), os._exit
    verdict: int | None = None  # the exit code in place of 0, once it is known

    def checked(status: int) -> NoReturn:
        nonlocal verdict
        if status % 256 == 0 and os.getpid() == process:  # of which a parent sees the last byte
            if verdict is None:
                text = problem()
                verdict = int(text is not None)
                if text is not None:
                    print(f"negplug: {text}", file=sys.stderr, flush=True)
            status = verdict
        leave(status)

    os._exit = checked
    give_back = keep_this_process()
    try:
        yield
        _wait_for_threads()
        text = problem() if os.getpid() == process else None
    except BaseException:
        verdict = 0
        raise
    verdict = int(text is not None)
    if text is not None:
        fail(text, code=1)  # a function of atexit that leaves by os._exit(0) does not undo it
    os._exit = leave
    give_back()


def _wait_for_threads() -> None:
    """Wait for what a script leaves running, as Python does at its end before anything else."""
    for thread in threading.enumerate():
        if thread is not threading.current_thread() and not thread.daemon:
            thread.join()
