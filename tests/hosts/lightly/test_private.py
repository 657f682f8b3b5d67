"""Canaries of the installed Lightly: each private thing exists and does what we rely on.

A failure names Lightly, its version and what changed; see ``negplug_lightly.private``.
"""

from __future__ import annotations

import functools
import re
from importlib.metadata import version

import pytest
import torch

loss = pytest.importorskip("lightly.loss", reason="Lightly is not installed in this environment")

from lightly.loss import dcl_loss  # noqa: E402
from negplug_lightly import private  # noqa: E402

from negplug import inject  # noqa: E402

# The criteria that may have a bank.
BANKED = {
    "NTXentLoss": loss.NTXentLoss,
    "DirectCLRLoss": functools.partial(loss.DirectCLRLoss, loss_dim=8),
}
# Criterion: the methods that make up its loss.
METHODS = {
    "NTXentLoss": ("forward",),
    "DCLLoss": ("forward", "_loss"),
    "DCLWLoss": ("forward", "_loss"),
    "MACLLoss": ("forward",),
    "DirectCLRLoss": ("forward",),
}


def require(holds, what, reader):
    """Fail with the sentence that the library itself would say."""
    if not holds:
        pytest.fail(str(private.changed(what, reader)), pytrace=False)


@pytest.mark.parametrize("name", BANKED)
@pytest.mark.parametrize("keys", [0, 32])
def test_bank_size(name, keys):
    criterion = BANKED[name](memory_bank_size=(keys, 8) if keys else 0)
    there = hasattr(criterion, "memory_bank")
    require(there, f"{name} has no memory_bank any more", "bank_size")
    found = private.bank_size(criterion)
    require(found == keys, f"a memory bank of {keys} keys says {found}", "bank_size")
    _, bank = criterion.memory_bank(torch.randn(4, 8))
    held = 0 if bank is None else bank.shape[1]
    require(held == found, f"a memory bank that says {found} holds {held} keys", "bank_size")


def test_a_criterion_without_a_bank():
    assert private.bank_size(loss.DCLLoss()) == 0


@pytest.mark.parametrize("name", BANKED)
def test_a_bank_makes_the_loss_one_of_negatives_from_it(name):
    """With a bank the keys of the batch are no negatives, so the two arguments are no views."""
    criterion, z = BANKED[name](memory_bank_size=(16, 8)), torch.randn(2, 4, 8)
    with torch.no_grad():
        wanted, swapped = criterion(*z), criterion(z[1], z[0])
        rows = [criterion(a[None], b[None]) for a, b in zip(*z, strict=True)]
    what = f"{name} with a memory bank compares the rows of the batch with each other"
    require(torch.allclose(wanted, torch.stack(rows).mean()), what, "bank_size")
    what = f"{name} with a memory bank takes both arguments as queries"
    require(not torch.allclose(wanted, swapped), what, "bank_size")


@pytest.mark.parametrize(("name", "method"), [(n, m) for n in METHODS for m in METHODS[n]])
def test_overridden(name, method):
    base = getattr(loss, name)
    assert private.overridden(base, base, METHODS[name]) is None
    own = type("Mine", (base,), {method: lambda self, *args: None})
    assert private.overridden(own, base, METHODS[name]) == method


@pytest.mark.parametrize("name", ["DCLLoss", "DCLWLoss"])
def test_all_of_a_loss_is_in_the_methods_that_are_compared(name):
    criterion, called = getattr(loss, name)(), []

    def spy(*args, **kwargs):
        called.append(args)
        return type(criterion)._loss(criterion, *args, **kwargs)

    vars(criterion)["_loss"] = spy
    criterion(*torch.randn(2, 4, 8))
    require(called, f"the forward of {name} does not call its _loss any more", "overridden")


