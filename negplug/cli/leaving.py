"""A last check of a script that leaves with exit code 0, also through ``os._exit``.

Scripts leave by ``os._exit(0)`` so that nothing hangs at exit; no ``finally`` and no code behind
the script runs then.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import NoReturn

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
        if status == 0 and os.getpid() == process:
            if verdict is None:
                text = problem()
                verdict = int(text is not None)
                if text is not None:
                    print(f"negplug: {text}", file=sys.stderr, flush=True)
            status = verdict
        leave(status)

    os._exit = checked
    try:
        yield
        text = problem()
    except BaseException:
        verdict = 0
        raise
    verdict = int(text is not None)
    if text is not None:
        fail(text, code=1)  # a function of atexit that leaves by os._exit(0) does not undo it
    os._exit = leave
