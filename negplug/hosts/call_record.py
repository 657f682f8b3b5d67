"""Which processes of a script called a treated loss.

``negplug run`` exits non-zero when none did, or not every rank: a recipe that trained without its
treated loss is no treated recipe. Ranks may be processes that are spawned or forked, so the answer
is kept in a file, named in the environment, to which each process adds a line at its first call:
its rank and their number.

On Linux the file is in memory and has no name but that of the open file of this process, so that
nothing is left behind, however this process ends. Free of torch, so that the command line can ask
cheaply.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import NamedTuple

RECORD_VARIABLE = "NEGPLUG_CALL_RECORD"

_recorded = False


class Calls(NamedTuple):
    """What the processes of a script have noted.

    Attributes:
        any: Whether a treated loss was called in any of them.
        missing: The ranks in which none was called, though one was in another of them.
    """

    any: bool
    missing: list[int]


def record_call(rank: int = 0, world_size: int = 1) -> None:
    """Note that this process called a treated loss; free from the second call on."""
    global _recorded
    if _recorded:
        return
    _recorded = True
    path = os.environ.get(RECORD_VARIABLE)
    if path:
        # Where the process that asks is gone, its file is gone too.
        with suppress(FileNotFoundError), open(path, "ab") as file:
            file.write(f"{rank} {world_size}\n".encode())


def recorded_here() -> bool:
    """Return whether this process has called a treated loss."""
    return _recorded


@contextmanager
def opened() -> Iterator[Callable[[], Calls]]:
    """Keep a record for this process and those that it starts.

    Yields:
        A function that tells what they have noted so far.
    """
    descriptor, path, named = _new_file()
    os.environ[RECORD_VARIABLE] = path
    try:
        # Asked through the open file: a cleaner of old temporary files may have taken the name.
        yield lambda: _read(descriptor)
    finally:
        os.environ.pop(RECORD_VARIABLE, None)
        os.close(descriptor)
        if named:
            # Windows keeps a file that another process is writing to at this moment.
            with suppress(FileNotFoundError, PermissionError):
                os.unlink(path)


def _new_file() -> tuple[int, str, bool]:
    """Return an open file, a path to it for other processes, and whether that is to be removed."""
    if hasattr(os, "memfd_create"):  # Linux, but not every build of Python
        with suppress(OSError):  # in some sandboxes
            descriptor = os.memfd_create("negplug-calls")
            path = f"/proc/{os.getpid()}/fd/{descriptor}"
            if os.path.exists(path):
                return descriptor, path, False
            os.close(descriptor)
    descriptor, path = tempfile.mkstemp(prefix="negplug-calls-")
    return descriptor, path, True


def _read(descriptor: int) -> Calls:
    os.lseek(descriptor, 0, os.SEEK_SET)
    lines = os.read(descriptor, os.fstat(descriptor).st_size).decode().splitlines()
    called: dict[int, set[int]] = {}
    for line in lines:
        rank, world_size = map(int, line.split())
        called.setdefault(world_size, set()).add(rank)
    missing = {rank for size, ranks in called.items() for rank in set(range(size)) - ranks}
    return Calls(bool(lines), sorted(missing))
