"""Canaries of the installed solo-learn: each private thing exists and does what we rely on.

A failure names solo-learn, its version and what changed; see ``negplug_solo.private``.
"""

from __future__ import annotations

import re
import sys
from types import FunctionType, ModuleType

import hosts
import pytest
import torch

GENERATION = hosts.solo_generation()
if GENERATION is None:
    pytest.skip("solo-learn is not installed in this environment", allow_module_level=True)

from negplug_solo import private  # noqa: E402

from negplug.contract.provenance import installed_version  # noqa: E402

pytestmark = pytest.mark.filterwarnings("ignore")

# Method: its loss functions, what each takes, and the helper with which it gathers.
IN_MAIN = {
    "SimCLR": {"simclr_loss_func": ("z, indexes, temperature", "gather")},
    "SupCon": {"simclr_loss_func": ("z, indexes, temperature", "gather")},
    "MoCoV2Plus": {"mocov2plus_loss_func": ("query, key, queue, temperature", "")},
    "MoCoV3": {"mocov3_loss_func": ("query, key, temperature", "concat_all_gather_no_grad")},
    "NNCLR": {"nnclr_loss_func": ("nn, p, temperature", "gather")},
    "All4One": {"nnclr_loss_func": ("nn, p, temperature", "gather")},
    "ReSSL": {"ressl_loss_func": ("q, k, queue, temperature_q, temperature_k", "")},
}
PUBLISHED = {
    "SimCLR": {
        "simclr_loss_func": ("z1, z2, temperature, extra_pos_mask", ""),
        "manual_simclr_loss_func": ("z, pos_mask, neg_mask, temperature", ""),
    },
    "MoCoV2Plus": {"moco_loss_func": ("query, key, queue, temperature", "")},
    "NNCLR": {"nnclr_loss_func": ("nn, p, temperature", "")},
    "ReSSL": {"ressl_loss_func": ("q, k, queue, temperature_q, temperature_k", "")},
}
METHODS = IN_MAIN if GENERATION == "main" else PUBLISHED
FUNCTIONS = [(name, function) for name, functions in METHODS.items() for function in functions]
HELPERS = ("gather", "concat_all_gather_no_grad")
QUEUES = ("MoCoV2Plus", "NNCLR", "All4One", "ReSSL")


def require(holds, what, reader):
    """Fail with the sentence that the library itself would say."""
    if not holds:
        pytest.fail(str(private.changed(what, reader)), pytrace=False)


def model_of(name, small_crops=0, **settings):
    settings |= {"queue_size": 24} if name in QUEUES else {}
    return hosts.solo_method(name, small_crops=small_crops, **settings)


def module_named(name):
    module = sys.modules.get(f"solo.methods.{name.lower()}")
    require(module is not None, f"there is no solo.methods.{name.lower()} any more", "module_of")
    return module


@pytest.mark.parametrize("name", METHODS)
def test_module_of(name):
    model = model_of(name)
    what = f"{name} is not defined in solo.methods.{name.lower()}"
    require(private.module_of(model, name) is module_named(name), what, "module_of")
    others = [other for other in METHODS if private.module_of(model, other)]
    # main's SupCon is a SimCLR no more than the others are.
    require(others == [name], f"{name} is also {', '.join(others)}", "module_of")


def test_method_classes():
    found = private.method_classes()
    for name in METHODS:
        require(name in found, f"METHODS has no {name} any more", "method_classes")


def test_own_queue_size():
    for name in ("MoCoV2Plus", "ReSSL"):
        what = f"{name} has no queue_size any more"
        require(private.own_queue_size(model_of(name)) == 24, what, "own_queue_size")
    assert private.own_queue_size(model_of("SimCLR")) is None


@pytest.mark.skipif(GENERATION != "1.0.2", reason="a flag of solo-learn 1.0.2")
def test_is_supervised():
    what = "SimCLR does not keep its flag supervised any more"
    for flag in (True, False):
        model = model_of("SimCLR", supervised=flag)
        require(private.is_supervised(model) is flag, what, "is_supervised")