def test_mises_fisher_sigma():
    known = dcl_loss.negative_mises_fisher_weights
    weights = loss.DCLWLoss(sigma=0.3).weight_fn
    sigma = private.mises_fisher_sigma(weights)
    what = f"DCLWLoss(sigma=0.3) has the weight_fn {weights!r}, of sigma {sigma}"
    require(sigma == 0.3, what, "mises_fisher_sigma")
    assert private.mises_fisher_sigma(functools.partial(known, sigma=0.2)) == 0.2
    assert private.mises_fisher_sigma(known) > 0
    assert private.mises_fisher_sigma(lambda a, b: a.sum(1)) is None
    assert private.mises_fisher_sigma(functools.partial(torch.add, alpha=2)) is None
    z = torch.nn.functional.normalize(torch.randn(2, 6, 8), dim=-1)
    # One weight per row, falling with the similarity of its views, of mean 1.
    wanted = 2 - 6 * ((z[0] * z[1]).sum(1) / 0.3).softmax(0)
    what = "the von Mises–Fisher weights follow another formula"
    require(torch.allclose(weights(*z), wanted), what, "mises_fisher_sigma")


# ------------------------------------------------------------------ what is said

SAID = re.escape(f"lightly {version('lightly')}: ")
END = r"relies on it, so use another version of lightly or of negplug$"


@pytest.mark.parametrize("size", [32, (), ("32", 8), None])
def test_a_bank_without_a_size_is_named(size):
    criterion = loss.NTXentLoss(memory_bank_size=(32, 8))
    criterion.memory_bank.size = size
    what = rf"{SAID}the memory bank of NTXentLoss has the size {re.escape(repr(size))}, no sequence"
    with pytest.raises(RuntimeError, match=rf"{what} of integers; .*\.bank_size {END}"):
        inject(criterion, "queue()")


def test_a_bank_without_the_attribute_is_named():
    criterion = loss.NTXentLoss(memory_bank_size=(32, 8))
    del criterion.memory_bank.size
    with pytest.raises(
        RuntimeError, match=f"{SAID}the memory bank of NTXentLoss has the size None"
    ):
        private.bank_size(criterion)


def test_a_method_that_is_gone_is_named(monkeypatch):
    # DCLWLoss has it from DCLLoss.
    monkeypatch.delattr(loss.DCLLoss, "_loss")
    what = (
        rf"{SAID}DCLWLoss has no method _loss any more; negplug_lightly\.private\.overridden {END}"
    )
    with pytest.raises(RuntimeError, match=what):
        inject(loss.DCLWLoss(), "in_batch()")


def test_weights_that_are_gone_are_named(monkeypatch):
    criterion = loss.DCLWLoss()
    monkeypatch.delattr(dcl_loss, "negative_mises_fisher_weights")
    what = rf"{SAID}lightly\.loss\.dcl_loss has no negative_mises_fisher_weights any more; .* {END}"
    with pytest.raises(RuntimeError, match=what):
        inject(criterion, "in_batch()")


def test_weights_of_another_parameter_are_named(monkeypatch):
    def changed(out0, out1, scale=0.5):
        return out0.sum(1)

    monkeypatch.setattr(dcl_loss, "negative_mises_fisher_weights", changed)
    what = rf"{SAID}negative_mises_fisher_weights has no sigma with a default any more; .* {END}"
    with pytest.raises(RuntimeError, match=what):
        inject(loss.DCLLoss(weight_fn=changed), "in_batch()")


def test_a_canary_fails_with_the_sentence(monkeypatch):
    monkeypatch.setitem(BANKED, "NTXentLoss", lambda memory_bank_size: loss.DCLLoss())
    with pytest.raises(pytest.fail.Exception, match=rf"{SAID}NTXentLoss has no memory_bank any"):
        test_bank_size("NTXentLoss", 32)
    monkeypatch.setattr(loss.DCLLoss, "forward", lambda self, out0, out1: out0.sum())
    what = rf"{SAID}the forward of DCLLoss does not call its _loss any more"
    with pytest.raises(pytest.fail.Exception, match=what):
        test_all_of_a_loss_is_in_the_methods_that_are_compared("DCLLoss")
