"""Which processes of a script called a treated loss.

``negplug run`` exits non-zero when none did, or not every rank: a recipe that trained without its
treated loss is no treated recipe. Ranks may be processes that are spawned or forked, so the answer
is kept in a file, named in the environment, to which each process adds a line at its first call:
its rank and their number.

On Linux the file is in memory and has no name but that of the open file of this process, so that
nothing is left behind, however this process ends. The environment may travel further than the file:
to another machine, to a time when the number of this process is another's. So only what is known to
be such a file is written to, and none is made. Free of torch, so that the command line can ask
cheaply.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import NamedTuple

RECORD_VARIABLE = "NEGPLUG_CALL_RECORD"

_NAME = "negplug-calls"

# Of the record that this process keeps, or the one that it was forked from: a script may clear the
# environment.
_kept: str | None = None

_recorded = ""  # the line of this process

_others = False  # whether others had added to a record of this process by its end


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
    _recorded = f"{rank} {world_size}\n"
    path = os.environ.get(RECORD_VARIABLE) or _kept
    if path and _is_record(path):
        # Where the process that asks is gone, its file is gone too.
        with suppress(OSError), open(path, "ab", opener=_opened_if_there) as file:
            file.write(_recorded.encode())


def recorded_here() -> bool:
    """Return whether this process has called a treated loss."""
    return bool(_recorded)


def recorded() -> bool:
    """Return whether this process has, or one that a ``negplug run`` shares a record with."""
    path = os.environ.get(RECORD_VARIABLE) or _kept
    if _recorded or _others or not path or not _is_record(path):
        return bool(_recorded) or _others
    with suppress(OSError):
        return os.stat(path).st_size > 0
    return False


@contextmanager
def opened() -> Iterator[Callable[[], Calls]]:
    """Keep a record for this process and those that it starts.

    Yields:
        A function that tells what they have noted so far.
    """
    global _kept, _others
    descriptor, path, named = _new_file()
    process, made = os.getpid(), os.fstat(descriptor)
    os.environ[RECORD_VARIABLE] = _kept = path
    try:
        # Asked through the open file: a cleaner of old temporary files may have taken the name.
        yield lambda: _read(descriptor if _is_open(descriptor, made) else None)
    finally:
        _others = recorded()
        os.environ.pop(RECORD_VARIABLE, None)
        _kept = None
        if _is_open(descriptor, made):
            os.close(descriptor)
        if named and os.getpid() == process:
            # Windows keeps a file that another process is writing to at this moment.
            with suppress(FileNotFoundError, PermissionError):
                os.unlink(path)


def _new_file() -> tuple[int, str, bool]:
    """Return an open file, a path to it for other processes, and whether that is to be removed."""
    if hasattr(os, "memfd_create"):  # Linux, but not every build of Python
        with suppress(OSError):  # in some sandboxes
            descriptor = os.memfd_create(_NAME)
            path = f"/proc/{os.getpid()}/fd/{descriptor}"
            if os.path.exists(path):
                return descriptor, path, False
            os.close(descriptor)
    descriptor, path = tempfile.mkstemp(prefix=f"{_NAME}-")
    return descriptor, path, True


def _opened_if_there(path: str, flags: int) -> int:
    return os.open(path, flags & ~os.O_CREAT)


def _is_record(path: str) -> bool:
    """Return whether a path leads to a record, and not to an open file of some other process."""
    with suppress(OSError):
        return _NAME in os.path.basename(os.readlink(path) if os.path.islink(path) else path)
    return False


def _is_open(descriptor: int, made: os.stat_result) -> bool:
    """Return whether a file is open still, and the same: daemons close all that they find open."""
    with suppress(OSError):
        return os.path.samestat(os.fstat(descriptor), made)
    return False


def _read(descriptor: int | None) -> Calls:
    """Read the record; if it is lost, what this process has noted is known still."""
    if descriptor is None:
        lines = [_recorded] if _recorded else []
    else:
        os.lseek(descriptor, 0, os.SEEK_SET)
        lines = os.read(descriptor, os.fstat(descriptor).st_size).decode().splitlines()
    called: dict[int, set[int]] = {}
    for line in lines:
        rank, world_size = map(int, line.split())
        called.setdefault(world_size, set()).add(rank)
    missing = {rank for size, ranks in called.items() for rank in set(range(size)) - ranks}
    return Calls(bool(lines), sorted(missing))
