"""A script inside the check of its leaving, in a process of its own; less than `negplug run`."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

# A file says whether a treated loss was called.
AROUND = """
import pathlib
from negplug.cli.leaving import checked_leaving
called = pathlib.Path("called")
with checked_leaving(lambda: None if called.exists() else "no loss was called"):
    exec(pathlib.Path("script.py").read_text())
"""


def around(folder: Path, script: str) -> subprocess.CompletedProcess[str]:
    """Run a script inside the check of its leaving."""
    (folder / "script.py").write_text(script)
    return subprocess.run(
        [sys.executable, "-c", AROUND],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
