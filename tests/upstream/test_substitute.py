"""The folder that host scripts run with: what it takes away is away, whatever is installed."""

from __future__ import annotations

import os
import subprocess
import sys

import host_scripts

PROBE = """
import importlib, importlib.metadata as metadata
groups = ("negplug", "lightning.pytorch.callbacks_factory", "pytorch_lightning.callbacks_factory")
names = [entry.name for group in groups for entry in metadata.entry_points(group=group)]
found = []
for name in ("negplug", "negplug.plugins.manager", "negplug_lightly", "negplug_solo.plugin"):
    try:
        importlib.import_module(name)
        found.append(name)
    except ModuleNotFoundError:
        pass
try:
    found.append(metadata.version("negplug"))
except metadata.PackageNotFoundError:
    pass
print(sorted(set(names) & {"negplug", "lightly", "solo-learn"}), found)
"""


def probe(without):
    path = os.pathsep.join(filter(None, (str(host_scripts.SUBSTITUTE), os.getenv("PYTHONPATH"))))
    environment = {**os.environ, "PYTHONPATH": path, "UPSTREAM_WITHOUT": without}
    command = [sys.executable, "-c", PROBE]
    return subprocess.run(
        command, env=environment, capture_output=True, text=True, check=True
    ).stdout.strip()


def test_what_is_named_is_absent():
    assert probe(",".join(host_scripts.NEGPLUG)) == "[] []"
    present = probe("")
    assert present.startswith(
        "['lightly', 'negplug', 'solo-learn'] ['negplug', 'negplug.plugins.manager'"
    )
