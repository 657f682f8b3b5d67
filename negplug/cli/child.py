"""One run of a sweep as a child process: started, watched, and never left behind."""

from __future__ import annotations

import os
import shlex
import signal
import subprocess
import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path

from negplug.hosts.trainer.metrics import METRICS_VARIABLE, Record, read_records

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
    command: Sequence[str], directory: Path, on_tick: Callable[[Sequence[Record]], None]
) -> None:
    """Run ``negplug run …`` in a process group of its own, to its end.

    Args:
        command: The command line.
        directory: Gets ``log.txt``, all that the run prints, and ``metrics.jsonl``.
        on_tick: Told twice a second what the run has recorded.

    Raises:
        RunFailedError: If the run ended with an error.
    """
    directory.mkdir(parents=True, exist_ok=True)
    log, metrics = directory / "log.txt", directory.absolute() / METRICS_FILE
    metrics.unlink(missing_ok=True)  # of an earlier attempt
    theirs, ours = os.pipe()
    environment = {METRICS_VARIABLE: str(metrics), _LIFELINE_VARIABLE: str(theirs)}
    with log.open("w", encoding="utf-8") as output:
        print("$", shlex.join(command), file=output, flush=True)
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
    try:
        while child.poll() is None:
            on_tick(read_records(metrics))
            with suppress(subprocess.TimeoutExpired):
                child.wait(0.5)
    finally:
        if child.poll() != 0:
            _end(child)
        os.close(ours)
    if child.returncode != 0:
        lines = log.read_text(encoding="utf-8", errors="replace").splitlines()
        tail = "\n".join(lines[1:][-_LOG_LINES:])
        raise RunFailedError(f"exit code {child.returncode}, see {log}:\n{tail}")


def die_with_parent() -> None:
    """End this process group when the sweep that started it has been killed.

    ``negplug sweep`` keeps the other end of a pipe open. If the sweep is killed outright the
    pipe closes; without this the run would go on, unseen, beside its own repetition.
    """
    number = os.environ.pop(_LIFELINE_VARIABLE, None)
    if number is None:
        return

    def wait_and_end() -> None:
        os.read(int(number), 1)  # returns when the writer is gone
        os.killpg(os.getpgid(0), signal.SIGKILL)

    threading.Thread(target=wait_and_end, name="negplug-lifeline", daemon=True).start()


def _end(child: subprocess.Popen[bytes]) -> None:
    """End what is left of a run: itself, politely, then other ranks and data loaders."""
    if child.poll() is None:
        os.killpg(child.pid, signal.SIGTERM)
        with suppress(subprocess.TimeoutExpired):
            child.wait(_GRACE_SECONDS)
    with suppress(ProcessLookupError):
        os.killpg(child.pid, signal.SIGKILL)
    child.wait()
