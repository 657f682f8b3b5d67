"""A plugin that is only installed changes no recipe: what it changes is put back and named."""

from __future__ import annotations

import logging
import os
import random
import warnings
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest
import torch

from negplug.contract.hookspecs import SamplerSpec, hookimpl
from negplug.contract.provenance import PluginError, PluginInfo
from negplug.plugins import PluginWarning, build, manager
from negplug.plugins.manager import Plugins, Provided
from negplug.plugins.records import checked, hook_names

OTHER = PluginInfo("meddler", "meddling", "3")


def plugin(hook):
    made = ModuleType(OTHER.name)
    made.negplug_samplers = hookimpl(hook)
    return made


def plugins_with(monkeypatch, load) -> Plugins:
    """Load all plugins and one more, whose import does what `load` does."""
    ours, damaged = manager.entry_points()
    theirs = (SimpleNamespace(name=OTHER.name, load=load), OTHER.distribution, OTHER.version)
    monkeypatch.setattr(manager, "entry_points", lambda: ([theirs, *ours], damaged))
    return Plugins()


CHANGES = {
    "torch's default dtype": lambda: torch.set_default_dtype(torch.float64),
    "torch's default device": lambda: torch.set_default_device("meta"),
    "whether torch records gradients": lambda: torch.set_grad_enabled(False),
    "whether torch is deterministic": lambda: torch.use_deterministic_algorithms(True),
    "torch's precision of float32 products": lambda: torch.set_float32_matmul_precision("high"),
    "how cuDNN chooses its algorithms": lambda: setattr(torch.backends.cudnn, "benchmark", True),
    "torch's number of threads": lambda: torch.set_num_threads(torch.get_num_threads() + 1),
    "what logging leaves out": lambda: logging.disable(logging.CRITICAL),
    "the working directory": lambda: os.chdir("/"),
    "which warnings are errors": lambda: warnings.simplefilter("error"),
}


@pytest.mark.parametrize("what", CHANGES)
@pytest.mark.parametrize("fails", [False, True])
def test_a_setting_is_put_back_and_named(monkeypatch, what, fails):
    def load():
        CHANGES[what]()
        if fails:
            raise LookupError("and it fails")
        return plugin(lambda: ())

    def now():
        errors = [entry for entry in warnings.filters if entry[0] == "error"]
        return (
            *(torch.get_default_dtype(), torch.get_default_device(), torch.is_grad_enabled()),
            *(torch.are_deterministic_algorithms_enabled(), logging.root.manager.disable),
            *(torch.get_float32_matmul_precision(), torch.backends.cudnn.benchmark),
            *(torch.get_num_threads(), os.getcwd(), errors),
        )

    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        before = now()
        found = plugins_with(monkeypatch, load)
        assert now() == before
    said = [str(warning.message) for warning in caught if warning.category is PluginWarning]
    assert f"plugin {OTHER} changed {what} at import; negplug has put that back" in said[0]
    assert len(said) == 1 + fails
    assert {info.status for info in found.plugins if info.name != OTHER.name} == {"active"}


@pytest.mark.filterwarnings("ignore")
def test_operations_that_are_to_warn_do_not_raise_afterwards(monkeypatch):
    before = torch.get_deterministic_debug_mode()
    torch.use_deterministic_algorithms(True, warn_only=True)
    try:
        plugins_with(monkeypatch, lambda: torch.use_deterministic_algorithms(False))
        assert torch.is_deterministic_algorithms_warn_only_enabled()
    finally:
        torch.set_deterministic_debug_mode(before)


def test_the_generators_stay_where_they_were(monkeypatch):
    def draws():
        return [random.random(), float(np.random.rand()), float(torch.rand(()))]

    def load():
        draws()
        torch.manual_seed(3)
        return plugin(lambda: draws() and ())

    def seeded():
        random.seed(7)
        np.random.seed(7)
        torch.manual_seed(7)

    seeded()
    expected = draws()
    seeded()
    plugins_with(monkeypatch, load)
    assert draws() == expected


class Unshowable:
    def __repr__(self):
        raise ValueError("no words")


def unshowable(a=Unshowable()):  # noqa: B008
    """Build nothing."""


@pytest.mark.parametrize(
    ("record", "reason"),
    [
        (SamplerSpec(3, dict, ""), "name must be a string, got 3"),
        (SamplerSpec("mine", dict, None), "summary must be a string, got None"),
        (SamplerSpec("mine", dict, "", b"x"), "paper must be a string, got b'x'"),
        (SamplerSpec("lambda", dict, ""), "the name 'lambda' is no identifier"),
        (SamplerSpec("mine", unshowable, ""), "no words"),
    ],
)
def test_a_record_that_no_listing_can_show_is_refused(record, reason):
    with pytest.raises((TypeError, ValueError), match=reason):
        checked("negplug_samplers", [record])


class Everything:
    def __eq__(self, other):
        return True


@pytest.mark.parametrize("thing", [np.zeros(2), Everything()])
def test_what_cannot_be_told_from_others_is_no_plugin(monkeypatch, thing):
    with pytest.raises(TypeError, match="does not compare as one object does"):
        hook_names(Plugins()._manager, thing)


@pytest.mark.parametrize("thing", [np.zeros(2), torch.zeros(2), Everything(), None, 3])
def test_any_object_is_left_out_and_hurts_no_other_plugin(monkeypatch, thing):
    with pytest.warns(PluginWarning, match=r"meddler \(distribution meddling 3\) failed at regist"):
        found = plugins_with(monkeypatch, lambda: thing)
    assert {info.status for info in found.plugins if info.name != OTHER.name} == {"active"}


def test_a_factory_that_leaves_ends_no_command_as_if_all_were_well():
    def leave():
        raise SystemExit(0)

    with pytest.raises(PluginError, match=r"plugin meddler .* failed in mine\(\): SystemExit"):
        build._built(Provided(SamplerSpec("mine", leave, ""), OTHER), [], {})
