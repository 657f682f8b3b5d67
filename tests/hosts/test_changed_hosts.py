"""Canaries: a host that changed under an adapter is named, before a step is trained.

Each takes a piece of the installed host away, or puts another in its place, and reads the error.
Those of loss functions' parameters in solo-learn are in ``solo/test_treatment.py`` and, for most
methods, ``solo/test_methods.py``; that nothing has changed so far is what the parity tests say.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys

import hosts
import pytest

from negplug import inject

GENERATION = hosts.solo_generation()
HAS_LIGHTLY = importlib.util.find_spec("lightly") is not None
if not (HAS_LIGHTLY or GENERATION):
    pytest.skip("no host is installed", allow_module_level=True)

lightly_only = pytest.mark.skipif(not HAS_LIGHTLY, reason="of Lightly")
solo_only = pytest.mark.skipif(GENERATION is None, reason="of solo-learn")
pytestmark = pytest.mark.filterwarnings("ignore")

# ------------------------------------------------------------------ Lightly

OUT, Z = "['self', 'out0', 'out1']", "['self', 'z0', 'z1']"
# Criterion: the parameters of its forward, what makes up its loss, what the adapter reads.
CRITERIA = {
    "NTXentLoss": (OUT, ["forward"], ["temperature", "gather_distributed", "memory_bank"]),
    "DCLLoss": (OUT, ["forward", "_loss"], ["temperature", "gather_distributed", "weight_fn"]),
    "DCLWLoss": (OUT, ["forward", "_loss"], ["temperature", "gather_distributed", "weight_fn"]),
    "MACLLoss": (Z, ["forward"], ["temperature", "alpha", "A_0", "eps"]),
    "DirectCLRLoss": (
        OUT,
        ["forward"],
        ["temperature", "gather_distributed", "memory_bank", "loss_dim"],
    ),
}


def criterion(name, kind=None):
    kind = kind or getattr(importlib.import_module("lightly.loss"), name)
    return kind(loss_dim=4) if name == "DirectCLRLoss" else kind()


@lightly_only
@pytest.mark.parametrize("name", CRITERIA)
def test_a_forward_with_other_parameters(name, monkeypatch):
    expected, _, _ = CRITERIA[name]
    changed = criterion(name)
    monkeypatch.setattr(type(changed), "forward", lambda self, out0, weights: None)
    with pytest.raises(ValueError, match=r"^lightly [\d.]+ ") as error:
        inject(changed, "in_batch()")
    wanted = f"{name}: forward takes ['self', 'out0', 'weights'], but this adapter expects "
    assert wanted + expected in str(error.value)


@lightly_only
@pytest.mark.parametrize(("name", "method"), [(n, m) for n in CRITERIA for m in CRITERIA[n][1]])
def test_a_subclass_with_a_loss_of_its_own(name, method):
    base = getattr(importlib.import_module("lightly.loss"), name)
    theirs = getattr(base, method)
    own = type("Mine", (base,), {method: lambda self, *args: 2 * theirs(self, *args)})
    with pytest.raises(ValueError, match=rf"^lightly [\d.]+ Mine: .* the {method} of {name}, so"):
        inject(criterion(name, own), "in_batch()")


@lightly_only
@pytest.mark.parametrize(("name", "lost"), [(n, a) for n in CRITERIA for a in CRITERIA[n][2]])
def test_an_attribute_that_is_gone(name, lost):
    changed = criterion(name)
    delattr(changed, lost)
    wanted = rf"^lightly [\d.]+ {name}: '{name}' has no {lost}, which this adapter expects"
    with pytest.raises(ValueError, match=wanted):
        inject(changed, "in_batch()")
    assert "forward" not in vars(changed)


# ------------------------------------------------------------------ solo-learn

# Method: its loss function and parameters in this generation, and whether it gathers over ranks.
if GENERATION == "main":
    SOLO = {
        "SimCLR": ("simclr_loss_func", "z, indexes, temperature", "gather"),
        "SupCon": ("simclr_loss_func", "z, indexes, temperature", "gather"),
        "MoCoV2Plus": ("mocov2plus_loss_func", "query, key, queue, temperature", None),
        "MoCoV3": ("mocov3_loss_func", "query, key, temperature", "concat_all_gather_no_grad"),
        "ReSSL": ("ressl_loss_func", "q, k, queue, temperature_q, temperature_k", None),
    }
else:
    SOLO = {
        "SimCLR": ("simclr_loss_func", "z1, z2, temperature, extra_pos_mask", None),
        "MoCoV2Plus": ("moco_loss_func", "query, key, queue, temperature", None),
        "ReSSL": ("ressl_loss_func", "q, k, queue, temperature_q, temperature_k", None),
    }
# NNCLR's is the other generation's if it does not gather, and known as such.


def solo_model(name):
    return hosts.solo_method(name, **({"queue_size": 8} if name in ("MoCoV2Plus", "ReSSL") else {}))


def function_of(parameters, helper):
    """A function with these parameters that mentions ``helper``."""
    found = {}
    exec(f"def changed({parameters}): return {helper}", {helper: None}, found)
    return found["changed"]


def refused(name, function, changed, monkeypatch):
    """What injecting says once the method's module has another function."""
    model = solo_model(name)
    monkeypatch.setattr(sys.modules[f"solo.methods.{name.lower()}"], function, changed)
    with pytest.raises(ValueError, match=rf"^solo-learn \S.* {name}: {function} takes") as error:
        inject(model, "in_batch()")
    assert "training_step" not in vars(model)
    return str(error.value)


