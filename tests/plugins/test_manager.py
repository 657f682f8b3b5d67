"""Plugins blocked and autoloaded, failures raised, damaged installations."""

from __future__ import annotations

import json
import subprocess
from importlib.metadata import version
from pathlib import Path

from distributions import python
from example_plugins import BROKEN, FAULTS, LOADED, OWN, succeeded

from negplug.plugins.manager import Plugins


def statuses(done: subprocess.CompletedProcess[str]) -> dict[str, str]:
    return {row["name"]: row["status"] for row in json.loads(done.stdout)["plugins"]}


def test_an_import_of_the_broken_distribution_shows(listing):
    """What the tests below rely on when they see nothing."""
    lines = listing.stderr.splitlines()
    assert lines.count("negplug_broken is imported") == 1
    assert lines.count("negplug_broken.raises_at_import is imported") == 1


def test_a_disabled_distribution_is_not_even_imported(sites, tmp_path):
    done = python(
        *("-m", "negplug", "plugins", "--json"),
        sites=sites,
        cwd=tmp_path,
        NEGPLUG_DISABLED_PLUGINS="negplug-broken, nearest",
        NEGPLUG_STRICT="1",
    )
    # Strict: one faulty import and this would fail.
    found = statuses(succeeded(done))
    assert {name for name, status in found.items() if status == "disabled"} == {
        "nearest",
        *FAULTS,
        *LOADED,
    }
    assert "failed" not in found.values()
    assert found["toyhost"] == "active"
    assert "is imported" not in done.stderr


def test_a_disabled_plugin_leaves_the_others_of_its_distribution(sites, tmp_path):
    script = (
        "import negplug; print(negplug.make_sampler('uniform(num_negatives=2)').provider); "
        "negplug.make_sampler('stumbling()')"
    )
    done = succeeded(
        python(
            *("-c", script),
            sites=sites,
            cwd=tmp_path,
            NEGPLUG_DISABLED_PLUGINS="raises-at-import,taken-name",
        )
    )
    assert done.stdout == f"uniform (distribution negplug {version('negplug')})\n"
    assert "negplug_broken is imported" in done.stderr
    assert "raises_at_import is imported" not in done.stderr
    assert "raises-in-hook" in done.stderr


def test_without_autoload_only_negplugs_own_plugins_are_there(sites, tmp_path):
    command = ("-m", "negplug", "plugins", "--json")
    done = succeeded(python(*command, sites=sites, cwd=tmp_path, NEGPLUG_DISABLE_AUTOLOAD="1"))
    found = statuses(done)
    assert {name for name, status in found.items() if status == "active"} == OWN
    assert {name for name, status in found.items() if status == "disabled"} == {
        *("nearest", "toyhost"),
        *FAULTS,
        *LOADED,
    }
    assert "is imported" not in done.stderr


def test_strict_raises_the_first_failure(sites, tmp_path):
    done = python("-m", "negplug", "samplers", sites=sites, cwd=tmp_path, NEGPLUG_STRICT="1")
    assert done.returncode != 0
    first = min(FAULTS)
    stage, reason = FAULTS[first]
    assert f"PluginError: plugin {first} {BROKEN} failed at {stage}: {reason}" in done.stderr
    assert "direct cause" in done.stderr
    assert done.stdout == ""


def dist_info(site: Path, name: str, entry_points: str, metadata: str | None) -> Path:
    folder = site / f"{name}.dist-info"
    folder.mkdir(parents=True)
    (folder / "entry_points.txt").write_text(f"[negplug]\n{entry_points}\n")
    if metadata is not None:
        (folder / "METADATA").write_text(f"Metadata-Version: 2.1\n{metadata}")
    return site


def test_the_first_of_two_versions_on_the_path_is_the_one(installed, tmp_path, monkeypatch):
    metadata = "Name: negplug-nearest\nVersion: 0.9\n"
    entries = "nearest = negplug_nearest\nwithdrawn = negplug_nearest.withdrawn"
    older = dist_info(tmp_path, "negplug_nearest-0.9", entries, metadata)
    monkeypatch.syspath_prepend(older)
    monkeypatch.syspath_prepend(installed["nearest"])
    listed = Plugins({"NEGPLUG_DISABLE_AUTOLOAD": "1"}).plugins
    found = [info for info in listed if info.distribution == "negplug-nearest"]
    assert [(info.name, info.version) for info in found] == [("nearest", "1.2.3")]


def test_an_installation_without_metadata_hurts_nobody(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(dist_info(tmp_path, "torn-1.0", "torn = torn", None))
    listed = Plugins({"NEGPLUG_DISABLE_AUTOLOAD": "1"}).plugins
    assert {info.name for info in listed if info.status == "active"} == OWN
    (torn,) = [info for info in listed if info.name == "torn"]
    assert (torn.distribution, torn.status) == ("unknown", "disabled")
