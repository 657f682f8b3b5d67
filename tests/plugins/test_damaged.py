"""Damaged installations, and plugins that hang: each is named, and hurts nobody else."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from example_plugins import OWN

from negplug.plugins.manager import Plugins, PluginWarning

BINARY = b"\x93\xff\xfe not UTF-8\n"
ALONE = {"NEGPLUG_DISABLE_AUTOLOAD": "1"}


def dist_info(site: Path, name: str, entry_points: bytes, metadata: bytes | None) -> Path:
    folder = site / f"{name}.dist-info"
    folder.mkdir(parents=True)
    (folder / "entry_points.txt").write_bytes(entry_points)
    if metadata is not None:
        (folder / "METADATA").write_bytes(metadata)
    return site


def test_the_first_of_two_versions_on_the_path_is_the_one(installed, tmp_path, monkeypatch):
    metadata = b"Metadata-Version: 2.1\nName: negplug-nearest\nVersion: 0.9\n"
    entries = b"[negplug]\nnearest = negplug_nearest\nwithdrawn = negplug_nearest.withdrawn\n"
    older = dist_info(tmp_path, "negplug_nearest-0.9", entries, metadata)
    monkeypatch.syspath_prepend(older)
    monkeypatch.syspath_prepend(installed["nearest"])
    listed = Plugins(ALONE).plugins
    found = [info for info in listed if info.distribution == "negplug-nearest"]
    assert [(info.name, info.version) for info in found] == [("nearest", "1.2.3")]


@pytest.mark.parametrize("metadata", [None, BINARY, b"", b"Name\n\n\n"])
def test_damaged_metadata_hurt_nobody_and_the_folder_names_the_plugin(
    tmp_path, monkeypatch, metadata
):
    site = dist_info(tmp_path, "torn-1.0", b"[negplug]\ntorn = torn\n", metadata)
    monkeypatch.syspath_prepend(site)
    plugins = Plugins(ALONE)
    assert {info.name for info in plugins.plugins if info.status == "active"} == OWN
    (torn,) = [info for info in plugins.plugins if info.name == "torn"]
    assert (torn.distribution, torn.version, torn.status) == ("torn", "1.0", "disabled")
    assert not plugins.failures


def test_unreadable_entry_points_are_named_if_they_are_ours(tmp_path, monkeypatch):
    ours = dist_info(tmp_path / "ours", "torn-1.0", b"[negplug]\ntorn = " + BINARY, BINARY)
    theirs = dist_info(tmp_path / "theirs", "other-2.0", b"[pytest11]\nx = " + BINARY, BINARY)
    for site in (ours, theirs):
        monkeypatch.syspath_prepend(site)
    with pytest.warns(PluginWarning, match=r"\(distribution torn 1.0\) failed at discovery: Unic"):
        plugins = Plugins(ALONE)
    (failure,) = plugins.failures
    assert failure.plugin.distribution == "torn"
    assert {info.name for info in plugins.plugins if info.status == "active"} == OWN


SLOW = """
import pathlib, time
while not pathlib.Path("enough").exists():
    time.sleep(0.01)
"""


@pytest.mark.parametrize("hook", [False, True], ids=["import", "registration"])
def test_a_plugin_that_hangs_is_named(tmp_path, hook):
    """It goes on once the name has been seen."""
    body = "\n".join(f"    {line}" for line in SLOW.strip().splitlines())
    hooked = f"import negplug\n@negplug.hookimpl\ndef negplug_samplers():\n{body}\n    return ()\n"
    metadata = b"Metadata-Version: 2.1\nName: sloth\nVersion: 3\n"
    site = dist_info(tmp_path, "sloth-3", b"[negplug]\nsloth = sloth\n", metadata)
    (site / "sloth.py").write_text(hooked if hook else f"{SLOW}\n{hooked.replace(body, '')}")
    script = (
        "from negplug.plugins import patience\n"
        "patience.SECONDS = 0.1\n"
        "from negplug.plugins.manager import plugins\n"
        "print([info.status for info in plugins().plugins if info.name == 'sloth'])\n"
    )
    path = os.pathsep.join(filter(None, [str(site), os.environ.get("PYTHONPATH")]))
    process = subprocess.Popen(
        [sys.executable, "-c", script],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": path},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stderr is not None
    named = process.stderr.readline()
    (tmp_path / "enough").touch()
    output, errors = process.communicate(timeout=240)
    stage = "registration" if hook else "import"
    assert f"still waiting for plugin sloth (distribution sloth 3) at {stage}" in named
    assert output == "['active']\n", errors
