"""What commands that start runs need of the system, and how they end with them."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterable
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from negplug.cli.terminal import plain
from negplug.cli.treatment import fail

if TYPE_CHECKING:
    from negplug.cli.sweep.study import SweepStudy


def check_installed(command: str, packages: Iterable[str]) -> None:
    """End the command with one sentence where it cannot work."""
    if sys.platform == "win32" or not hasattr(os, "killpg"):
        fail(
            f"{command} ends its runs through process groups, which this system lacks; use it on "
            "Linux, macOS or WSL, or 'negplug run' here.",
            code=1,
        )
    missing = [name for name in packages if find_spec(name) is None]
    if missing:
        fail(f'{command} needs {" and ".join(missing)}: pip install "negplug[sweep]"', code=1)


def check_given(
    script: Path, study: str | None, storage: str | None, timeout: float | None
) -> None:
    """Exit with a sentence if what a sweep of any kind is given cannot be used."""
    if not script.is_file():
        fail(f"SCRIPT {str(script)!r} is no file; check its name.")
    if study is not None and storage is None:
        fail(f"--study {study!r} has no effect without --storage; give the storage's URL.")
    if timeout is not None and not timeout > 0:
        fail(f"--timeout {timeout:g} is not a positive number of seconds; give one, such as 3600.")


def tell_of_another_script(study: SweepStudy, script: Path) -> None:
    """Say how many runs were finished before the script was changed, if any were.

    Args:
        study: The study.
        script: The script, as it was given.
    """
    if runs := study.of_another_script():
        noun = "run was" if runs == 1 else "runs were"
        sentence = (
            f"negplug: {runs} {noun} finished before {script} was changed, and stand beside those "
            "of the script as it is now; start another study to compare like with like"
        )
        typer.echo(plain(sentence), err=True)


def name_of(out: Path) -> str:
    """Return the name of a folder, wherever links to it lead; also if they lead nowhere."""
    return os.path.basename(os.path.realpath(out))


def end_runs_on_signals() -> None:
    """Have a terminated command end its run as an interrupted one does; nohup stays nohup."""
    if sys.platform == "win32":  # where no run starts
        return
    for number in (signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, signal.default_int_handler)
