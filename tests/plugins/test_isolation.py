"""Faulty plugins: one warning each, and everything else works."""

from __future__ import annotations

import sys

import pytest
from example_plugins import BROKEN, FAULTS

from negplug.contract.provenance import PluginError, PluginInfo, blaming


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


class Panic(BaseException):
    """As compiled extensions raise it: no Exception."""


@pytest.mark.skipif(sys.version_info < (3, 11), reason="errors have no notes")
def test_what_is_no_exception_stays_what_it_is_and_names_the_plugin():
    with pytest.raises(Panic) as caught, blaming(PluginInfo("p", "dist", "1"), "sample()"):
        raise Panic
    assert caught.value.__notes__ == ["raised by plugin p (distribution dist 1) in sample()"]
    with pytest.raises(Panic) as caught, blaming(PluginInfo("uniform", "negplug", "1"), "sample()"):
        raise Panic
    assert not hasattr(caught.value, "__notes__")


class Speechless(Exception):
    """Its message cannot be made."""

    def __str__(self):
        raise KeyError("no words")


@pytest.mark.parametrize("error", [Speechless(), ValueError("x" * 10**6)])
def test_an_error_whose_message_cannot_be_shown_names_the_plugin(error):
    with pytest.raises(PluginError) as caught, blaming(PluginInfo("p", "dist", "1"), "sample()"):
        raise error
    message = str(caught.value)
    assert message.startswith("plugin p (distribution dist 1) failed in sample(): ")
    assert type(error).__name__ in message
    assert len(message) < 2_200
