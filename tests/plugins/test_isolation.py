"""Faulty plugins: one warning each, and everything else works."""

from __future__ import annotations

import pytest
from example_plugins import BROKEN, FAULTS


def test_one_warning_for_each_failure_names_plugin_distribution_and_version(facts):
    assert {category for category, _ in facts["warnings"]} == {"PluginWarning"}
    messages = [message for _, message in facts["warnings"]]
    assert len(messages) == len(FAULTS)
    for name, (stage, reason) in FAULTS.items():
        (message,) = [m for m in messages if f"plugin {name} {BROKEN} failed at {stage}: " in m]
        assert reason in message


def test_the_sampler_works_beside_faulty_plugins(facts):
    """Against a naive loop: ids say who is whom, and -1 equals nothing."""
    got = facts["nearest"]
    rows, ids = got["rows"], got["ids"]
    for i, (columns, mask) in enumerate(zip(got["columns"], got["mask"], strict=True)):
        distance = {
            j: abs(sum(a * b for a, b in zip(rows[i], row, strict=True)) - got["similarity"])
            for j, row in enumerate(rows)
            if ids[i] == -1 or ids[j] != ids[i]
        }
        expected = sorted(distance, key=distance.__getitem__)[:8]
        assert [c for c, kept in zip(columns, mask, strict=True) if kept] == expected
    assert any(not kept for mask in got["mask"] for kept in mask)
    assert got["expression"] == "nearest(num_negatives=8, similarity=-0.25)"
    assert got["provider"] == "nearest (distribution negplug-nearest 1.2.3)"


def test_a_hook_that_fails_half_way_offers_nothing(facts, samplers_json):
    assert "unknown sampler 'half'" in facts["make"]["half()"]["message"]
    assert "half" not in {row["name"] for row in samplers_json}


@pytest.mark.parametrize(
    ("sampler", "where", "cause"),
    [
        ("stumbling()", "sample()", "ZeroDivisionError: stumbled over the batch"),
        ("stumbling(late=True)", "update()", "OverflowError: stumbled over the update"),
    ],
)
def test_an_error_in_a_step_names_the_plugin_and_keeps_the_cause(facts, sampler, where, cause):
    error = facts["train"][sampler]
    assert error["types"][0] == "PluginError"
    assert error["message"] == f"plugin stumbles {BROKEN} failed in {where}: {cause}"
    assert error["cause"] == cause.partition(":")[0]
    assert "stumbles.py" in error["traceback"]


def test_a_sampler_that_returns_no_negatives_is_named(facts):
    error = facts["train"]["empty()"]
    assert error["message"] == (
        f"plugin no-sampler {BROKEN} failed in sample(): TypeError: sample() must return "
        f"Negatives, got NoneType"
    )
