"""Classes that are declared to be a criterion: copies, and subclasses with a new forward."""

from __future__ import annotations

import naive
import pytest
import torch
from torch import nn

from negplug import inject
from negplug.hosts.watch import Watch

lightly_loss = pytest.importorskip("lightly.loss")

from negplug_lightly import declared, treat_as  # noqa: E402

HERE = __name__


class Copied(nn.Module):
    """A vendored copy: no attribute but the temperature, parameters of other names."""

    def __init__(self, temperature=0.2):
        super().__init__()
        self.temperature = temperature

    def forward(self, z_i, z_j):
        z = nn.functional.normalize(torch.cat([z_i, z_j]), dim=1)
        logits = (z @ z.T / self.temperature).fill_diagonal_(-torch.inf)
        return nn.functional.cross_entropy(logits, torch.arange(len(z)).roll(len(z_i)))


class Renamed(nn.Module):
    def __init__(self):
        super().__init__()
        self.tau = 0.2

    def forward(self, a, b, reduce=True):
        return lightly_loss.DCLLoss(self.tau)(a, b)


class Wrapped(lightly_loss.NTXentLoss):
    def forward(self, out0, out1):
        return super().forward(out0.float(), out1.float())


class OneTensor(nn.Module):
    temperature = 0.2

    def forward(self, features):
        return features.sum()


@pytest.fixture(autouse=True)
def undeclared(monkeypatch):
    monkeypatch.setattr(declared, "_by_function", {})


def test_a_copy_is_treated_as_what_it_is_a_copy_of(monkeypatch):
    monkeypatch.setenv("NEGPLUG_TREAT", f"{HERE}:Copied=ntxent, {HERE}:Wrapped=ntxent")
    z, criterion = naive.embeddings(2, 8), Copied()
    wanted = criterion(*z)
    with inject(criterion, "in_batch()") as handle:
        torch.testing.assert_close(criterion(*z), wanted)
        torch.testing.assert_close(criterion(z[0], z_j=z[1]), wanted)
        criterion.temperature = 0.5
        assert (criterion(*z) - wanted).abs() > 0.01
    assert handle.losses["Copied"].calls == 3
    with inject(nn.ModuleList([Wrapped()]), "uniform(num_negatives=3)") as handle:
        assert list(handle.losses) == ["0"]


def test_a_class_without_a_temperature_needs_one():
    treat_as(Renamed, "dcl")
    z = naive.embeddings(2, 8)
    with pytest.raises(ValueError, match=r"'Renamed' has no attribute temperature; say it with"):
        inject(Renamed(), "in_batch()")
    with inject(criterion := Renamed(), "in_batch()", temperature=0.2):
        ours = criterion(*z)
    with inject(theirs := lightly_loss.DCLLoss(0.2), "in_batch()", objective="decoupled()"):
        torch.testing.assert_close(ours, theirs(*z))


def test_the_watch_treats_it_in_a_plain_loop():
    treat_as(Copied, "ntxent")
    watching = Watch("uniform(num_negatives=3)")
    try:
        Copied()(*naive.embeddings(2, 8)).backward()
        assert watching.injections["Copied"].losses["Copied"].calls == 1
    finally:
        watching.stop()


def test_undeclared_the_refusal_says_how_to_declare_it():
    with pytest.raises(ValueError, match=rf"the forward .*NEGPLUG_TREAT={HERE}:Wrapped=ntxent"):
        inject(Wrapped(), "in_batch()")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("Copied=ntxent", "must be of the form pkg.module:Class=ntxent"),
        ("a.b:Copied=nxtent", "'a.b:Copied=nxtent' names no form of a loss; there are ntxent, dcl"),
        ("a.b:Copied", "names no form of a loss"),
    ],
)
def test_a_malformed_declaration(text, message, monkeypatch):
    monkeypatch.setenv("NEGPLUG_TREAT", text)
    with pytest.raises(ValueError, match=message):
        inject(Copied(), "in_batch()")


def test_what_is_not_called_with_two_views_is_refused():
    treat_as(OneTensor, "ntxent")
    with pytest.raises(ValueError, match="does not take the embeddings of two views"):
        inject(OneTensor(), "in_batch()")
    with pytest.raises(ValueError, match="names no form"):
        treat_as(OneTensor, "supcon")
