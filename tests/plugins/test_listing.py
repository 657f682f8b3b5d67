"""Plugins are found and listed, with provenance, status and failure."""

from __future__ import annotations

from importlib.metadata import version

import pytest
from example_plugins import FAULTS, LOADED, OWN


def test_every_plugin_is_listed_with_its_provenance_and_status(plugins_json):
    rows = plugins_json["plugins"]
    found = {(row["distribution"], row["name"]): (row["version"], row["status"]) for row in rows}
    assert len(found) == len(rows)
    assert found == {
        **{("negplug", name): (version("negplug"), "active") for name in OWN},
        **{("negplug-broken", name): ("0.0.1", "failed") for name in FAULTS},
        **{("negplug-broken", name): ("0.0.1", "active") for name in LOADED},
        ("negplug-nearest", "nearest"): ("1.2.3", "active"),
        ("negplug-toyhost", "toyhost"): ("0.4.0", "active"),
    }


def test_a_listed_plugin_shows_its_hooks(plugins_json):
    hooks = {row["name"]: row["hooks"] for row in plugins_json["plugins"]}
    assert hooks["nearest"] == ["negplug_samplers"]
    assert sorted(hooks["toyhost"]) == [
        "negplug_adapters",
        "negplug_composers",
        "negplug_objectives",
    ]
    assert hooks["raises-in-hook"] == []


@pytest.mark.parametrize("name", FAULTS)
def test_a_failure_is_listed_with_stage_reason_and_traceback(plugins_json, name):
    (failure,) = [f for f in plugins_json["failures"] if f["plugin"] == name]
    stage, reason = FAULTS[name]
    assert (failure["distribution"], failure["version"]) == ("negplug-broken", "0.0.1")
    assert failure["stage"] == stage
    assert reason in failure["error"]
    assert failure["traceback"].startswith("Traceback (most recent call last)")
    # Python prints no message either where there is none.
    assert failure["error"] in failure["traceback"] or "cannot be made" in failure["error"]


def test_nothing_but_the_faults_is_listed_as_a_failure(plugins_json):
    assert {failure["plugin"] for failure in plugins_json["failures"]} == set(FAULTS)
