"""Programs that a script replaces itself with, by ``os.execv`` and its kin, run as its children.

A process that has replaced itself checks nothing at its end any more: ``negplug run`` would end
well without a treated loss, and a sweep take the run for a treated one. So the program runs as a
child of this process, which ends as it does. What this process holds, memory of a GPU for one, it
holds until then.

The treatment reaches the program through the environment. Its seeds are its own.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import Any, NoReturn

# What others send to this process alone. A terminal interrupts the child too.
_PASSED_ON = ("SIGTERM", "SIGHUP", "SIGUSR1", "SIGUSR2")

_Path = str | bytes | os.PathLike[str] | os.PathLike[bytes]


def keep_this_process() -> Callable[[], None]:
    """Run what this process, and none that it forks, replaces itself with as a child from now on.

    Returns:
        A function that undoes it.
    """
    process, execv, execve = os.getpid(), os.execv, os.execve

    def replaced(path: _Path, argv: Any) -> NoReturn:
        if os.getpid() != process or not argv:
            execv(path, argv)
        _run(path, argv, None)

    def replaced_with(path: _Path | int, argv: Any, env: Mapping[Any, Any]) -> NoReturn:
        if os.getpid() != process or not argv or isinstance(path, int):
            execve(path, argv, env)
        _run(path, argv, env)

    # All others of the family call one of these.
    os.execv, os.execve = replaced, replaced_with

    def undo() -> None:
        os.execv, os.execve = execv, execve

    return undo


def _run(path: _Path, argv: Sequence[Any], env: Mapping[Any, Any] | None) -> NoReturn:
    """Run a program with all that this process has open, and leave as it does.

    Raises:
        OSError: If it cannot be started, as exec raises it.
    """
    # Signals that Python ignores stay ignored over an exec.
    child = subprocess.Popen(
        [*argv], executable=path, env=env, close_fds=False, restore_signals=False
    )
    print(
        f"negplug: the script replaces itself with {os.fsdecode(path)!r}, which --seed does not "
        "seed",
        file=sys.stderr,
        flush=True,
    )
    with suppress(ValueError):  # in another thread than the main one, where none can be taken
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        for name in _PASSED_ON:
            if hasattr(signal, name):
                signal.signal(getattr(signal, name), lambda number, _: child.send_signal(number))
    code = child.wait()
    if code < 0:
        with suppress(ValueError, OSError):  # of those that cannot be handled
            signal.signal(-code, signal.SIG_DFL)
        os.kill(os.getpid(), -code)
        code = 128 - code  # should this process live on: as a shell says it
    os._exit(code)
