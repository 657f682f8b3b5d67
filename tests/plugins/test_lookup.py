"""Names are looked up among plugins: close ones, clashes, factories that fail."""

from __future__ import annotations

from importlib.metadata import version

from example_plugins import BROKEN, FAULTS


def test_an_unknown_name_gives_close_names_and_every_failure(facts):
    error = facts["make"]["nearst(num_negatives=2)"]
    assert "ExpressionError" in error["types"]
    assert "ValueError" in error["types"]
    reason, text, carets = error["message"].split("\n")
    assert reason.startswith("unknown sampler 'nearst'; did you mean nearest?; plugin ")
    for name, (stage, _) in FAULTS.items():
        assert f"; plugin {name} {BROKEN} failed at {stage}: " in reason
    assert text == "    nearst(num_negatives=2)"
    assert carets == "    ^^^^^^"


def test_an_unknown_name_without_close_ones_gives_all(facts, samplers_json):
    known = sorted({row["name"] for row in samplers_json if row["kind"] == "sampler"})
    assert {"in_batch", "nearest", "stumbling", "uniform"} < set(known)
    reason = facts["make"]["xyz()"]["message"]
    assert reason.startswith(f"unknown sampler 'xyz'; there are {', '.join(known)}; plugin ")


def test_two_providers_of_a_name_clash_only_when_it_is_asked_for(facts, samplers_json):
    providers = [row["provider"] for row in samplers_json if row["name"] == "uniform"]
    assert providers == [f"negplug {version('negplug')}", "negplug-broken 0.0.1"]
    error = facts["make"]["uniform(num_negatives=2)"]
    assert "ExpressionError" in error["types"]
    assert error["message"].startswith(
        f"sampler 'uniform' is provided by uniform (distribution negplug {version('negplug')}) "
        f"and taken-name {BROKEN}; disable one with NEGPLUG_DISABLED_PLUGINS\n"
    )


def test_a_factory_that_builds_no_sampler_is_named(facts):
    error = facts["make"]["nothing()"]
    assert "TypeError" in error["types"]
    assert error["message"] == (
        f"nothing(): plugin no-sampler {BROKEN} gave NoneType, not NegativeSampler"
    )


def test_a_factory_that_fails_is_named(facts):
    error = facts["make"]["crashing()"]
    assert error["types"][0] == "PluginError"
    assert error["message"].startswith(
        f"plugin no-sampler {BROKEN} failed in crashing(): KeyError: "
    )


def test_a_value_that_a_sampler_refuses_is_its_own_error(facts):
    error = facts["make"]["nearest(num_negatives=2, similarity=3)"]
    assert error["types"][0] == "ValueError"
    assert error["message"] == "nearest: similarity must be from -1 to 1, got 3"
