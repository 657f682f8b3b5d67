"""Real distributions for tests: built as wheels and installed beside the environment.

Nothing is downloaded and no installer is needed: the build backend is a development
requirement, and a pure wheel is installed by unpacking it.
"""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from pathlib import Path

CHECKOUT = Path(__file__).parents[2]


def build_wheel(project: Path, into: Path) -> Path:
    """Build the wheel of the folder `project`."""
    subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(into)],
        cwd=project,
        check=True,
        capture_output=True,
        timeout=60,
    )
    (wheel,) = into.glob("*.whl")
    return wheel


def install(project: Path, into: Path) -> Path:
    """Install the folder `project` into a new site folder and return that."""
    site = into / "site"
    with zipfile.ZipFile(build_wheel(project, into)) as wheel:
        wheel.extractall(site)
    return site


def python(
    *arguments: str, sites: tuple[Path, ...] = (), cwd: Path, **environment: str
) -> subprocess.CompletedProcess[str]:
    """Run `python arguments…` with `sites` on the path and no variable of negplug but these."""
    inherited = {k: v for k, v in os.environ.items() if not k.startswith("NEGPLUG_")}
    path = [*map(str, sites), *filter(None, [inherited.get("PYTHONPATH")])]
    return subprocess.run(
        [sys.executable, *arguments],
        cwd=cwd,
        env={**inherited, "PYTHONPATH": os.pathsep.join(path), **environment},
        capture_output=True,
        text=True,
        timeout=240,
    )
