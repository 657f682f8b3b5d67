"""An environment in which torch's import arms negplug, as its installation does."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

_FILES = {
    "METADATA": "Metadata-Version: 2.1\nName: armed\nVersion: 0\n",
    "entry_points.txt": "[torch.backends]\nnegplug = negplug.hosts.arming:arm\n",
}


def environment(folder: Path, **variables: str) -> dict[str, str]:
    """Return the variables of a process; beside a checkout that was installed before, a site."""
    info = folder / "site" / "armed-0.dist-info"
    info.mkdir(parents=True, exist_ok=True)
    for name, text in _FILES.items():
        (info / name).write_text(text)
    inherited = {k: v for k, v in os.environ.items() if not k.startswith("NEGPLUG_")}
    path = os.pathsep.join(filter(None, (str(info.parent), inherited.get("PYTHONPATH"))))
    return {**inherited, "OMP_NUM_THREADS": "1", "PYTHONPATH": path, **variables}


def run(folder: Path, *command: str, **variables: str) -> subprocess.CompletedProcess[str]:
    """Run Python in a folder, in :func:`environment`."""
    return subprocess.run(
        [sys.executable, *command],
        cwd=folder,
        env=environment(folder, **variables),
        capture_output=True,
        text=True,
        timeout=240,
    )
