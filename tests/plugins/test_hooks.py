"""Each hook, through a distribution that implements it."""

from __future__ import annotations

import inspect
import math
import textwrap
import types

import pluggy
import pytest

from negplug.contract import hookspecs
from negplug.contract.hookspecs import AdapterSpec, ComposerSpec, ObjectiveSpec, SamplerSpec

HOOKS = {
    "negplug_samplers": SamplerSpec,
    "negplug_objectives": ObjectiveSpec,
    "negplug_composers": ComposerSpec,
    "negplug_adapters": AdapterSpec,
}


def test_hook_negplug_samplers(samplers_json):
    (row,) = [row for row in samplers_json if row["name"] == "nearest"]
    assert row == {
        "kind": "sampler",
        "name": "nearest",
        "arguments": "num_negatives=…, similarity=0.5",
        "summary": "the nearest to a chosen similarity",
        "paper": "",
        "provider": "negplug-nearest 1.2.3",
    }


def test_hook_negplug_objectives(samplers_json, facts):
    (row,) = [row for row in samplers_json if row["name"] == "focal"]
    assert (row["kind"], row["provider"]) == ("objective", "negplug-toyhost 0.4.0")
    losses = facts["toyhost"]
    assert losses["focal(gamma=0)"] == pytest.approx(losses["infonce()"])
    assert 0 < losses["focal(gamma=2.0)"] < losses["infonce()"]


def test_hook_negplug_composers(samplers_json, facts):
    (row,) = [row for row in samplers_json if row["name"] == "apart"]
    assert (row["kind"], row["provider"]) == ("composer", "negplug-toyhost 0.4.0")
    assert facts["composed"] == [0, 2, 4, 6, 1, 3, 5, 7]


def test_hook_negplug_adapters(facts):
    losses, logits = facts["toyhost"], facts["logits"]
    assert losses["infonce()"] == pytest.approx(losses["before"])
    # One direction: row i against the two most similar rows that are not its partner.
    naive = []
    for i, row in enumerate(logits):
        negatives = sorted((s for j, s in enumerate(row) if j != i), reverse=True)[:2]
        total = sum(math.exp(s) for s in [row[i], *negatives])
        naive.append(math.log(total) - row[i])
    assert losses["hardest two"] == pytest.approx(sum(naive) / len(naive))
    assert losses["after"] == losses["before"]
    assert facts["restored"]


def test_the_hooks_are_the_specified_ones():
    marked = {name for name, value in vars(hookspecs).items() if hasattr(value, "negplug_spec")}
    assert marked == set(HOOKS)


@pytest.mark.parametrize("hook", HOOKS)
def test_every_hook_has_a_test(hook):
    assert f"test_hook_{hook}" in globals()


@pytest.mark.parametrize("hook", HOOKS)
def test_every_hook_has_an_example_that_works(hook):
    documentation = inspect.getdoc(getattr(hookspecs, hook))
    _, found, example = documentation.partition("Example::\n")
    assert found
    plugin = types.ModuleType("example")
    vars(plugin).update(vars(hookspecs))
    # What an author brings along: the factories and functions that the examples name.
    vars(plugin).update(
        dict.fromkeys(("Nearest", "Margin", "Sorted", "find_losses", "report_methods"), list)
    )
    before = set(vars(plugin)) - set(HOOKS)
    for specified in HOOKS:
        delattr(plugin, specified)
    exec(textwrap.dedent(example), vars(plugin))
    assert set(vars(plugin)) - before - {"__builtins__"} == {hook}
    manager = pluggy.PluginManager("negplug")
    manager.add_hookspecs(hookspecs)
    manager.register(plugin)
    manager.check_pending()
    (result,) = getattr(manager.hook, hook)()
    records = list(result)
    assert records
    assert all(type(record) is HOOKS[hook] for record in records)
