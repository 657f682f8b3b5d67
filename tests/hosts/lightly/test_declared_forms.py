"""What a declared class computes is compared with the form that it is declared to be."""

from __future__ import annotations

import naive
import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy, normalize

from negplug import inject
from negplug.contract import variables

pytest.importorskip("lightly.loss")


class OneDirection(nn.Module):
    def __init__(self, temperature=0.2):
        super().__init__()
        self.temperature = temperature
        self.register_buffer("calls", torch.zeros(()))

    def logits(self, q, k):
        self.calls += 1
        return normalize(q) @ normalize(k).T / self.temperature

    def forward(self, q, k):
        return cross_entropy(self.logits(q, k), torch.arange(len(q)))


class BothDirections(OneDirection):
    def forward(self, q, k):
        logits, own = self.logits(q, k), torch.arange(len(q))
        return (cross_entropy(logits, own) + cross_entropy(logits.T, own)) / 2


class BothViews(OneDirection):
    def forward(self, q, k):
        z = torch.cat([q, k])
        logits = self.logits(z, z).fill_diagonal_(-torch.inf)
        return cross_entropy(logits, torch.arange(len(z)).roll(len(q)))


class Scaled(OneDirection):
    def forward(self, q, k):
        return 3 * super().forward(q, k)


class Unreadable(nn.Module):
    def __init__(self):
        super().__init__()
        self.log_scale = nn.Parameter(torch.tensor(5.0).log())

    def forward(self, q, k):
        return cross_entropy(normalize(q) @ normalize(k).T * self.log_scale.exp(), _own(q))


class Noisy(OneDirection):
    def forward(self, q, k):
        return super().forward(q, k) + 0 * torch.rand(())


def _own(q):
    return torch.arange(len(q))


FORMS = [(OneDirection, "infonce"), (BothDirections, "clip"), (BothViews, "ntxent")]


def test_every_form_that_may_be_named_has_its_terms():
    from negplug_lightly.declared import TERMS

    assert tuple(TERMS) == variables.FORMS


@pytest.mark.parametrize(("kind", "form"), FORMS)
def test_in_batch_is_the_class_s_own_value_and_gradient(kind, form):
    z, criterion = naive.embeddings(2, 8), kind()
    wanted = criterion(*z)
    wanted_gradient = torch.autograd.grad(wanted, z)
    with inject(criterion, "in_batch()", treat={kind: form}):
        loss = criterion(*z)
        torch.testing.assert_close(loss, wanted)
        for ours, theirs in zip(torch.autograd.grad(loss, z), wanted_gradient, strict=True):
            torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize(("kind", "form"), FORMS)
@pytest.mark.parametrize("declared", ["ntxent", "dcl", "infonce", "clip"])
def test_another_form_is_refused_and_the_class_s_named(kind, form, declared):
    if declared == form:
        return
    with inject(criterion := kind(), "hard(num_negatives=3)", treat={kind: declared}):
        with pytest.raises(
            ValueError,
            match=rf"declared to be {declared}, but .*: it is {form}; "
            rf"declare .*{kind.__name__}={form}",
        ):
            criterion(*naive.embeddings(2, 8))


@pytest.mark.parametrize(("kind", "form"), FORMS)
@pytest.mark.parametrize("declared", ["ntxent", "dcl", "infonce", "clip"])
@pytest.mark.parametrize("dtype", [None, torch.bfloat16])
def test_forms_are_told_apart_in_a_large_batch_of_views_that_have_little_in_common(
    kind, form, declared, dtype
):
    z = torch.randn(2, 512, 64, generator=torch.Generator().manual_seed(5)).requires_grad_()
    autocast = torch.autocast("cpu", dtype, enabled=dtype is not None)
    with inject(criterion := kind(0.5), "in_batch()", treat={kind: declared}), autocast:
        if declared == form:
            criterion(*z)
            return
        with pytest.raises(ValueError, match=rf"declared to be {declared}, but .*: it is {form}"):
            criterion(*z)


def test_a_class_that_writes_into_its_rows_leaves_the_recipe_s_alone():
    class InPlace(OneDirection):
        def logits(self, q, k):
            return super().logits(q.div_(7), k)

    z = [rows.detach() + 0 for rows in naive.embeddings(2, 8)]
    before = z[0].clone()
    with inject(criterion := InPlace(), "in_batch()", treat={InPlace: "infonce"}):
        criterion(*z)
    assert torch.equal(z[0], before)


def test_a_value_of_no_form_is_refused():
    with inject(criterion := Scaled(), "in_batch()", treat={Scaled: "infonce"}):
        with pytest.raises(ValueError, match=r"no other form .*use negplug.ContrastiveLoss"):
            criterion(*naive.embeddings(2, 8))


def test_a_temperature_that_cannot_be_read_is_found(caplog):
    z = naive.embeddings(2, 8)
    wanted = Unreadable()(*z)
    with inject(
        criterion := Unreadable(), "in_batch()", temperature=0.2, treat={Unreadable: "infonce"}
    ):
        torch.testing.assert_close(criterion(*z), wanted)
    assert not caplog.records
    with inject(
        criterion := Unreadable(), "in_batch()", temperature=0.5, treat={Unreadable: "infonce"}
    ):
        criterion(*z)
    assert "is infonce at the temperature 0.2, and is treated at the one" in caplog.text
    with inject(
        criterion := Unreadable(), "in_batch()", temperature=0.5, treat={Unreadable: "ntxent"}
    ):
        with pytest.raises(ValueError, match=r"it is infonce at the temperature 0\.2"):
            criterion(*z)


def test_the_comparison_leaves_no_trace_and_is_made_once():
    criterion, z = Noisy(), naive.embeddings(2, 8)
    torch.manual_seed(3)
    wanted = torch.rand(2)
    torch.manual_seed(3)
    with inject(criterion, "in_batch()", treat={Noisy: "infonce"}):
        criterion(*z)
        torch.testing.assert_close(torch.rand(2), wanted)
        criterion.forward._compared = False
        criterion(*z)
        assert criterion.calls == 0
        criterion.logits = None  # what would be needed for another comparison
        criterion(*z)


def test_a_precision_that_a_backend_has_of_its_own_is_no_hindrance():
    own = torch.backends.cuda.matmul
    if not hasattr(own, "fp32_precision"):
        pytest.skip("came with torch 2.9")
    z = naive.embeddings(2, 8)
    own.fp32_precision = "tf32"
    try:
        with inject(criterion := OneDirection(), "in_batch()", treat={OneDirection: "infonce"}):
            torch.testing.assert_close(criterion(*z), OneDirection()(*z))
    finally:
        torch.set_float32_matmul_precision("highest")
