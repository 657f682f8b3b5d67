"""Whether any process of a script called a treated loss.

``negplug run`` exits non-zero when none did: a recipe that trained without its treated loss is no
treated recipe. Lightning may train in processes that it spawns or forks, so the answer is kept in
a file, named in the environment, to which each process adds one byte at its first call.

On Linux the file is in memory and has no name but that of the open file of this process, so that
nothing is left behind, however this process ends. Free of torch, so that the command line can ask
cheaply.
"""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

RECORD_VARIABLE = "NEGPLUG_CALL_RECORD"

_recorded = False


def record_call() -> None:
    """Note that this process called a treated loss; free from the second call on."""
    global _recorded
    if _recorded:
        return
    _recorded = True
    path = os.environ.get(RECORD_VARIABLE)
    if path:
        # Where the process that asks is gone, its file is gone too.
        with suppress(FileNotFoundError), open(path, "ab") as file:
            file.write(b".")


def recorded_here() -> bool:
    """Return whether this process has called a treated loss."""
    return _recorded


@contextmanager
def opened() -> Iterator[Callable[[], bool]]:
    """Keep a record for this process and those that it starts.

    Yields:
        A function that tells whether a treated loss was called in any of them so far.
    """
    descriptor, path, named = _new_file()
    os.environ[RECORD_VARIABLE] = path
    try:
        # Asked through the open file: a cleaner of old temporary files may have taken the name.
        yield lambda: os.fstat(descriptor).st_size > 0
    finally:
        os.environ.pop(RECORD_VARIABLE, None)
        os.close(descriptor)
        if named:
            with suppress(FileNotFoundError):
                os.unlink(path)


def _new_file() -> tuple[int, str, bool]:
    """Return an open file, a path to it for other processes, and whether that is to be removed."""
    if sys.platform == "linux":
        with suppress(OSError):  # in some sandboxes
            descriptor = os.memfd_create("negplug-calls")
            path = f"/proc/{os.getpid()}/fd/{descriptor}"
            if os.path.exists(path):
                return descriptor, path, False
            os.close(descriptor)
    descriptor, path = tempfile.mkstemp(prefix="negplug-calls-")
    return descriptor, path, True
