"""Plugins blocked and autoloaded, failures raised."""

from __future__ import annotations

import json
import subprocess
from importlib.metadata import version

import pytest
from distributions import python
from example_plugins import BROKEN, FAULTS, LOADED, OWN, succeeded

from negplug.plugins.manager import Plugins, PluginWarning, UnknownNameError


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


@pytest.mark.parametrize("spelling", ["Negplug_Broken,nearest", "negplug.broken, NEAREST"])
def test_a_disabled_name_may_be_spelt_as_installers_take_it(sites, monkeypatch, spelling):
    for site in sites:
        monkeypatch.syspath_prepend(site)
    found = Plugins({"NEGPLUG_DISABLED_PLUGINS": spelling, "NEGPLUG_STRICT": "1"}).plugins
    disabled = {info.name for info in found if info.status == "disabled"}
    assert disabled == {"nearest", *FAULTS, *LOADED}


def test_a_builtin_plugin_can_be_disabled(monkeypatch):
    plugins = Plugins({"NEGPLUG_DISABLED_PLUGINS": "uniform"})
    assert [info.name for info in plugins.plugins if info.status == "disabled"] == ["uniform"]
    with pytest.raises(UnknownNameError, match="unknown sampler 'uniform'"):
        plugins.lookup("sampler", "uniform")


def test_a_disabled_name_that_nothing_has_is_named():
    with pytest.warns(PluginWarning, match="DISABLED_PLUGINS names 'negplug-neerest', which is no"):
        Plugins({"NEGPLUG_DISABLED_PLUGINS": "uniform,negplug-neerest,"})
