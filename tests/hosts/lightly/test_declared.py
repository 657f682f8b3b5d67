"""Classes that are declared to be a criterion: copies, and subclasses with a new forward."""

from __future__ import annotations

import armed
import hosts
import naive
import pytest
import torch
from torch import nn

from negplug import inject
from negplug.contract import declarations
from negplug.hosts.injection import NoLossFoundError

lightly_loss = pytest.importorskip("lightly.loss")

from negplug_lightly import treat_as  # noqa: E402

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


SCRIPT = """
import torch
from torch import nn

class Mine(nn.Module):
    temperature = 0.2

    def forward(self, one, two):
        one, two = nn.functional.normalize(one), nn.functional.normalize(two)
        return nn.functional.cross_entropy(one @ two.T / 0.2, torch.arange(len(one)))

layer = nn.Linear(4, 4)
Mine()(layer(torch.randn(8, 4)), layer(torch.randn(8, 4))).backward()
"""


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
    monkeypatch.setattr(declarations, "_always", {})


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


@pytest.mark.parametrize("treat", [f"{HERE}:Copied=ntxent", {f"{HERE}:Copied": "ntxent"}, "class"])
def test_an_argument_declares_it_for_one_model(treat):
    treat = {Copied: "ntxent"} if treat == "class" else treat
    model = nn.ModuleDict({"mine": Copied(), "theirs": lightly_loss.NTXentLoss()})
    with inject(model, "uniform(num_negatives=3)", treat=treat) as handle:
        assert set(handle.losses) == {"mine", "theirs"}
        model["mine"](*naive.embeddings(2, 8))
        assert handle.losses["mine"].calls == 1
    with inject(model, "uniform(num_negatives=3)") as handle:
        assert set(handle.losses) == {"theirs"}


def test_a_callback_takes_the_argument():
    module = hosts.recipe()
    module.criterion = Copied()
    control = hosts.negative_control()("uniform(num_negatives=3)", treat={Copied: "ntxent"})
    hosts.trainer(callbacks=[control]).fit(module, hosts.loader())
    assert control.injection.losses["criterion"].calls == 3


def test_what_an_argument_names_is_there():
    with pytest.raises(NoLossFoundError, match=r"treat names a\.b:Copied, but NTXentLoss has no"):
        inject(lightly_loss.NTXentLoss(), "in_batch()", treat="a.b:Copied=ntxent")
    with pytest.raises(ValueError, match="treat: 'Copied=ntxent' must be of the form"):
        inject(Copied(), "in_batch()", treat="Copied=ntxent")
    with pytest.raises(TypeError, match=r"treat must be .* or a mapping"):
        inject(Copied(), "in_batch()", treat=[Copied])
    with pytest.raises(ValueError, match="names no form of a loss; there are ntxent, dcl"):
        inject(Copied(), "in_batch()", treat={Copied: "simclr"})


def test_the_command_line_declares_it(tmp_path):
    (tmp_path / "script.py").write_text(SCRIPT)
    given = ("run", "--sampler", "uniform(num_negatives=3)", "--treat", "__main__:Mine=infonce")
    done = armed.run(tmp_path, "-m", "negplug", *given, "script.py")
    assert done.returncode == 0, done.stderr
    assert "negplug treats Mine" in done.stderr
    done = armed.run(tmp_path, "-m", "negplug", *given[:-1], "Mine", "script.py")
    assert done.returncode == 2
    assert "--treat: 'Mine' must be of the form pkg.module:Class=ntxent" in done.stderr
    done = armed.run(tmp_path, "-m", "negplug", *given[:-1], "__main__:Mine=simclr", "script.py")
    assert done.returncode == 2
    assert "names no form of a loss; there are ntxent, dcl, infonce, clip." in done.stderr
    assert "Traceback" not in done.stderr


def test_a_class_without_a_temperature_needs_one():
    treat_as(Renamed, "dcl")
    z = naive.embeddings(2, 8)
    with pytest.raises(ValueError, match=r"'Renamed' has no attribute temperature; say it with"):
        inject(Renamed(), "in_batch()")
    with inject(criterion := Renamed(), "in_batch()", temperature=0.2):
        ours = criterion(*z)
    with inject(theirs := lightly_loss.DCLLoss(0.2), "in_batch()", objective="decoupled()"):
        torch.testing.assert_close(ours, theirs(*z))


def test_the_watch_treats_it_in_a_plain_loop(watch):
    treat_as(Copied, "ntxent")
    watching, criterion = watch("uniform(num_negatives=3)"), Copied()
    criterion(*naive.embeddings(2, 8)).backward()
    assert watching.injections["Copied"].losses["Copied"].calls == 1


def test_undeclared_the_refusal_says_how_to_declare_it():
    with pytest.raises(ValueError, match=rf"the forward .*NEGPLUG_TREAT={HERE}:Wrapped=ntxent"):
        inject(Wrapped(), "in_batch()")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("Copied=ntxent", "must be of the form pkg.module:Class=ntxent"),
        ("a.b:Copied=nxtent", "'a.b:Copied=nxtent' names no form of a loss; there are ntxent, dcl"),
        ("a.b:Copied", "must be of the form pkg.module:Class=ntxent"),
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
