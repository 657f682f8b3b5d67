"""Sweeps in processes of their own, for the tests of `negplug sweep`."""

from __future__ import annotations

import csv
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from systems import skip_without_process_groups


def _heed_interrupts() -> None:
    # A shell's background job ignores them, and so would all that it starts: these tests too.
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def refused(monkeypatch: pytest.MonkeyPatch, path: Path, *arguments: str) -> str:
    """Sweep a script in an empty folder, see that nothing starts, and return what is said."""
    from typer.testing import CliRunner

    from negplug.cli import app

    skip_without_process_groups()
    monkeypatch.chdir(path)
    Path("script.py").touch()
    command = ["sweep", "script.py", "--seeds", "1", "--out", "out"]
    done = CliRunner().invoke(app, [*command, *arguments])
    assert done.exit_code == 2
    assert not Path("out", "runs").exists()
    return done.stderr


class Workplace:
    """A folder with a script, in which sweeps run."""

    def __init__(self, path: Path, script: str) -> None:
        skip_without_process_groups()
        self.path = path
        for folder in ("starts", "control"):
            (path / folder).mkdir(parents=True)
        (path / "script.py").write_text(script)

    def start(
        self,
        *arguments: str,
        args: tuple[str, ...] = ("{seed}",),
        out: str = "out",
        **environment: str,
    ) -> subprocess.Popen[str]:
        """Start a sweep to a folder."""
        command = [sys.executable, "-m", "negplug", "sweep", "script.py", "--out", out]
        return subprocess.Popen(
            [*command, *arguments, "--", *args],
            cwd=self.path,
            env={**os.environ, "OMP_NUM_THREADS": "1", **environment},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            preexec_fn=_heed_interrupts,
        )

    def sweep(
        self, *arguments: str, args: tuple[str, ...] = ("{seed}",), out: str = "out"
    ) -> subprocess.CompletedProcess[str]:
        """Run a sweep to its end."""
        process = self.start(*arguments, args=args, out=out)
        out, err = process.communicate(timeout=240)
        return subprocess.CompletedProcess(process.args, process.returncode, out, err)

    def starts(self) -> list[str]:
        """Sampler and seed of every start of the script, sorted."""
        names = (path.name for path in (self.path / "starts").iterdir())
        return sorted(name.rpartition("-")[0] for name in names)

    def starts_of(self, name: str) -> set[Path]:
        """The files that the starts of one run left; they end in the process id."""
        return set((self.path / "starts").glob(f"{name}-*"))

    def control(self, name: str) -> Path:
        """The file that makes a run fail or hang while it is there."""
        return self.path / "control" / name

    def rows(self, out: str = "out") -> list[dict[str, str]]:
        """Rows of results.csv."""
        with (self.path / out / "results.csv").open(newline="") as file:
            return list(csv.DictReader(file))


def wait_for(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + 240  # on a machine that does ten other things
    while not condition():
        assert time.monotonic() < deadline, "waited for four minutes"
        time.sleep(0.05)
