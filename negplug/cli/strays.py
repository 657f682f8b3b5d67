"""Processes of a run that have left its process group: daemons, and children with a new session.

They are known by a variable of the run's that they inherited. Linux alone shows it; and a process
that was started with another environment is not found.
"""

from __future__ import annotations

import os
import sys
from contextlib import suppress
from pathlib import Path


def signal_strays(group: int, name: str, value: str, number: int) -> bool:
    """Send a signal to the processes outside of a group that a variable was handed to.

    Args:
        group: Of the processes that are none.
        name: Of the variable.
        value: Of the variable, which no other run has.
        number: The signal; 0 for none.

    Returns:
        Whether there are any, beside those that have ended and are only listed still.
    """
    if sys.platform == "win32":
        return False
    found = False
    for process in Path("/proc").glob("[0-9]*"):
        with suppress(ProcessLookupError, PermissionError):
            if _has(process, f"{name}={value}") and os.getpgid(int(process.name)) != group:
                os.kill(int(process.name), number)
                found = True
    return found


def _has(process: Path, variable: str) -> bool:
    try:
        # That of a process which has ended is empty.
        return os.fsencode(variable) in (process / "environ").read_bytes().split(b"\0")
    except OSError:
        return False