@solo_only
@pytest.mark.parametrize("name", SOLO)
def test_the_same_parameters_gathered_otherwise(name, monkeypatch):
    function, parameters, gathers = SOLO[name]
    changed = function_of(parameters, "None" if gathers else "gather")
    message = refused(name, function, changed, monkeypatch)
    now = "does not gather" if gathers else "gathers with gather"
    assert f"takes ({parameters}) and {now}, but this adapter expects (" in message
    assert (f"gathers with {gathers}" if gathers else "does not gather") in message.split("but")[1]


@solo_only
@pytest.mark.parametrize("name", SOLO)
def test_a_parameter_more(name, monkeypatch):
    function, parameters, gathers = SOLO[name]
    changed = function_of(f"{parameters}, weight", gathers)
    message = refused(name, function, changed, monkeypatch)
    assert f"takes ({parameters}, weight) and" in message
    assert f"({parameters}) and" in message.split("but this adapter expects")[1]


@solo_only
@pytest.mark.skipif(GENERATION != "1.0.2", reason="of solo-learn 1.0.2")
def test_the_function_of_many_crops(monkeypatch):
    changed = function_of("z, pos_mask", None)
    message = refused("SimCLR", "manual_simclr_loss_func", changed, monkeypatch)
    assert "but this adapter expects (z, pos_mask, neg_mask, temperature)" in message


@solo_only
def test_without_any_function_of_moco(monkeypatch):
    model = solo_model("MoCoV2Plus")
    module = sys.modules["solo.methods.mocov2plus"]
    monkeypatch.delattr(module, SOLO["MoCoV2Plus"][0])
    wanted = "MoCoV2Plus: solo.methods.mocov2plus has no mocov2plus_loss_func, which this adapter"
    with pytest.raises(ValueError, match=wanted):
        inject(model, "in_batch()")


@solo_only
def test_a_method_that_is_gone_leaves_the_others(monkeypatch):
    model, gone = solo_model("SimCLR"), solo_model("ReSSL")
    monkeypatch.delattr(sys.modules["solo.methods.ressl"], "ReSSL")
    inject(model, "in_batch()").remove()
    with pytest.raises(ValueError, match="no known contrastive loss found in"):
        inject(gone, "in_batch()")
