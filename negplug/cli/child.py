"""One run of a sweep as a child process: started, watched, and never left behind."""

from __future__ import annotations

import math
import os
import shlex
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path

from negplug.cli.strays import signal_strays
from negplug.cli.terminal import last_lines
from negplug.hosts.trainer.metrics import METRICS_VARIABLE
from negplug.hosts.trainer.progress import PROGRESS_VARIABLE
from negplug.hosts.trainer.recording import Record, last_record

#: Name of the recorder's file in the folder of a run.
METRICS_FILE = "metrics.jsonl"

# Number of an open pipe end; it is closed when the sweep that wants this run is gone.
_LIFELINE_VARIABLE = "NEGPLUG_LIFELINE"

# How much of a failed run's log its error quotes.
_LOG_LINES = 12

# Between asking a run to end and ending it.
_GRACE_SECONDS = 5


class RunFailedError(Exception):
    """A run ended with an error; the message holds the last lines of its log."""


def run_child(
    command: Sequence[str],
    directory: Path,
    on_tick: Callable[[Record | None], None],
    timeout: float | None = None,
    live: bool = False,
) -> None:
    """Run ``negplug run …`` in a process group of its own, to its end.

    What the run has forked and left behind ends with it, see :mod:`negplug.cli.strays`.

    Args:
        command: The command line.
        directory: Gets ``log.txt``, all that the run prints, and ``metrics.jsonl``.
        on_tick: Told twice a second what the run has recorded last.
        timeout: Seconds after which the run is ended; ``None`` waits for as long as it takes.
        live: Whether to tell where a fit stands between what it records.

    Raises:
        RunFailedError: If the run ended with an error, or was ended.
        OSError: If the folder or a file in it cannot be written.
    """
    directory.mkdir(parents=True, exist_ok=True)
    log, metrics = directory / "log.txt", directory.absolute() / METRICS_FILE
    progress = metrics.with_name("progress.json")
    for file in (metrics, progress):
        file.unlink(missing_ok=True)  # of an earlier attempt
    theirs, ours = os.pipe()
    environment = {METRICS_VARIABLE: str(metrics), _LIFELINE_VARIABLE: str(theirs)}
    if live:
        environment[PROGRESS_VARIABLE] = str(progress)
    with log.open("w", encoding="utf-8", errors="replace") as output:
        print("$", shlex.join(command), file=output, flush=True)
        printed = os.fstat(output.fileno()).st_size
        child = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            env={**os.environ, **environment, "PYTHONUNBUFFERED": "1"},
            pass_fds=[theirs],
            start_new_session=True,
        )
    os.close(theirs)
    deadline = math.inf if timeout is None else time.monotonic() + timeout
    late = False
    try:
        while child.poll() is None and not late:
            on_tick(last_record(progress) or last_record(metrics))
            with suppress(subprocess.TimeoutExpired):
                child.wait(min(0.5, max(0.0, deadline - time.monotonic())))
            late = time.monotonic() >= deadline
        late = late and child.poll() is None
    finally:
        _end(child, str(metrics))
        os.close(ours)
        progress.unlink(missing_ok=True)
    if late or child.returncode != 0:
        how = f"no end after {timeout:g} s" if late else f"exit code {child.returncode}"
        raise RunFailedError(f"{how}, see {log}:\n{last_lines(log, _LOG_LINES, printed)}")


def die_with_parent() -> None:
    """End this process group when the sweep that started it has been killed.

    ``negplug sweep`` keeps the other end of a pipe open. If the sweep is killed outright the
    pipe closes; without this the run would go on, unseen, beside its own repetition.
    """
    number = os.environ.pop(_LIFELINE_VARIABLE, None)
    if number is None or sys.platform == "win32":  # where no sweep starts
        return

    def wait_and_end() -> None:
        os.read(int(number), 1)  # returns when the writer is gone
        if metrics := os.environ.get(METRICS_VARIABLE):
            signal_strays(os.getpgid(0), METRICS_VARIABLE, metrics, signal.SIGKILL)
        os.killpg(os.getpgid(0), signal.SIGKILL)

    threading.Thread(target=wait_and_end, name="negplug-lifeline", daemon=True).start()


def _end(child: subprocess.Popen[bytes], metrics: str) -> None:
    """End what is left of a run: itself, its ranks and workers, what it forked.

    Where the run ended well, the others get a moment to end by themselves.

    Args:
        child: The run.
        metrics: The file that it alone was handed.
    """
    if sys.platform == "win32":
        child.kill()
        child.wait()
        return
    for number in (0, signal.SIGTERM) if child.poll() == 0 else (signal.SIGTERM,):
        deadline = time.monotonic() + _GRACE_SECONDS
        while _signalled(child.pid, metrics, number) and time.monotonic() < deadline:
            number = 0
            child.poll()
            time.sleep(0.05)
    _signalled(child.pid, metrics, signal.SIGKILL)
    child.wait()


def _signalled(group: int, metrics: str, number: int) -> bool:
    """Send a signal to a run, 0 for none; returns whether anything of it is left."""
    if sys.platform == "win32":
        return False
    strays = signal_strays(group, METRICS_VARIABLE, metrics, number)
    try:
        os.killpg(group, number)
    except (ProcessLookupError, PermissionError):  # the latter where only zombies are left
        return strays
    return True