@pytest.mark.parametrize(("name", "function"), FUNCTIONS)
def test_loss_form(name, function):
    module = module_named(name)
    there = hasattr(module, function)
    require(there, f"{module.__name__} has no {function} any more", "loss_form")
    parameters, helper = METHODS[name][function]
    found, gathers = private.loss_form(module, function, HELPERS)
    what = f"{function} takes ({', '.join(found)}), not ({parameters}) any more"
    require(", ".join(found) == parameters, what, "loss_form")
    what = (
        f"{function} gathers with {gathers or 'nothing'}, not with {helper or 'nothing'} any more"
    )
    require(gathers == helper, what, "loss_form")


def test_the_names_of_helpers():
    """A helper is recognised by its name, so a method that gathers has to show it."""
    seen = {
        name
        for module in list(sys.modules.values())
        if getattr(module, "__name__", "").startswith("solo.")
        for function in functions_in(module)
        for name in function.__code__.co_names
    }
    for helper in HELPERS if GENERATION == "main" else ("gather",):
        require(helper in seen, f"nothing in solo calls {helper} any more", "loss_form")


def functions_in(module):
    """Yield the functions and methods that a module defines."""
    for value in vars(module).values():
        inside = vars(value).values() if isinstance(value, type) else [value]
        yield from (f for f in inside if isinstance(f, FunctionType))


@pytest.mark.parametrize(("name", "function"), FUNCTIONS)
def test_swapped(name, function):
    """The method's own training step calls what is in the globals of its module."""
    small_crops = 2 if function == "manual_simclr_loss_func" else 0
    model, module, called = model_of(name, small_crops), module_named(name), []
    model.log = model.log_dict = lambda *args, **kwargs: None
    crops = [torch.randn(6, 3, 16, 16) for _ in range(2 + small_crops)]
    batch = [torch.arange(6), crops, torch.arange(6) % 3]
    own = getattr(module, function)

    def spy(*args, **kwargs):
        called.append(function)
        return own(*args, **kwargs)

    with private.swapped(module.__name__, {function: spy}):
        model.training_step(batch, 0)
    what = (
        f"{name}.training_step does not call {function} by its name in {module.__name__} any more"
    )
    require(called, what, "swapped")
    assert getattr(module, function) is own


# ------------------------------------------------------------------ what is said

VERSION = installed_version("solo-learn") or "(from source)"
SAID = re.escape(f"solo-learn {VERSION}: ")
END = r"relies on it, so use another version of solo-learn or of negplug$"


def test_a_function_that_is_gone_is_named_and_nothing_is_swapped(monkeypatch):
    module = module_named("SimCLR")
    monkeypatch.setattr(module, "another", len, raising=False)
    what = f"{SAID}{module.__name__} has no gone any more; negplug_solo.private.swapped {END}"
    with (
        pytest.raises(RuntimeError, match=what),
        private.swapped(module.__name__, {"another": print, "gone": print}),
    ):
        pass
    assert module.another is len


class Loss:
    """An object that is called, as a compiled extension's function is."""

    def __call__(self, z, temperature=0.1):
        return z.sum()


def test_a_loss_without_code_is_named():
    module = ModuleType("solo.methods.simclr")
    module.loss = Loss()
    what = f"{SAID}solo.methods.simclr.loss is no plain function"
    with pytest.raises(RuntimeError, match=what):
        private.loss_form(module, "loss", HELPERS)


def test_a_table_that_is_gone_is_named(monkeypatch):
    monkeypatch.delattr(sys.modules["solo.methods"], "METHODS")
    what = f"{SAID}solo.methods has no dictionary METHODS any more; .*method_classes {END}"
    with pytest.raises(RuntimeError, match=what):
        private.method_classes()


def test_a_canary_fails_with_the_sentence(monkeypatch):
    """One for each thing: what the installed solo-learn would look like, and what is said."""
    module = module_named("SimCLR")
    function = next(iter(METHODS["SimCLR"]))
    monkeypatch.setattr(module, function, lambda z, weight: z)
    with pytest.raises(pytest.fail.Exception, match=rf"{SAID}{function} takes \(z, weight\), not"):
        test_loss_form("SimCLR", function)
    monkeypatch.delattr(module, function)
    with pytest.raises(pytest.fail.Exception, match=rf"{SAID}.* has no {function} any more; "):
        test_loss_form("SimCLR", function)
    monkeypatch.delattr(module, "SimCLR")
    with pytest.raises(pytest.fail.Exception, match=rf"{SAID}SimCLR is not defined in solo"):
        test_module_of("SimCLR")
