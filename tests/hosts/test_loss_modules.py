"""What an adapter of a host of modules is made of, with a host of three classes."""

from __future__ import annotations

import sys
from types import ModuleType

import naive
import pytest
import torch
from torch import nn

from negplug import accumulated
from negplug.contract.batch import ContrastiveBatch
from negplug.hosts.injection import Injection
from negplug.hosts.loss_modules import KnownLoss, LossModules
from negplug.hosts.treatment import Treatment
from negplug.objectives.infonce import InfoNCE


class NTXent(nn.Module):
    def __init__(self, temperature=0.2):
        super().__init__()
        self.temperature = temperature

    def forward(self, z_i, z_j):
        return self.compare([z_i, z_j])

    def compare(self, views):
        return naive.simclr(views, self.temperature)


class Around(nn.Module):
    def __init__(self, loss):
        super().__init__()
        self.loss = loss


def ntxent(call, views):
    batch = ContrastiveBatch.from_views(tuple(views), **call.known_of(views[0]))
    return call.contrast(batch, objective=InfoNCE(), temperature=call.loss.temperature)


def host_of(**changed):
    known = {"treated": ntxent, "note": "every sampler", "method": "compare"} | changed
    losses = {"NTXent": KnownLoss(**known)}
    refused = {"Margin": "it has margins"}
    return LossModules("made-up", "made_up_host", losses, refused, wrappers=("Around",))


@pytest.fixture(autouse=True)
def made_up(monkeypatch):
    module = ModuleType("made_up_host")
    module.NTXent, module.Margin = NTXent, type("Margin", (nn.Module,), {})
    monkeypatch.setitem(sys.modules, "made_up_host", module)
    monkeypatch.setattr(Around, "__module__", "made_up_host.wrappers")
    return module


def treat(model, host=None, sampler="in_batch()"):
    sites = list((host or host_of()).sites(model))
    treatment = Treatment.of(sampler)
    return Injection(sites, [treatment.at(site) for site in sites])


def test_a_method_that_is_given_a_list_is_covered_and_uncovered():
    z, loss = naive.embeddings(2, 6), NTXent()
    wanted = naive.gradients(loss(*z), z)
    with treat(nn.ModuleList([loss])) as handle:
        assert naive.relative(naive.gradients(loss(*z), z), wanted) < 1e-9
        assert handle.losses["0"].calls == 1
    assert "compare" not in vars(loss)


def test_a_loss_in_a_wrapper_has_the_name_of_the_wrapper():
    inner = nn.ModuleDict({"criterion": Around(NTXent()), "other": NTXent()})
    names = [site.name for site in host_of().sites(inner)]
    assert names == ["criterion", "other"]


def test_an_evaluation_is_the_host_s():
    z, loss = naive.embeddings(2, 6), NTXent()
    with treat(loss, sampler="uniform(num_negatives=2)"), torch.no_grad():
        assert loss.eval()(*z) == NTXent()(*z)


def test_micro_batches_of_rows_that_lie_view_after_view_are_joined():
    def of_views(call, z_i, z_j):
        return ntxent(call, [*z_i.chunk(2)])

    torch.manual_seed(0)
    net, loss, views = nn.Linear(6, 8), NTXent(), torch.randn(2, 12, 6).unbind()

    def step(batch):
        z = torch.cat([net(view) for view in batch])
        return loss(z, z.detach())

    found = []
    with treat(loss, host_of(treated=of_views, method="forward")) as handle:
        for run in (step, accumulated(step, 3, model=net, loss=handle)):
            net.zero_grad()
            value = run(views)
            value.backward()
            found.append((value.detach(), net.weight.grad.clone()))
    torch.testing.assert_close(found[1], found[0], rtol=1e-4, atol=1e-6)


class Overriding(NTXent):
    def compare(self, views):
        return super().compare(views)


def other_arguments(call, first, second):
    return first


@pytest.mark.parametrize(
    ("loss", "changed", "why"),
    [
        (Overriding, {}, "overrides the compare of NTXent, so its loss is not known"),
        (NTXent, {"parts": ("gone",)}, "NTXent has no method gone, as this adapter expects"),
        (NTXent, {"treated": other_arguments}, "compare takes .*views.*, not .*first"),
        (NTXent, {"attributes": ("scale",)}, "it has no scale, as this adapter"),
        (NTXent, {"refusal": lambda loss, around: "it is odd"}, "cannot be treated: it is odd"),
    ],
)
def test_what_cannot_be_treated_says_why(loss, changed, why):
    with pytest.raises(ValueError, match=f"made-up .*{why}"):
        treat(loss(), host_of(**changed))


def test_a_refused_class_is_named(made_up):
    with pytest.raises(ValueError, match=r"'Margin' cannot be treated: it has margins.*ignore="):
        treat(made_up.Margin())


def test_twice_is_an_error():
    loss = NTXent()
    with treat(loss), pytest.raises(ValueError, match="is treated already"):
        treat(loss)


def test_a_host_that_is_not_there_has_no_losses(monkeypatch):
    monkeypatch.delitem(sys.modules, "made_up_host")
    assert not list(host_of().sites(NTXent()))
    assert not list(host_of().report())


@pytest.mark.parametrize(
    "batch",
    [
        {"views": [{"image": torch.zeros(3), "label": torch.arange(3)}]},
        {"one": {"label": torch.arange(3)}, "two": {"label": torch.arange(3)}},
        {"image": torch.zeros(3), "labels": torch.arange(3)},
    ],
)
def test_labels_of_batches_that_are_mappings(batch):
    (site,) = host_of().sites(NTXent())
    assert site.labels(batch).tolist() == [0, 1, 2]
    assert site.labels([torch.zeros(3)]) is None
