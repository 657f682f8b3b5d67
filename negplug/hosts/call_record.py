"""Whether any process of a script called a treated loss.

``negplug run`` exits non-zero when none did: a recipe that trained without its treated loss is no
treated recipe. Lightning may train in processes that it spawns or forks, so the answer is kept in
a file, named in the environment, to which each process adds one byte at its first call.

Free of torch, so that the command line can ask cheaply.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

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
        with open(path, "ab") as file:
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
    descriptor, path = tempfile.mkstemp(prefix="negplug-calls-")
    os.environ[RECORD_VARIABLE] = path
    try:
        # Asked through the open file: a cleaner of old temporary files may have taken the name.
        yield lambda: os.fstat(descriptor).st_size > 0
    finally:
        os.environ.pop(RECORD_VARIABLE, None)
        os.close(descriptor)
        Path(path).unlink(missing_ok=True)
